"""The page of a comparison or a sweep: models made in different ways from one base, side by side.

Like the page of a run it is static: no script, and no address to load from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.bundle import RunFacts
from llm_engineering.reporting.compared import (
    best_in_words,
    made_in_words,
    ranked,
    ranking_metric,
    swept_keys,
    titles_of,
    trackers_of,
    value_in_words,
    values_of,
    with_short_titles,
)
from llm_engineering.reporting.comparison_curves import (
    MOST_LINES,
    POINTS,
    Line,
    lines,
    metric_points,
    stage_curves,
    sweep_curves,
)
from llm_engineering.reporting.data_views import kinds, mix
from llm_engineering.reporting.drawings import COLOURS, STYLES, look
from llm_engineering.reporting.page import drawn, render_page
from llm_engineering.reporting.run_views import (
    Proof,
    lineage,
    merge_proof,
    score_table,
    step_times,
    tracker_words,
    training_proof,
)
from llm_engineering.reporting.words import (
    KINDS,
    compared_in_words,
    comparison_headline,
    duration,
    interval,
    quantity,
    verdict_name,
)
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import ComparisonReport, Variant
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import MergeReport

_DASHES = ("", "5 2", "1.5 2", "6 2 1.5 2")
assert len(_DASHES) == len(STYLES)


@dataclass(frozen=True)
class VariantRow:
    """How one model was made, and what came out."""

    title: str
    made: str
    """Its stages with their steps."""
    changes: list[str]
    """Values of the swept keys, in the order of the columns."""
    value: str
    """The metric that ranks."""
    interval: str
    time: str
    watch: list[tuple[str, bool]]
    """Names of verdicts, and whether each is a good one."""
    is_best: bool
    error: str | None


@dataclass(frozen=True)
class LegendEntry:
    """The look of one training in all drawings of a stage."""

    label: str
    colour: int
    dashes: str


@dataclass(frozen=True)
class StageCurves:
    """What all trainings of one stage logged."""

    label: str
    legend: list[LegendEntry]
    left_out: int
    curves: list[tuple[str, Markup]]


def render_comparison(
    report: ComparisonReport,
    run: RunFacts,
    *,
    dataset: DatasetReport | None = None,
    decision: PromotionDecision | None = None,
    config_yaml: str = "",
    packages: Mapping[str, str] | None = None,
) -> str:
    """Return the whole page; what a comparison does not have gets no section.

    Args:
        report: The models, how they were made, and what was measured.
        run: What the orchestrator knows about the run.
        dataset: The ledger of the rows that all share.
        decision: What became of the best run of a sweep.
        config_yaml: The configuration with every default resolved.
        packages: Versions of the packages that the results depend on.
    """
    headline = comparison_headline(report)
    report, evaluation, titles = with_short_titles(report), report.evaluation, titles_of(report)
    models = [variant.name for variant in ranked(report)]
    return render_page(
        "comparison.html.j2",
        report=report,
        run=run,
        headline=headline,
        result=best_in_words(report),
        titles=titles,
        models=models,
        keys=swept_keys(report.variants) if report.kind == "sweep" else [],
        varied=[key for key in swept_keys(report.variants) if len(values_of(key, report.variants)) > 1],
        metric=row_of(report.metric).label if report.metric else "",
        made_alike=_made_alike(report),
        rows=[_row(report, variant) for variant in ranked(report)],
        scores=score_table(evaluation, models, titles) if evaluation else None,
        differences=compared_in_words(report.differences),
        stages=[stage for name in ("sft", "dpo") if (stage := _stage(report.variants, name)).curves],
        points=drawn(metric_points(evaluation, _metrics_drawn(report), models, titles)) if evaluation else [],
        swept=drawn(sweep_curves(report)) if report.kind == "sweep" else [],
        evidence=_evidence(report.variants),
        proofs=_proofs(report.variants),
        dataset=dataset,
        ledgers=list(kinds(dataset.sources)) if dataset else [],
        kinds=KINDS,
        mix=mix,
        decision=decision,
        lineage=lineage(run, dataset, evaluation, titles),
        steps=step_times(run),
        trackers=tracker_words(trackers_of(report)),
        packages=dict(packages or {}),
        config_yaml=config_yaml,
    )


def _made_alike(report: ComparisonReport) -> str:
    """Return how all runs of a sweep were made, where that is the same; an empty string where it is not."""
    made = {made_in_words(variant) for variant in report.variants if variant.error is None}
    return made.pop() if report.kind == "sweep" and len(made) == 1 else ""


def _row(report: ComparisonReport, variant: Variant) -> VariantRow:
    found = ranking_metric(report, variant)
    keys = swept_keys(report.variants)
    verdicts = {
        verdict_name(verdict): verdict.name == "healthy" for each in variant.trainings for verdict in each.verdicts
    }
    return VariantRow(
        title=variant.title,
        made=made_in_words(variant),
        changes=[value_in_words(variant.changes[key]) if key in variant.changes else "-" for key in keys],
        value=quantity(report.metric, found.value) if found and report.metric else "-",
        interval=interval(report.metric, found) if found and report.metric else "",
        time=duration(sum(each.seconds for each in variant.trainings)) if variant.trainings else "-",
        watch=[item for item in verdicts.items() if not item[1] or len(verdicts) == 1],
        is_best=variant.name == report.best,
        error=variant.error,
    )


def _stage(variants: Sequence[Variant], name: StageName) -> StageCurves:
    found = lines(variants, name)
    return StageCurves(
        label=name.upper(),
        legend=[_legend(line) for line in found[:MOST_LINES]],
        left_out=max(0, len(found) - MOST_LINES),
        curves=drawn(stage_curves(found, name)),
    )


def _legend(line: Line) -> LegendEntry:
    colour, style = look(line.index)
    return LegendEntry(line.label, COLOURS.index(colour) + 1, _DASHES[STYLES.index(style)])


def _metrics_drawn(report: ComparisonReport) -> list[str]:
    return [*([report.metric] if report.metric else []), *POINTS]


def _evidence(variants: Sequence[Variant]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return what the watch saw that was not healthy: stage, and name, evidence and remedy, by the training's label."""
    seen = []
    for line in [*lines(variants, "sft"), *lines(variants, "dpo")]:
        unhealthy = [(verdict_name(v), v.evidence, v.remedy) for v in line.training.verdicts if v.name != "healthy"]
        if unhealthy:
            seen.append((line.label, unhealthy))
    return seen


def _proofs(variants: Sequence[Variant]) -> list[tuple[str, Proof]]:
    """Return every proof once, under the training or the first variant that carries it."""
    found = [
        (line.label, training_proof(line.training.proof)) for line in lines(variants, "dpo") if line.training.proof
    ]
    merges: list[MergeReport] = []
    for variant in variants:
        new = [merge for merge in variant.merges if merge not in merges]
        merges += new
        found += [(variant.title, merge_proof(merge)) for merge in new]
    return found
