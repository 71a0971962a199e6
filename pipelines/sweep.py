"""The pipeline that trains a model with several settings and finds the best by a metric, on the eval split."""

from dataclasses import replace
from typing import Literal

from zenml import pipeline

from llm_engineering.config.run import RunConfig
from llm_engineering.data.loading import Origins
from llm_engineering.planning.recipes import sweep_recipes
from llm_engineering.reports.folders import Checkpoint
from pipelines.pieces import Pieces
from pipelines.variants import Bench, Made, by_rows, entries, shared_data
from steps.compare_variants import Comparing, compare_variants


@pipeline(dynamic=True)
def sweep(config: RunConfig, base: Checkpoint, origins: Origins) -> None:
    """Every run of the configured sweep: what runs have in common is done once, and none ends the others."""
    made, evaluations = wire_sweep(config, Bench(base, origins, Pieces()))
    described, trainings, merges = entries(made)
    tested = list(config.promotion.tolerances)
    comparing = Comparing(kind="sweep", entries=described, tested=tested, metric=sweep_metric(config))
    compare_variants(comparing, trainings, merges, evaluations, shared_data(made))


def wire_sweep(config: RunConfig, bench: Bench) -> tuple[list[Made], list[object]]:
    """Make every run and measure those together that read the same rows; the test split stays for the best one."""
    bench = replace(bench, recipes=sweep_recipes(config))
    bench.prepare()
    made = [bench.make(recipe) for recipe in bench.recipes]
    found = [
        evaluation
        for group in by_rows(made)
        if group[0].rows is not None
        for evaluation in bench.measure(config, group, group[0].rows, "eval")
    ]
    return made, found


def sweep_metric(config: RunConfig) -> str:
    """Return what runs are ranked by."""
    named = config.sweep.metric if config.sweep else None
    return named or ("preferred_rate" if config.evaluation.checker else "ranking_accuracy")


def job_of(config: RunConfig) -> Literal["training", "sft", "dpo"]:
    """Return the pipeline that makes one run of a sweep."""
    if not config.data.preference:
        return "sft"
    return "training" if config.data.sft else "dpo"
