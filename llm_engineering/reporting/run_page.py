"""The report of a run as one static page: no script, no address to load from, readable in a sandboxed frame.

Everything that comes from data, models or configuration is escaped by the template engine; only our own drawings are
put in as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.data_page import token_counts
from llm_engineering.reporting.data_views import ROW_KINDS, findings, kinds, mix, row_view
from llm_engineering.reporting.drawings import training_curves
from llm_engineering.reporting.page import drawn, render_page
from llm_engineering.reporting.run_views import check_view, lineage, proofs_of, score_table, step_times, tracker_words
from llm_engineering.reporting.words import KINDS, duration, ending, evaluated, headline, model_label, verdict_name
from llm_engineering.reports.data import DatasetReport, RenderedRow
from llm_engineering.reports.training import TrainingReport, TrainingSample


@dataclass(frozen=True)
class Watched:
    """The curves of one training, or of a first attempt at it, and what the watch says of them."""

    label: str
    told: list[str]
    """What the watch did."""
    verdicts: list[tuple[str, bool, str, str]]
    """Name, whether it is a good one, evidence, remedy."""
    curves: list[tuple[str, Markup]]
    samples: list["SampledQuestion"]


@dataclass(frozen=True)
class SampledQuestion:
    """How the greedy answer to one held-out question changed while a stage trained."""

    prompt: str
    answers: list[tuple[str, str]]
    """From which step to which, and the answer; the reference's first."""


MOST_ANSWERS = 8
"""Different answers to one question that are shown; more are thinned out evenly."""
EXAMPLES = 2
"""Rows that the report shows token by token; the data preview has more."""


def render_report(reports: RunReports) -> str:
    """Return the whole page; what a run does not have gets no section."""
    dataset = reports.dataset
    return render_page(
        "report.html.j2",
        reports=reports,
        headline=headline(reports),
        models=evaluated(reports.evaluation)[0] if reports.evaluation else [],
        titles={},
        scores=score_table(reports.evaluation) if reports.evaluation else None,
        checks=[check_view(check) for check in reports.decision.checks] if reports.decision else [],
        ledgers=list(kinds(dataset.sources)) if dataset else [],
        kinds=KINDS,
        mix=mix,
        findings=findings(dataset.audit) if dataset and dataset.audit else [],
        tokens=token_counts(dataset) if dataset else [],
        examples=[row_view(row) for row in _examples(dataset)] if dataset else [],
        preferences=_preferences(reports),
        proofs=proofs_of(reports),
        trainings=_trainings(reports),
        stages=[training.stage for training in reports.trainings()],
        watched=list(_watched(reports)),
        lineage=lineage(reports.run, dataset, reports.evaluation),
        steps=step_times(reports.run),
        trackers=tracker_words(reports.trackers()),
        exports=reports.exports.exports if reports.exports else [],
    )


def render_training(training: TrainingReport) -> str:
    """Return the curves of one stage, what the watch says of them, and the answers on the way, as a page."""
    return render_page(
        "training.html.j2",
        label=model_label(training.stage),
        training=training,
        watched=list(_attempts(training)),
    )


def _examples(dataset: DatasetReport) -> list[RenderedRow]:
    """Return the first rows, of both kinds if there are both."""
    first = [next((row for row in dataset.examples if row.kind == kind), None) for kind in ROW_KINDS]
    both = [row for row in first if row is not None]
    return both if len(both) == EXAMPLES else dataset.examples[:EXAMPLES]


def _preferences(reports: RunReports) -> list[tuple[str, str]]:
    sampled = reports.preferences
    if sampled is None:
        return []
    return [
        ("Checker", sampled.checker),
        ("Prompts", f"{sampled.prompts:,}"),
        ("Answers sampled", f"{sampled.samples:,}"),
        *((f"Pairs, {split}", f"{pairs:,}") for split, pairs in sampled.pairs.items()),
        ("Prompts without a pair", f"{sampled.without_pair:,}"),
        ("Unfinished answers", f"{sampled.unfinished:,}"),
        ("Chosen answers that are right", f"{100 * sampled.chosen_correct:.1f} %"),
        ("Rejected answers that are right", f"{100 * sampled.rejected_correct:.1f} %"),
        ("Time", duration(sampled.seconds)),
    ]


