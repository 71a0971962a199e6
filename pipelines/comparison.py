"""The pipeline that trains a model in several ways from one base, and measures all of them alike."""

from collections.abc import Mapping
from dataclasses import replace

from zenml import pipeline

from llm_engineering.config.run import RunConfig
from llm_engineering.data.loading import Origins
from llm_engineering.planning.recipes import comparison_recipes, parents
from llm_engineering.reports.folders import Checkpoint
from pipelines.pieces import Pieces
from pipelines.variants import Bench, Made, entries, shared_data
from steps.compare_variants import Comparing, compare_variants


@pipeline(dynamic=True)
def comparison(config: RunConfig, base: Checkpoint, origins: Origins) -> None:
    """Base, SFT, DPO and their combinations and controls, as configured: every shared piece is trained once."""
    made, evaluations = wire_comparison(config, Bench(base, origins, Pieces()))
    recipes, notes = comparison_recipes(config)
    described, trainings, merges = entries(made)
    comparing = Comparing(
        kind="comparison",
        entries=described,
        tested=list(config.promotion.tolerances),
        against={one.name: _measures(one.name, parents(recipes)) for one in recipes if one.path},
        notes=notes,
    )
    compare_variants(comparing, trainings, merges, evaluations, shared_data(made))


def _measures(name: str, parent_of: Mapping[str, str]) -> list[str]:
    """Return whom a recipe is tested against: its parent and SFT."""
    return list(dict.fromkeys([*([parent_of[name]] if name in parent_of else []), "sft"]))


def wire_comparison(config: RunConfig, bench: Bench) -> tuple[list[Made], list[object]]:
    """Make every recipe and measure them on the same rows."""
    bench = replace(bench, recipes=comparison_recipes(config)[0])
    bench.prepare()
    made = [bench.make(recipe) for recipe in bench.recipes]
    rows = [one.rows for one in sorted(made, key=lambda one: not one.recipe.samples_pairs) if one.rows is not None]
    return made, bench.measure(config, made, rows[0], "test") if rows else []
