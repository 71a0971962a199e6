"""What the terminal shows at the end of a run.

Everything from data and models is plain text: never markup, and without control characters.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.artifacts import EvaluationReport, Metric, SampleAnswers, TrainingReport
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.page import REPLACEMENT, harmless
from llm_engineering.reporting.wording import (
    best_models,
    duration,
    ending,
    evaluated,
    headline,
    model_label,
    number,
    unit_of,
    verdict_name,
    wording,
)

SAMPLES = 3
OPENED = ("report", "sft_model", "dpo_model")
"""Artifacts that a person opens; the summary lists all."""
LONGEST_ANSWER = 280
"""Characters of an answer that are shown; the report has all of it."""


def closing(reports: RunReports) -> Group:
    """Return the closing words: scores, answers side by side, and the decision."""
    return Group(*_parts(reports))


def _parts(reports: RunReports) -> Iterator[RenderableType]:
    evaluation = reports.evaluation
    if evaluation and evaluation.models:
        yield _Scores(evaluation)
        for sample in evaluation.samples[:SAMPLES]:
            yield _answers(sample, evaluated(evaluation)[0])
    yield Text()
    yield Text(headline(reports), style="bold red" if reports.run.status == "failed" else "bold")
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


@dataclass(frozen=True)
class _Scores:
    """The table of all metrics, with intervals where the terminal is wide enough."""

    evaluation: EvaluationReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _scores(self.evaluation, intervals=options.max_width >= 32 + 23 * len(self.evaluation.models))


def _scores(evaluation: EvaluationReport, intervals: bool) -> Table:
    models, metrics = evaluated(evaluation)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    brackets = "; in brackets the 95 % interval" if intervals else ""
    table.caption = Text(f"* best of the line{brackets}", style="dim")
    table.caption_justify = "left"
    table.add_column(Text(f"{evaluation.split} split, {evaluation.questions:,} questions"))
    for model in models:
        table.add_column(Text(plain(model_label(model))), justify="right", no_wrap=True)
    for metric in metrics:
        best = best_models(evaluation, metric)
        values = [evaluation.models[model].metrics.get(metric) for model in models]
        unit = f", {unit_of(metric)}" if unit_of(metric) else ""
        cells = [_score(metric, value, model in best, intervals) for model, value in zip(models, values, strict=True)]
        table.add_row(Text(plain(wording(metric).label) + unit), *cells)
    return table


def _score(metric: str, measured: Metric | None, best: bool, intervals: bool) -> Text:
    if measured is None:
        return Text("-  ", style="dim")
    text = Text(number(metric, measured.value), style="bold green" if best else "")
    if intervals and measured.low is not None and measured.high is not None:
        ends = (number(metric, end) for end in (measured.low, measured.high))
        text.append(" [{}, {}]".format(*ends), style="not bold dim")
    return text.append(" *" if best else "  ")


def _answers(sample: SampleAnswers, models: list[str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for model in models:
        if model in sample.answers:
            answer = plain(sample.answers[model])
            shown = answer if len(answer) <= LONGEST_ANSWER else answer[:LONGEST_ANSWER] + " ..."
            table.add_row(Text(plain(model_label(model))), Text(shown))
    return Group(Text(), Text(plain(sample.prompt), style="bold"), Padding(table, (0, 0, 0, 2)))


def places(reports: RunReports) -> Iterator[Text]:
    """Yield where everything is, one line each; print them with ``soft_wrap``, so that a path can be copied."""
    run = reports.run
    yield _line("run", f"{run.name}, {run.status}, {duration(run.seconds)}")
    if run.model:
        version = f", version {run.model.version}" if run.model.version else ""
        stage = f", {run.model.stage}" if run.model.stage else ""
        yield _line("model", run.model.name + version + stage)
    for name in OPENED:
        if name in run.artifacts:
            yield _line(name.replace("_", " "), run.artifacts[name])
    for link in reports.trackers():
        where = link.url or (f"comet upload {shlex.quote(link.offline_archive)}" if link.offline_archive else "nowhere")
        yield _line(f"comet {link.stage}", where)
        if link.failures:
            yield _line("", f"failed calls to Comet: {link.failures}; the run does not depend on them")


def _line(label: str, text: str) -> Text:
    parts = (f"{plain(label):<18}", "dim"), plain(text)
    return Text.assemble(*parts)


def plain(text: str) -> str:
    """Return text without characters that could move the cursor, colour the terminal or reorder a line."""
    return harmless(text).replace("\r", REPLACEMENT)
