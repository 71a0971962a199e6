"""Pieces of a dynamic pipeline: each runs once, however many models need it, and fails for those alone."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from zenml.exceptions import RunInterruptedException, RunStoppedException
from zenml.models import ArtifactVersionResponse
from zenml.steps import BaseStep
from zenml.steps.entrypoint_function_utils import StepArtifact

from llm_engineering.errors import PipelineError
from pipelines.training import Output
from steps.runtime.caching import with_code_dependencies
from steps.runtime.work import release_work_folders

LONGEST_NAME = 60
"""Characters of a model's name that stand in the name of a step."""


class PieceError(PipelineError):
    """A step failed: what needs its result cannot be made, all else can."""

    def __init__(self, piece: str, error: Exception) -> None:
        sentence = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
        super().__init__(f"{piece}: {sentence}")
        self.piece, self.error = piece, error


class Pieces:
    """Runs steps in turn; one with the inputs of an earlier one gives what that gave, or fails as it failed."""

    def __init__(self) -> None:
        self.model = ""
        """The model for which pieces are made now; the first one that needs a piece names it."""
        self._named: Counter[str] = Counter()
        self._made: dict[str, Output | PieceError] = {}

    def __call__(self, step: BaseStep) -> Callable[..., Output]:
        """Return a step that is ready to be called."""
        ready = with_code_dependencies(step)

        def piece(*inputs: Any, **named: Any) -> Output:
            key = json.dumps([step.name, identity(list(inputs)), {name: identity(one) for name, one in named.items()}])
            if key not in self._made:
                try:
                    self._made[key] = self._run(ready, inputs, named)
                except PieceError as error:
                    self._made[key] = error
            made = self._made[key]
            if isinstance(made, PieceError):
                raise made
            return made

        return piece

    def _run(self, step: BaseStep, inputs: tuple[Any, ...], named: dict[str, Any]) -> Output:
        name = self._name(step.name)
        try:
            return step(*inputs, **named, id=name)
        except (RunInterruptedException, RunStoppedException):
            raise
        except Exception as error:
            release_work_folders(keep=True)  # what it has trained so far can be taken up again
            raise PieceError(name, error) from error

    def _name(self, step: str) -> str:
        """Return a new name: the step's and, in characters that may stand there, the model's."""
        slug = re.sub(r"[^A-Za-z0-9_.=]+", "_", self.model)[:LONGEST_NAME]
        name = f"{step}-{slug}" if slug else step
        self._named[name] += 1
        return name if self._named[name] == 1 else f"{name}-{self._named[name]}"


def identity(value: Any) -> Any:
    """Return what tells an input from others."""
    if isinstance(value, ArtifactVersionResponse):
        return str(value.id)
    if isinstance(value, StepArtifact):
        return [value.invocation_id, value.output_name]
    if isinstance(value, list):
        return [identity(one) for one in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
