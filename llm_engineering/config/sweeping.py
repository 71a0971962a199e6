"""The runs of a sweep: combinations of values, each laid over the configuration and checked as it is."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llm_engineering.config.leaves import leaves
from llm_engineering.config.run import RunConfig
from llm_engineering.config.sweep import SWEEP_KEYS, GridSweep, RandomSweep, SweepRange, SweepValue, tried_below
from llm_engineering.config.yaml.layers import Node, Place, assign, from_plain
from llm_engineering.config.yaml.problems import describe
from llm_engineering.errors import ConfigError

MAX_RUNS = 256
"""More trainings than anybody means."""
SWEPT = ("adapter", "data", "dpo", "sft")
"""Blocks whose keys shape what is trained."""
_HELD_OUT = ("data.sft", "data.preference", "data.evaluation_share", "data.test_share")
_ADDRESS = ("path", "hub", "subset", "hub_split", "revision", "artifact", "version", "embedded", "split")

Choice = dict[str, SweepValue]
"""What one run sets, by dotted keys."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """What it sets: ``dpo.beta=0.1, dpo.nll_weight=0``."""
    changes: Choice
    config: RunConfig
    """The whole configuration of the run; it has no sweep."""


def sweep_runs(config: RunConfig) -> list[SweepRun]:
    """Return the runs of a configuration's sweep, in their order.

    Raises:
        ConfigError: There is no sweep.
    """
    if config.sweep is None:
        raise ConfigError("There is no sweep in the configuration. Add one, such as `sweep: {dpo.beta: [0.05, 0.1]}`.")
    return expand(from_plain(config.model_dump(), Place("the configuration", Path.cwd())), config.sweep)


def expand(tree: Node, sweep: GridSweep | RandomSweep) -> list[SweepRun]:
    """Return the runs of a sweep.

    Args:
        tree: The whole configuration.
        sweep: Its sweep.

    Raises:
        ConfigError: A key cannot be swept, the schema refuses a value, or there are too many runs; with file and line.
    """
    node = tree.child("sweep")
    assert node is not None
    tried = dict(_tried(node))
    for key, values in tried.items():
        _require_sweepable(key, values.place)
    found = _drawn(sweep, node.place) if isinstance(sweep, RandomSweep) else _grid(sweep, node.place)
    names = [_name(choice) for choice in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{node.place}: the sweep has the run {twice} twice; name each value once.")
    plain = assign(tree, "sweep", Node(None, node.places))
    return [SweepRun(_name(choice), choice, _laid_over(plain, choice, tried)) for choice in found]


def _tried(sweep: Node) -> Iterator[tuple[str, Node]]:
    """Yield dotted keys and what is tried for them, wherever it stands in the sweep's block."""
    assert isinstance(sweep.value, dict)
    for name, child in sweep.value.items():
        if name == "values":
            yield from leaves(_below(child) or {}, _below)
        elif name not in SWEEP_KEYS:
            yield from leaves({name: child}, _below)


def _below(node: Node) -> dict[str, Node] | None:
    return tried_below(node.value)


def _require_sweepable(key: str, place: Place) -> None:
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    if first in RunConfig.model_fields and first not in SWEPT:
        raise ConfigError(f"{place}: {key} cannot be swept; a sweep changes keys of {', '.join(SWEPT)}.")
    if key in _HELD_OUT or (first == "data" and last in _ADDRESS):
        raise ConfigError(f"{place}: {key} cannot be swept: all runs read the same rows and hold out the same prompts.")


def _grid(sweep: GridSweep, place: Place) -> list[Choice]:
    runs = math.prod(len(values) for values in sweep.values.values())
    _require_few(runs, place)
    return [dict(zip(sweep.values, values, strict=True)) for values in itertools.product(*sweep.values.values())]


def _drawn(sweep: RandomSweep, place: Place) -> list[Choice]:
    """Return distinct combinations; the same seed draws the same ones."""
    _require_few(sweep.runs, place)
    generator = random.Random(sweep.seed)
    found: dict[str, Choice] = {}
    for _ in range(100 * sweep.runs):
        choice = {key: _draw(values, generator) for key, values in sweep.values.items()}
        found.setdefault(json.dumps(choice), choice)
        if len(found) == sweep.runs:
            return list(found.values())
    raise ConfigError(f"{place}: sweep.runs is {sweep.runs}, but there are hardly {len(found)} combinations; lower it.")


def _draw(values: SweepRange | list[SweepValue], generator: random.Random) -> SweepValue:
    if isinstance(values, list):
        return generator.choice(values)
    ends = values.low, values.high
    low, high = (math.log(end) for end in ends) if values.scale == "log" else ends
    drawn = generator.uniform(low, high)
    drawn = math.exp(drawn) if values.scale == "log" else drawn
    if all(isinstance(end, int) for end in ends):
        return min(max(round(drawn), int(values.low)), int(values.high))
    return min(max(float(f"{drawn:.3g}"), float(values.low)), float(values.high))


def _require_few(runs: int, place: Place) -> None:
    if runs > MAX_RUNS:
        raise ConfigError(f"{place}: the sweep has {runs:,} runs; try fewer values, at most {MAX_RUNS} runs.")


def _laid_over(tree: Node, choice: Choice, tried: dict[str, Node]) -> RunConfig:
    # A new `type` clears its block, so it comes before the block's other keys.
    for key, value in sorted(choice.items(), key=lambda item: not item[0].endswith(".type")):
        tree = assign(tree, key, from_plain(value, _place(tried[key], value)))
    try:
        return RunConfig.model_validate(tree.plain(), strict=True)
    except ValidationError as error:
        raise ConfigError(describe(error, tree, RunConfig)) from None


def _place(tried: Node, value: SweepValue) -> Place:
    """Return where a value stands; one that was drawn from a range, where the range stands."""
    entries = tried.value if isinstance(tried.value, list) else []
    return next((entry.place for entry in entries if entry.plain() == value), tried.place)


def _name(choice: Choice) -> str:
    return ", ".join(f"{key}={_shown(value)}" for key, value in choice.items())


def _shown(value: SweepValue) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
