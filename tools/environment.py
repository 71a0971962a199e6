"""What keeps libraries calm and off the network; set before any of them is imported.

Everything here is a default: what the user has set in the environment stays.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_engineering.config.run import RunConfig

_CALM = {
    "AUTO_OPEN_DASHBOARD": "false",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_ERROR_TRACKING_ENABLE": "false",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "ZENML_ANALYTICS_OPT_IN": "false",
    "ZENML_ENABLE_RICH_TRACEBACK": "false",
    "ZENML_LOGGING_COLORS_DISABLED": "true",
    "ZENML_LOGGING_VERBOSITY": "INFO",
    "ZENML_PARAMETER_SIZE_THRESHOLD": "-1",  # steps of dynamic pipelines take parameters, as those of static ones do
}


def keep_calm() -> None:
    """Set what no configuration changes."""
    for name, value in _CALM.items():
        os.environ.setdefault(name, value)


def set_environment(config: "RunConfig") -> None:
    """Set the defaults; the hub is switched off unless the configuration names something that may lie there."""
    keep_calm()
    if not _may_need_hub(config):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _may_need_hub(config: "RunConfig") -> bool:
    from llm_engineering.config.data import HubSource

    base = config.model.base
    base_is_local = base == "embedded" or "@" in base or Path(base).exists()
    fetches_tasks = config.evaluation.harness is not None and config.evaluation.harness.hub
    return (
        fetches_tasks
        or not base_is_local
        or config.export.hub is not None
        or any(isinstance(source, HubSource) for _, source in config.data.row_sources)
    )
