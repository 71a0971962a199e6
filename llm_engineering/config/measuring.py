"""What measures models, and which models are measured: each one value, handed to every step that measures."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

from llm_engineering.config.block import Block
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import ModelConfig

T = TypeVar("T")


class Measuring(Block):
    """Everything that shapes scores beside models and held-out rows."""

    model: ModelConfig
    evaluation: EvaluationConfig
    beta: float
    """DPO's beta; scales rewards and margins."""
    seed: int
    """Draws questions and seeds sampled answers."""
    checker_sha256: str = ""
    """Hash of a user's checker: an edited one judges anew."""
    first: Literal["test", "eval"] = "test"
    """The split that is measured, where it has rows."""


class Lineup(Block):
    """Which models are measured together, by name; ``base`` is the base where none of ``models`` is called so."""

    models: list[str]
    """Of the models that are handed over beside the base, in their order."""
    measured: list[str]
    """Of those that are measured; the others are parents alone."""
    parents: dict[str, str]
    """What a measured model was trained from, where that is known."""
    own_tokens: bool = False
    """The models may have other tokens than the base, as those may that a person names."""

    @classmethod
    def of_run(cls, stages: Sequence[str]) -> "Lineup":
        """Return the base and the models of a run's stages, each trained from the one before."""
        names = ["base", *stages]
        return cls(models=names[1:], measured=names, parents={name: parent for parent, name in pairwise(names)})

    def named(self, base: T, models: Sequence[T]) -> dict[str, T]:
        """Return the models that measuring needs, parents included, by name."""
        there = {"base": base, **dict(zip(self.models, models, strict=True))}
        needed = {*self.measured, *self.parents.values()}
        return {name: model for name, model in there.items() if name in needed}
