"""The models of a comparison or a sweep in words, in the order in which every report shows them."""

import math
from collections.abc import Sequence

from llm_engineering.config.metrics import higher_is_better
from llm_engineering.reporting.words import counted, interval, quantity
from llm_engineering.reports.evaluation import ComparisonReport, Metric, Variant
from llm_engineering.reports.training import TrackerLink

LONGEST_TITLE = 30
"""Characters of a run's values that drawings and columns have room for."""


def titles_of(report: ComparisonReport) -> dict[str, str]:
    """Return what every variant is called where there is little room.

    A run of a sweep is called by the values in which the runs differ, or by its place where those are too long.
    """
    own = {variant.name: variant.title for variant in report.variants}
    if report.kind == "comparison":
        return own
    varied = [key for key in swept_keys(report.variants) if len(values_of(key, report.variants)) > 1]
    ends = [key.rpartition(".")[2] for key in varied]
    names = ends if len({*ends}) == len(ends) else varied
    told = {
        variant.name: ", ".join(
            f"{name} {value_in_words(variant.changes.get(key))}" for name, key in zip(names, varied, strict=True)
        )
        for variant in report.variants
    }
    if varied and len({*told.values()}) == len(told) and max(map(len, told.values())) <= LONGEST_TITLE:
        return told
    return {variant.name: f"run {place}" for place, variant in enumerate(ranked(report), start=1)}


def with_short_titles(report: ComparisonReport) -> ComparisonReport:
    """Return the report with its variants called as :func:`titles_of` says."""
    titles = titles_of(report)
    variants = [variant.model_copy(update={"title": titles[variant.name]}) for variant in report.variants]
    return report.model_copy(update={"variants": variants})


def values_of(key: str, variants: Sequence[Variant]) -> set[str]:
    """Return the different values that variants have of a swept key, as they are written."""
    return {value_in_words(variant.changes.get(key)) for variant in variants}


def ranked(report: ComparisonReport) -> list[Variant]:
    """Return the variants in the order in which they are shown: a sweep's from the best on, the failed ones last."""
    if report.kind == "comparison" or report.metric is None or report.evaluation is None:
        return report.variants
    sign = -1.0 if higher_is_better(report.metric) in (True, None) else 1.0

    def place(variant: Variant) -> tuple[int, int, float]:
        found = ranking_metric(report, variant)
        if found is None or not math.isfinite(found.value):
            return (2 if variant.error else 1, 0, 0.0)
        return (0, int(variant.name != report.best), sign * found.value)

    return sorted(report.variants, key=place)


def swept_keys(variants: Sequence[Variant]) -> list[str]:
    """Return the keys of the configuration that the variants differ in, in the order in which they come."""
    return list(dict.fromkeys(key for variant in variants for key in variant.changes))


def ranking_metric(report: ComparisonReport, variant: Variant) -> Metric | None:
    """Return a variant's value of the metric that ranks; None where there is none."""
    evaluation = report.evaluation
    if report.metric is None or evaluation is None or variant.name not in evaluation.models:
        return None
    return evaluation.models[variant.name].metrics.get(report.metric)


def best_in_words(report: ComparisonReport) -> str:
    """Return the best variant's value with its interval, and how many failed; an empty string where neither is."""
    best = next((variant for variant in report.variants if variant.name == report.best), None)
    found = ranking_metric(report, best) if best else None
    told = []
    if found is not None and report.metric is not None:
        ends = interval(report.metric, found)
        told.append(quantity(report.metric, found.value) + (f" (95 % interval {ends})." if ends else "."))
    failed = sum(variant.error is not None for variant in report.variants)
    if failed:
        told.append(f"{failed} of {len(report.variants)} failed; what they had in common with others is kept.")
    return " ".join(told)


def made_in_words(variant: Variant) -> str:
    """Return the stages that made a variant: ``SFT, 500 steps → DPO, 240 steps``."""
    stages = [f"{training.stage.upper()}, {counted(training.steps, 'step')}" for training in variant.trainings]
    return " → ".join(stages) or ("" if variant.error else "as it came")


def value_in_words(value: str | float | int | bool | None) -> str:
    """Return a value of the configuration as it is written there."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def trackers_of(report: ComparisonReport) -> list[TrackerLink]:
    """Return the links to the experiment tracker, each once, in the order of the variants."""
    trainings = [training for variant in report.variants for training in variant.trainings]
    links = [training.tracker for training in trainings] + ([report.evaluation.tracker] if report.evaluation else [])
    found: list[TrackerLink] = []
    for link in links:
        if link is not None and link not in found:
            found.append(link)
    return found
