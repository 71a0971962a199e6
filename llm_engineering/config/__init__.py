"""What a run is asked to do: one YAML, one pydantic tree. Free of torch and of the orchestrator."""

from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import load_config

__all__ = ["RunConfig", "load_config"]
