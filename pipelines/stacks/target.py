"""The stack that a run is sent to."""

import logging
import os
from dataclasses import dataclass
from typing import Any

from zenml.constants import ENV_ZENML_ACTIVE_STACK_ID

from llm_engineering.config.stacks import StackConfig
from llm_engineering.errors import ConfigError
from pipelines.stacks.checks import require_integrations, require_secrets
from pipelines.stacks.registration import registered_config, require_server
from pipelines.stacks.settings import SAGEMAKER_SDK, require_image, run_options
from pipelines.stacks.workarounds import work_around

STATIC_JOBS = ("training", "sft", "dpo", "evaluation")
"""The steps of comparisons and sweeps are called one after another by one process, which would have to be elsewhere."""


@dataclass(frozen=True)
class Target:
    """A registered stack, active in this process alone."""

    name: str
    config: StackConfig

    @property
    def options(self) -> dict[str, Any]:
        """What the pipeline is told of machines, image, environment and retries."""
        return run_options(self.config)


def aim(name: str, job: str) -> Target:
    """Make a stack the active one of this process, and refuse what it cannot do.

    Raises:
        UserError: There is no such stack, its packages are missing, ZenML is on a local store, or its image is
            another code's.
    """
    if job not in STATIC_JOBS:
        raise ConfigError(
            f"--run-{job} decides while it runs what comes next and calls its steps in one process, so that it is not "
            "sent to a stack. Run it on a machine with a GPU, or send single trainings with --run-training."
        )
    require_server(name)
    stack, config = registered_config(name)
    require_integrations(name, config)
    require_secrets(name, config)
    require_image(name, config)
    work_around([config.step_operator.flavor] if config.step_operator else [])
    _calm_sagemaker()
    os.environ[ENV_ZENML_ACTIVE_STACK_ID] = str(stack.id)  # other processes of this user stay where they are
    return Target(name, config)


def _calm_sagemaker() -> None:
    """Turn off the SDK's telemetry, unless a user's own file says otherwise, and its words on where it looked."""
    os.environ.setdefault("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", str(SAGEMAKER_SDK))
    logging.getLogger("sagemaker.config").addFilter(lambda record: record.levelno >= logging.WARNING)