def _trainings(reports: RunReports) -> dict[str, list[str]]:
    """Return rows of facts, one column a stage; a fact that no stage has is left out."""
    columns = [_facts(training) for training in reports.trainings()]
    names = columns[0] if columns else {}
    return {
        name: [column[name] or "-" for column in columns] for name in names if any(column[name] for column in columns)
    }


def _facts(training: TrainingReport) -> dict[str, str | None]:
    """Return what one stage did, the same facts for every stage; None for what it has not."""
    share = training.trainable_parameters / max(training.parameters, 1)
    tokens, pairs = training.tokens_per_second, training.pairs_per_second
    return {
        "Steps": f"{training.steps:,} of {training.planned_steps:,}",
        "Epochs": f"{training.epochs:.2f}",
        "Rows": f"{training.rows:,}",
        "Effective batch": f"{training.effective_batch} rows",
        "Trainable": f"{training.trainable_parameters:,} of {training.parameters:,} parameters ({100 * share:.2f} %)",
        "Time": duration(training.seconds),
        "Tokens per second": None if tokens is None else f"{tokens:,.0f}",
        "Pairs per second": None if pairs is None else f"{pairs:,.1f}",
        "Forward pass": training.path,
        "Notes": " ".join(training.notes) or None,
        "Hardware": training.hardware,
        "Resumed from": None if training.resumed_from is None else f"step {training.resumed_from}",
        "Weights kept": _kept(training),
        "Stopped early": _stopped(training),
    }


def _stopped(training: TrainingReport) -> str | None:
    if training.stopped_by is not None:
        return f"by the watch: {training.stopped_by.name.replace('_', ' ')}"
    return "yes" if training.stopped_early else None


def _kept(training: TrainingReport) -> str | None:
    if training.best_step is None:
        return None
    by = f", the best by {row_of(training.best_metric).label}" if training.best_metric else ""
    return f"step {training.best_step}{by}"


def _watched(reports: RunReports) -> Iterator[Watched]:
    for training in reports.trainings():
        yield from _attempts(training)


def _attempts(training: TrainingReport) -> Iterator[Watched]:
    label = model_label(training.stage)
    attempts = [(label, training), (f"{label}, first attempt", training.first_attempt)]
    yield from (_watch(name, attempt) for name, attempt in attempts if attempt is not None)


def _watch(label: str, training: TrainingReport) -> Watched:
    verdicts = [
        (verdict_name(verdict), verdict.name == "healthy", verdict.evidence, verdict.remedy)
        for verdict in training.verdicts
    ]
    return Watched(
        label, ending(training), verdicts, drawn(training_curves(training)), list(_sampled_questions(training))
    )


def _sampled_questions(training: TrainingReport) -> Iterator[SampledQuestion]:
    """Yield every question with its answers in the order of the steps; steps that answered alike are one."""
    steps = sorted({sample.step for sample in training.samples})
    by_step = [[sample for sample in training.samples if sample.step == step] for step in steps]
    for samples in zip(*by_step, strict=True):
        runs = [list(alike) for _, alike in groupby(samples, key=lambda sample: sample.policy)]
        kept = sorted({round(i * (len(runs) - 1) / (MOST_ANSWERS - 1)) for i in range(MOST_ANSWERS)})
        answers = [(_steps_of(runs[i]), runs[i][0].policy) for i in kept]
        reference = samples[0].reference
        yield SampledQuestion(samples[0].prompt, [*([] if reference is None else [("Reference", reference)]), *answers])


def _steps_of(samples: list[TrainingSample]) -> str:
    first, last = samples[0].step, samples[-1].step
    return f"Step {first}" if first == last else f"Steps {first} to {last}"
