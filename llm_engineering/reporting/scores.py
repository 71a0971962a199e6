"""All metrics of all models as one table: grouped by what they measure, with intervals, and the best marked."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llm_engineering.config.metrics import GROUPS, MetricRow, row_of
from llm_engineering.reporting.wording import best_models, evaluated, interval, model_label, number, quantity
from llm_engineering.reports.evaluation import EvaluationReport, Metric


@dataclass(frozen=True)
class Cell:
    """One measured value of one model."""

    model: str
    """What the model is called."""
    value: str
    unit: str
    interval: str
    best: bool
    bar: str | None
    """For a share: the CSS lengths of a bar and of its interval."""


@dataclass(frozen=True)
class Row:
    """One metric of all models; a model without it has None."""

    label: str
    unit: str
    direction: str
    units: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class Group:
    """Metrics that measure the same thing."""

    label: str
    rows: list[Row]


@dataclass(frozen=True)
class ScoreTable:
    """What a page shows of an evaluation."""

    models: list[str]
    """What the columns are called."""
    groups: list[Group]


def score_table(
    evaluation: EvaluationReport, models: Sequence[str] | None = None, titles: Mapping[str, str] | None = None
) -> ScoreTable:
    """Return the scores of an evaluation.

    Args:
        evaluation: Where the scores come from.
        models: Names of the models in the order of the columns; None: all, in the known order.
        titles: What models are called; others are called as always.
    """
    shown = evaluated(evaluation)[0] if models is None else [name for name in models if name in evaluation.models]
    labels = [title_of(name, titles) for name in shown]
    groups = [
        Group(label, [_row(evaluation, metric, shown, labels) for metric in metrics])
        for label, metrics in by_group(evaluated(evaluation)[1])
    ]
    return ScoreTable(labels, groups)


def title_of(model: str, titles: Mapping[str, str] | None) -> str:
    """Return what a model is called, by its own title or by the known one."""
    return (titles or {}).get(model) or model_label(model)


def by_group(metrics: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the groups that there are, each with its metrics in the order in which they come."""
    listed = list(metrics)
    for label in GROUPS:
        if found := [metric for metric in listed if row_of(metric).group == label]:
            yield label, found


def _row(evaluation: EvaluationReport, metric: str, models: list[str], labels: list[str]) -> Row:
    best = best_models(evaluation, metric)
    measured = [evaluation.models[model].metrics.get(metric) for model in models]
    cells = [
        _cell(metric, label, value, model in best) if value else None
        for model, label, value in zip(models, labels, measured, strict=True)
    ]
    row = row_of(metric)
    direction = f"{row.better} is better" if row.better else ""
    return Row(row.label, _unit_behind(row), direction, max((m.units for m in measured if m), default=0), cells)


def _cell(metric: str, label: str, measured: Metric, best: bool) -> Cell:
    value = quantity(metric, measured.value) if row_of(metric).is_share else number(metric, measured.value)
    return Cell(label, value, _unit_behind(row_of(metric)), interval(metric, measured), best, _bar(metric, measured))


def _unit_behind(row: MetricRow) -> str:
    """Return the unit that is written once a row, or small; a share's stands with each value."""
    return "" if row.is_share else row.unit


def _bar(metric: str, measured: Metric) -> str | None:
    """Return the bar of a share as CSS variables, in percent of the cell."""
    if not row_of(metric).is_share or not math.isfinite(measured.value):
        return None
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    value, low, high = (100 * min(max(share, 0.0), 1.0) for share in (measured.value, low, high))
    return f"--value:{value:.1f}%;--low:{low:.1f}%;--span:{max(high - low, 0):.1f}%"
