"""What the terminal shows at the end of a run: scores, answers, the decision, and where things lie.

Everything from data and models is plain text: never markup, and without control characters.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.config.metrics import row_of
from llm_engineering.plain_text import plain
from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.compared import (
    best_in_words,
    ranked,
    ranking_metric,
    swept_keys,
    value_in_words,
    with_short_titles,
)
from llm_engineering.reporting.run_views import check_view
from llm_engineering.reporting.words import (
    best_models,
    compared_in_words,
    comparison_headline,
    duration,
    ending,
    evaluated,
    headline,
    model_label,
    number,
    verdict_name,
)
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric, SampleAnswers
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import TrackerLink, TrainingReport

SAMPLES = 3
MOST_ANSWERS = 8
"""Models whose answers are shown side by side; the page has all."""
OPENED = ("report", "comparison", "sweep", "outcome_table", "sft_model", "dpo_model")
"""Artifacts that a person opens; the summary lists all."""
LONGEST_ANSWER = 280
"""Characters of an answer that are shown; the report has all of it."""


def closing(reports: RunReports) -> Group:
    """Return the closing words: scores, answers side by side, and the decision."""
    return Group(*_parts(reports))


def decided(reports: RunReports) -> Text:
    """Return the one sentence that says what came of a run."""
    return Text(headline(reports), style="bold red" if reports.run.status == "failed" else "bold")


def _parts(reports: RunReports) -> Iterator[RenderableType]:
    evaluation = reports.evaluation
    if evaluation and evaluation.models:
        models = {name: model_label(name) for name in evaluated(evaluation)[0]}
        if any(scores.metrics for scores in evaluation.models.values()):
            yield Scores(evaluation, models)
        for note in evaluation.notes[1:]:  # the first names the split, as the table does
            yield Text(plain(note), style="dim")
        for sample in evaluation.samples[:SAMPLES]:
            yield _answers(sample, models)
    yield Text()
    yield decided(reports)
    if reports.run.error:
        yield Text(plain(reports.run.error))
    if reports.decision:
        yield Text(plain(reports.decision.reason))
    for training in reports.trainings():
        yield from _watch(training)


def _watch(training: TrainingReport) -> Iterator[Text]:
    """Yield one line a verdict, with its remedy unless the stage is healthy; the rest of it wraps."""
    stage = model_label(training.stage)
    for sentence in ending(training):
        yield Text(plain(f"{stage}: {sentence}"))
    for verdict in training.verdicts:
        healthy = verdict.name == "healthy"
        words = f"{verdict.evidence} {'' if healthy else verdict.remedy}"
        style = "dim" if healthy else "yellow"
        yield Text(
            plain(f"{stage} is healthy." if healthy else f"{stage}: {verdict_name(verdict)}. {words}"), style=style
        )


def _answers(sample: SampleAnswers, models: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for model, title in models.items():
        if model in sample.answers:
            answer = plain(sample.answers[model])
            shown = answer if len(answer) <= LONGEST_ANSWER else answer[:LONGEST_ANSWER] + " ..."
            table.add_row(Text(plain(title)), Text(shown))
    return Group(Text(), Text(plain(sample.prompt), style="bold"), Padding(table, (0, 0, 0, 2)))


def comparison_closing(report: ComparisonReport) -> Group:
    """Return the closing words of a comparison or a sweep: scores, answers side by side, the best, what failed."""
    return Group(*_comparison_parts(report))


def _comparison_parts(report: ComparisonReport) -> Iterator[RenderableType]:
    evaluation = report.evaluation
    shown = {variant.name: variant.title for variant in ranked(with_short_titles(report)) if variant.error is None}
    if report.kind == "sweep" and report.metric is not None:
        yield runs_table(report)
    elif evaluation and evaluation.models:
        yield Scores(evaluation, shown)
    is_sweep = report.kind == "sweep"
    for sample in evaluation.samples[: 1 if is_sweep else SAMPLES] if evaluation else []:
        yield _answers(sample, dict(list(shown.items())[:MOST_ANSWERS]))
    yield Text()
    yield Text(plain(comparison_headline(report)), style="bold")
    if told := best_in_words(report):
        yield Text(plain(told))
    for two in [] if is_sweep else compared_in_words(report.differences):
        names = (shown.get(name, model_label(name)) for name in (two.candidate, two.against))
        yield Text(plain("{} against {}: {}".format(*names, two.summary)))
    for variant in report.variants:
        if variant.error is not None:
            yield Text(plain(f"{variant.title} failed: {variant.error}"), style="red")
    for note in report.notes:
        yield Text(plain(note), style="dim")


def places(reports: RunReports) -> Iterator[Text]:
    """Yield where everything is, one line each; print them with ``soft_wrap``, so that a path can be copied."""
    yield from _where(reports.run)
    for export in reports.exports.exports if reports.exports else []:
        found = [*(place for place in (export.path, export.repository) if place), *filter(None, [export.problem])]
        yield _line(f"export {export.format}", ", ".join(found))
    for link in reports.trackers():
        yield from _tracker(link)


def _where(run: RunFacts) -> Iterator[Text]:
    yield _line("run", f"{run.name}, {run.status}, {duration(run.seconds)}")
    if run.model:
        version = f", version {run.model.version}" if run.model.version else ""
        stage = f", {run.model.stage}" if run.model.stage else ""
        yield _line("model", run.model.name + version + stage)
    for name in OPENED:
        if name in run.artifacts:
            yield _line(name.replace("_", " "), run.artifacts[name])


def _tracker(link: TrackerLink) -> Iterator[Text]:
    where = link.url or (f"comet upload {shlex.quote(link.offline_archive)}" if link.offline_archive else "nowhere")
    yield _line(f"comet {link.stage}", where)
    if link.failures:
        yield _line("", f"failed calls to Comet: {link.failures}; the run does not depend on them")


def _line(label: str, text: str) -> Text:
    parts = (f"{plain(label):<18}", "dim"), plain(text)
    return Text.assemble(*parts)


_METRIC_WIDTH = 32
_NARROWEST, _WITH_INTERVAL = 12, 23
"""Columns that a model's value takes, without and with its interval."""


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


def checks_table(decision: PromotionDecision) -> Table:
    """Return the checks of a decision as a table for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in ("Metric", "Candidate", "Against", "Loss allowed", "Difference on the same units", "Check"):
        table.add_column(head)
    for check in decision.checks:
        view = check_view(check)
        shown = ("metric", "candidate", "against", "tolerance", "evidence")
        note = f", {check.note}" if check.note else ""
        outcome = Text(plain(f"{'✓' if check.passed else '✗'} {view['verdict']}{note}"))
        outcome.stylize("green" if check.passed else "red")
        table.add_row(*(Text(plain(str(view[name]))) for name in shown), outcome)
    return table
