"""What the terminal shows at the end of a run.

Everything from data and models is plain text: never markup, and without control characters.
"""

import shlex
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.paired_words import compared_in_words
from llm_engineering.reporting.scores_text import Scores, runs_table
from llm_engineering.reporting.scores_text import plain as plain
from llm_engineering.reporting.variants import best_in_words, ranked, with_short_titles
from llm_engineering.reporting.wording import (
    comparison_headline,
    duration,
    ending,
    evaluated,
    headline,
    model_label,
    verdict_name,
)
from llm_engineering.reports.evaluation import ComparisonReport, SampleAnswers
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
