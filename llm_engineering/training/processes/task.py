"""What the worker processes of a training are told to do: a file of JSON, read by each of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.reports.folders import Artifact, Checkpoint
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.stage import StageInputs

API_KEY = "COMET_API_KEY"
"""The environment variable that Comet reads its key from: a key is in no file."""


@dataclass(frozen=True)
class SFTTask:
    """Supervised fine-tuning."""

    config: SFTStageConfig
    inputs: StageInputs
    stage: Literal["sft"] = "sft"


@dataclass(frozen=True)
class DPOTask:
    """Direct preference optimization."""

    config: DPOStageConfig
    inputs: StageInputs
    stage: Literal["dpo"] = "dpo"


Task = SFTTask | DPOTask
_TASK: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="stage")])


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
