"""What the worker processes of a training are told to do: a file of JSON, read by each of them."""

import inspect
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, TypeAdapter, ValidationInfo

from llm_engineering.config.stage import StageConfig
from llm_engineering.reports.folders import Artifact, Checkpoint, StageName
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.inputs import StageInputs

API_KEY = "COMET_API_KEY"
"""The environment variable that Comet reads its key from: a key is in no file."""


FOLDER = "processes"
"""What a work folder calls the folder with the task, the result and the output of the workers."""


def _of_its_stage(value: Any, info: ValidationInfo) -> Any:
    """Return the configuration as the one that the stage's function takes."""
    taken = inspect.signature(pkgutil.resolve_name(info.data["train"])).parameters["config"].annotation
    return taken.model_validate(value)


@dataclass(frozen=True)
class Task:
    """A stage to train: the function that does it, and what it is called with."""

    stage: StageName
    train: str
    """Its import path, ``package.module:function``."""
    config: Annotated[SerializeAsAny[StageConfig], BeforeValidator(_of_its_stage)]
    inputs: StageInputs


_TASK = TypeAdapter(Task)


class Result(Artifact):
    """What the first process found."""

    checkpoint: Checkpoint
    report: TrainingReport


def write_task(task: Task, path: Path) -> dict[str, str]:
    """Write a task without its secrets, and return the environment that holds them."""
    origin = task.inputs.origin
    account = replace(origin.account, api_key=None)
    inputs = replace(task.inputs, origin=replace(origin, account=account))
    path.write_bytes(_TASK.dump_json(replace(task, inputs=inputs)))
    return {API_KEY: origin.account.api_key} if origin.account.api_key else {}


def read_task(path: Path) -> Task:
    """Return the task in a file."""
    return _TASK.validate_json(path.read_bytes())
