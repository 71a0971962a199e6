"""What ZenML is told of a stack's machines, image and retries when a pipeline is submitted."""

from pathlib import Path
from typing import Any

from zenml.config import DockerSettings
from zenml.config.retry_config import StepRetryConfig

from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.model import QloraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.stacks import Machine, StackConfig
from llm_engineering.errors import ConfigError
from llm_engineering.requirements import image_tag, tag_of
from steps.runtime.traits import gpu_steps

SAGEMAKER_SDK = Path(__file__).with_name("sagemaker_sdk.yaml")
"""What the SageMaker SDK reads beside a user's own settings; it turns the SDK's telemetry off."""


def run_options(config: StackConfig) -> dict[str, Any]:
    """Return options of ``pipeline.with_options``: machines step by step, image, environment, secrets, retries.

    ZenML ignores what is said of steps that a pipeline lacks.
    """
    on_gpu: dict[str, Any] = {"settings": _settings(config.gpu)}
    if config.step_operator is not None:
        on_gpu["step_operator"] = True
    options: dict[str, Any] = {
        "settings": _settings(config.cpu),
        "steps": dict.fromkeys(gpu_steps(), on_gpu),
        "environment": dict(config.environment),
        "secrets": list(config.secrets),
    }
    if config.image is not None:
        options["settings"]["docker"] = DockerSettings(parent_image=config.image, skip_build=True)
    if config.retry is not None:
        options["retry"] = StepRetryConfig(**config.retry.model_dump())
    return options


def _settings(machine: Machine) -> dict[str, Any]:
    named = {
        "resources": machine.resources,
        "orchestrator": machine.orchestrator,
        "step_operator": machine.step_operator,
    }
    return {name: dict(settings) for name, settings in named.items() if settings}


def require_image(stack: str, config: StackConfig) -> None:
    """Refuse an image whose tag says that it was made for other package versions than the code is pinned to.

    Raises:
        ConfigError: It was.
    """
    built, pinned = tag_of(config.image or ""), image_tag()
    if built is not None and built != pinned:
        raise ConfigError(
            f"The image {config.image} of the stack {stack} was built for other package versions than this code is "
            f"pinned to (tag {built}, here {pinned}). Build and push one (docs/containers.md), then "
            f"`python tools/stacks.py register {stack}`."
        )


def require_gpus(stack: str, config: StackConfig, run: RunConfig) -> None:
    """Refuse a run that needs more GPUs than a step of the stack has.

    Raises:
        ConfigError: It does.
    """
    gpus = config.gpu.gpus
    wants = "adapter.type qlora" if isinstance(run.adapter, QloraAdapter) else f"model.dtype {run.model.dtype}"
    if not gpus and (isinstance(run.adapter, QloraAdapter) or run.model.dtype in ("float16", "tf32")):
        raise ConfigError(
            f"{wants} needs a GPU, and the stack {stack} has none for its steps (gpu.gpus is 0). Take another, or "
            "change that setting."
        )
    if isinstance(run.hardware, TorchrunHardware) and run.hardware.processes > gpus:
        raise ConfigError(
            f"hardware.processes is {run.hardware.processes}, and a GPU step of the stack {stack} has {gpus} GPU"
            f"{'' if gpus == 1 else 's'}. Lower it, or register the stack with more: --set gpus=..."
        )


def gpus_asked(config: StackConfig) -> int | None:
    """Return how many GPUs the platform is asked for by a GPU step's settings; None where the machine's type says it.

    ZenML's ``gpu_count`` alone asks nothing of Kubernetes; Vertex and Modal want it beside the accelerator's name.
    """
    operates = config.step_operator
    flavor = (operates or config.orchestrator).flavor
    settings: dict[str, Any] = config.gpu.step_operator if operates else config.gpu.orchestrator
    count = int(str(config.gpu.resources.get("gpu_count") or 0))
    if flavor == "kubernetes":
        limits = ((settings.get("pod_settings") or {}).get("resources") or {}).get("limits") or {}
        return int(limits.get("nvidia.com/gpu", 0))
    if flavor == "vertex":
        return count if settings.get("node_selector_constraint") else 0
    if flavor == "modal":
        return count if settings.get("gpu") else 0
    if flavor == "ssh":
        return len(settings.get("gpu_indices") or [])
    return None


def require_honest_gpus(stack: str, config: StackConfig) -> None:
    """Refuse a stack that says it has GPUs and does not ask the platform for them, or for another number.

    Raises:
        ConfigError: It does.
    """
    asked = gpus_asked(config)
    if asked is not None and asked != config.gpu.gpus:
        raise ConfigError(
            f"The stack {stack} says gpu.gpus {config.gpu.gpus}, but its settings ask the platform for {asked}. "
            "Mend the settings of `gpu`, or the number."
        )
