"""Several models in one run: comparisons and sweeps."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt
from llm_engineering.config.leaves import leaves
from llm_engineering.config.metrics import DecidingMetric

RecipeName = Literal["base", "sft", "dpo", "dpo_nll", "sft_dpo", "sft_dpo_nll", "sft_chosen", "sft_clean"]


class ComparisonConfig(Block):
    """Which models a comparison makes and measures side by side; docs/comparison.md describes each."""

    recipes: Annotated[list[RecipeName], Field(min_length=1)] = [
        "base",
        "sft",
        "dpo",
        "dpo_nll",
        "sft_dpo",
        "sft_dpo_nll",
        "sft_chosen",
        "sft_clean",
    ]
    """The recipes, in the order in which they are shown; those that cannot run here are left out with a note."""
    nll_weight: PositiveFloat | None = None
    """``dpo.nll_weight`` of the recipes with NLL; none: the configured one where it is above 0, else 1."""

    @model_validator(mode="after")
    def _check_recipes(self) -> "ComparisonConfig":
        if len(set(self.recipes)) < len(self.recipes):
            raise ValueError("recipes names one twice; each is made once")
        return self


class SweepRange(Block):
    """Numbers between two ends, of which a random sweep draws."""

    low: int | float
    """The smallest; whole numbers are drawn where both ends are whole."""
    high: int | float
    """The largest."""
    scale: Literal["linear", "log"] = "linear"
    """``log`` draws every order of magnitude alike: for learning rates and weights."""

    @model_validator(mode="after")
    def _check_ends(self) -> "SweepRange":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("the scale log needs a low above 0")
        return self


SweepValue = bool | int | float | str | None | list[str]
SweepValues = Annotated[list[SweepValue], Field(min_length=1)]


class Sweep(Block):
    """What both kinds of sweep have in common."""

    metric: DecidingMetric | None = None
    """What the best run is the best by; none: ``preferred_rate`` where a checker judges, else ``ranking_accuracy``."""


class GridSweep(Sweep):
    """Every combination of the values."""

    type: Literal["grid"] = "grid"
    values: Annotated[dict[str, SweepValues], Field(min_length=1)]
    """Keys of this configuration by their dotted paths, and the values that each takes."""


class RandomSweep(Sweep):
    """Combinations drawn at random."""

    type: Literal["random"] = "random"
    runs: PositiveInt
    """So many combinations, each another."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the draw."""
    values: Annotated[dict[str, SweepRange | SweepValues], Field(min_length=1)]
    """Keys of this configuration by their dotted paths, and a list of values or ``{low, high, scale}`` for each."""


SWEEP_KEYS = ("type", "metric", "runs", "seed", "values")


def tried_below(value: Any) -> dict[str, Any] | None:
    """Return a block that holds what a sweep tries, as ``--set sweep.dpo.beta=[..]`` makes it; None for what is tried.

    A block with the key ``low`` or ``high`` is a range.
    """
    return value if isinstance(value, dict) and not {"low", "high"} & set(value) else None


def _whole_sweep(value: Any) -> Any:
    """Return a sweep's long form: keys that are none of a sweep's own are values to try."""
    if not isinstance(value, dict):
        return value
    own = {key: found for key, found in value.items() if key in SWEEP_KEYS}
    tried = {key: found for key, found in value.items() if key not in SWEEP_KEYS}
    listed = own.get("values", {})
    if isinstance(listed, dict):
        own["values"] = dict(leaves(listed | tried, tried_below))
    return {"type": "grid", **own}


SweepConfig = Annotated[
    Annotated[GridSweep | RandomSweep, Field(discriminator="type")],
    BeforeValidator(_whole_sweep),
]
