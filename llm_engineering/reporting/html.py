"""The report of a run as one static page: no script, no address to load from, readable in a sandboxed frame.

Everything that comes from data, models or configuration is escaped by the template engine; only our own drawings are
put in as they are.
"""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from llm_engineering.artifacts import (
    DatasetReport,
    EvaluationReport,
    MergeReport,
    Metric,
    PromotionCheck,
    ReferenceProof,
    RenderedRow,
    TrackerLink,
    TrainingReport,
    TrainingSample,
)
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.curves import training_curves
from llm_engineering.reporting.data_preview import token_counts
from llm_engineering.reporting.findings import findings
from llm_engineering.reporting.ledger import ROW_KINDS, kinds, mix
from llm_engineering.reporting.page import render_page
from llm_engineering.reporting.tokens import row_view
from llm_engineering.reporting.wording import (
    KINDS,
    best_models,
    duration,
    ending,
    evaluated,
    headline,
    interval,
    model_label,
    quantity,
    verdict_name,
    wording,
)


@dataclass(frozen=True)
class Cell:
    """One measured value of one model."""

    model: str
    value: str
    interval: str
    best: bool
    bar: str | None
    """For a share: the CSS lengths of a bar and of its interval."""


@dataclass(frozen=True)
class Row:
    """One metric of all models; a model without it has None."""

    label: str
    direction: str
    units: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class Proof:
    """One thing that was checked, and what came out."""

    title: str
    passed: bool
    claim: str
    numbers: list[tuple[str, str]]


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
        scores=_scores(reports.evaluation) if reports.evaluation else [],
        checks=[_check(check) for check in reports.decision.checks] if reports.decision else [],
        ledgers=list(kinds(dataset.sources)) if dataset else [],
        kinds=KINDS,
        mix=mix,
        findings=findings(dataset.audit) if dataset and dataset.audit else [],
        tokens=token_counts(dataset) if dataset else [],
        examples=[row_view(row) for row in _examples(dataset)] if dataset else [],
        preferences=_preferences(reports),
        proofs=_proofs(reports),
        trainings=_trainings(reports),
        stages=[training.stage for training in reports.trainings()],
        watched=list(_watched(reports)),
        steps=_steps(reports),
        trackers=[_tracker(link) for link in reports.trackers()],
    )


def _scores(evaluation: EvaluationReport) -> list[Row]:
    models, metrics = evaluated(evaluation)
    rows = []
    for metric in metrics:
        best = best_models(evaluation, metric)
        measured = [evaluation.models[model].metrics.get(metric) for model in models]
        cells = [
            _cell(metric, model, value, model in best) if value else None
            for model, value in zip(models, measured, strict=True)
        ]
        direction = {True: "higher is better", False: "lower is better", None: ""}[wording(metric).higher_is_better]
        rows.append(Row(wording(metric).label, direction, max(m.units for m in measured if m), cells))
    return rows


def _cell(metric: str, model: str, measured: Metric, best: bool) -> Cell:
    return Cell(model, quantity(metric, measured.value), interval(metric, measured), best, _bar(metric, measured))


def _bar(metric: str, measured: Metric) -> str | None:
    """Return the bar of a share as CSS variables, in percent of the cell."""
    if not wording(metric).share or not math.isfinite(measured.value):
        return None
    low = measured.value if measured.low is None else measured.low
    high = measured.value if measured.high is None else measured.high
    value, low, high = (100 * min(max(share, 0.0), 1.0) for share in (measured.value, low, high))
    return f"--value:{value:.1f}%;--low:{low:.1f}%;--span:{max(high - low, 0):.1f}%"


def _check(check: PromotionCheck) -> dict[str, object]:
    return {
        "passed": check.passed,
        "metric": wording(check.metric).label,
        "candidate": f"{model_label(check.candidate)} {quantity(check.metric, check.candidate_value)}",
        "against": f"{model_label(check.against)} {quantity(check.metric, check.against_value)}",
        "tolerance": quantity(check.metric, check.tolerance),
    }


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


