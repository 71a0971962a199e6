"""Tables of metrics for a terminal: models side by side, or the runs of a sweep one below the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.page import REPLACEMENT, harmless
from llm_engineering.reporting.variants import ranked, ranking_metric, swept_keys, value_in_words
from llm_engineering.reporting.wording import best_models, evaluated, number
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric

_METRIC_WIDTH = 32
_NARROWEST, _WITH_INTERVAL = 12, 23
"""Columns that a model's value takes, without and with its interval."""


def plain(text: str) -> str:
    """Return text without characters that could move the cursor, colour the terminal or reorder a line."""
    return harmless(text).replace("\r", REPLACEMENT)


@dataclass(frozen=True)
class Scores:
    """The table of all metrics, with intervals where the terminal is wide enough; many models take several tables."""

    evaluation: EvaluationReport
    models: Mapping[str, str]
    """Names of the models and what they are called, in the order of the columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield as many tables as the models need."""
        models = {name: title for name, title in self.models.items() if name in self.evaluation.models}
        intervals = options.max_width >= _METRIC_WIDTH + _WITH_INTERVAL * len(models)
        fitting = max(2, (options.max_width - _METRIC_WIDTH) // _NARROWEST)
        names = list(models) if intervals else list(models)[:fitting]
        yield self._table(names, intervals)
        if rest := {name: title for name, title in models.items() if name not in names}:
            yield Scores(self.evaluation, rest)

    def _table(self, models: Sequence[str], intervals: bool) -> Table:
        evaluation = self.evaluation
        table = _table(f"{evaluation.split} split, {evaluation.questions:,} questions")
        table.caption = Text("* best of the line" + ("; in brackets the 95 % interval" if intervals else ""), "dim")
        for model in models:
            wraps = len(self.models) > 3
            table.add_column(Text(plain(self.models[model])), justify="right", no_wrap=not wraps, min_width=7)
        for metric in evaluated(evaluation)[1]:
            if row_of(metric).detail:  # the page has all of them
                continue
            best = best_models(evaluation, metric)
            values = [evaluation.models[model].metrics.get(metric) for model in models]
            unit = f", {row_of(metric).unit}" if row_of(metric).unit else ""
            cells = [
                _score(metric, value, model in best, intervals) for model, value in zip(models, values, strict=True)
            ]
            table.add_row(Text(plain(row_of(metric).label) + unit), *cells)
        return table


def runs_table(report: ComparisonReport) -> Table:
    """Return the runs of a sweep from the best on: the values that they differ in, and the metric that ranks them."""
    assert report.metric is not None
    keys, metric = swept_keys(report.variants), report.metric
    table = _table("" if keys else "run")
    table.caption = Text("* best; in brackets the 95 % interval", "dim")
    for key in keys:
        table.add_column(Text(plain(key)), justify="right")
    unit = f", {row_of(metric).unit}" if row_of(metric).unit else ""
    table.add_column(Text(plain(row_of(metric).label) + unit), justify="right", no_wrap=True)
    for place, variant in enumerate(ranked(report), start=1):
        if variant.error is None:
            found = ranking_metric(report, variant)
            values = [value_in_words(variant.changes[key]) if key in variant.changes else "-" for key in keys]
            name = f"{place}" if keys else variant.title
            cells = [Text(plain(text)) for text in (name, *values)]
            table.add_row(*cells, _score(metric, found, variant.name == report.best, intervals=True))
    return table


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.caption_justify = "left"
    table.add_column(Text(first))
    return table


def _score(metric: str, measured: Metric | None, best: bool, intervals: bool) -> Text:
    if measured is None:
        return Text("-  ", style="dim")
    text = Text(number(metric, measured.value), style="bold green" if best else "")
    if intervals and measured.low is not None and measured.high is not None:
        ends = (number(metric, end) for end in (measured.low, measured.high))
        text.append(" [{}, {}]".format(*ends), style="not bold dim")
    return text.append(" *" if best else "  ")