def _proofs(reports: RunReports) -> list[Proof]:
    proofs = []
    if dataset := reports.dataset:
        rows = sum(source.rows for source in dataset.sources)
        numbers = [("Rows read", f"{rows:,}"), ("Sources", str(len(dataset.sources)))]
        claim = "Every row ends once: in train, eval or test, or dropped with a reason."
        proofs.append(Proof("Row ledger", True, claim, numbers))
        proofs.append(Proof("Mask", True, dataset.mask_proof, []))
        proofs.append(Proof("Splits", True, dataset.split_proof, []))
    if reports.dpo and reports.dpo.reference:
        proofs.append(_reference_proof(reports.dpo.reference))
    proofs += [_merge_proof(merge) for merge in reports.merges.values()]
    return proofs


def _reference_proof(proof: ReferenceProof) -> Proof:
    hashes = {proof.reference_sha256_before, proof.reference_sha256_after, proof.sft_sha256}
    return Proof(
        "Reference",
        len(hashes) == 1,
        "DPO starts at its reference, and the reference is the SFT model before and after training.",
        [
            ("Loss before the first update", f"{proof.step0_loss:.6f}"),
            ("Loss at zero log-ratios", f"{proof.expected_loss:.6f}"),
            ("Largest log-probability difference", f"{proof.max_logp_difference:.2g} nats"),
            ("Reference, before", _short(proof.reference_sha256_before)),
            ("Reference, after", _short(proof.reference_sha256_after)),
            ("SFT model", _short(proof.sft_sha256)),
            *_stored(proof),
        ],
    )


def _stored(proof: ReferenceProof) -> list[tuple[str, str]]:
    if not proof.stored_logps:
        return [("Its log-probabilities", "computed with every batch")]
    difference = proof.max_stored_difference or 0.0
    return [("Its log-probabilities", f"scored before training, up to {difference:.2g} nats from fresh ones")]


def _merge_proof(merge: MergeReport) -> Proof:
    return Proof(
        f"Merge, {model_label(merge.stage)}",
        max(merge.max_logit_difference, merge.reload_logit_difference) <= merge.tolerance,
        "The merged model is the adapted one, and the saved folder is the merged model.",
        [
            ("Adapter against merged", f"{merge.max_logit_difference:.2g}"),
            ("Merged against reloaded", f"{merge.reload_logit_difference:.2g}"),
            ("Logit difference allowed", f"{merge.tolerance:.2g}"),
            ("Greedy tokens that agree", f"{merge.greedy_tokens:,}"),
            ("Saved as", merge.dtype),
            ("Parameters", f"{merge.parameters:,}"),
        ],
    )


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
    by = f", the best by {wording(training.best_metric).label}" if training.best_metric else ""
    return f"step {training.best_step}{by}"


def _watched(reports: RunReports) -> Iterator[Watched]:
    for training in reports.trainings():
        label = model_label(training.stage)
        attempts = [(label, training), (f"{label}, first attempt", training.first_attempt)]
        yield from (_watch(name, attempt) for name, attempt in attempts if attempt is not None)


def _watch(label: str, training: TrainingReport) -> Watched:
    verdicts = [
        (verdict_name(verdict), verdict.name == "healthy", verdict.evidence, verdict.remedy)
        for verdict in training.verdicts
    ]
    return Watched(label, ending(training), verdicts, _drawings(training), list(_sampled_questions(training)))


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


def _drawings(training: TrainingReport) -> list[tuple[str, Markup]]:
    return [(curve.title, Markup(curve.svg)) for curve in training_curves(training)]  # drawn by us


def _steps(reports: RunReports) -> list[tuple[str, str, bool, float]]:
    """Return name, time, whether it was cached, and share of the longest step in percent."""
    run = reports.run
    longest = max(run.step_seconds.values(), default=0) or 1
    return [
        (name, duration(seconds), name in run.cached_steps, 100 * seconds / longest)
        for name, seconds in run.step_seconds.items()
    ]


def _tracker(link: TrackerLink) -> dict[str, object]:
    archive = link.offline_archive
    return {
        "stage": model_label(link.stage),
        "url": link.url,
        "is_web": (link.url or "").startswith(("https://", "http://")),
        "archive": archive,
        "upload": f"comet upload {shlex.quote(archive)}" if archive else None,
        "failures": link.failures,
    }


def _short(sha256: str) -> str:
    return sha256[:12]
