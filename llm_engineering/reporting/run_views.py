"""What several pages show of a run: scores, the checks of its decision, its proofs, and where it comes from."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llm_engineering.config.metrics import GROUPS, MetricRow, row_of
from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.words import best_models, duration, evaluated, interval, model_label, number, quantity
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import EvaluationReport, Metric, PairedDifference
from llm_engineering.reports.promotion import PromotionCheck
from llm_engineering.reports.training import LossProof, MergeReport, ReferenceProof, TrackerLink


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


def check_view(check: PromotionCheck) -> dict[str, object]:
    """Return one check as it is shown: both values, the tolerance, the evidence and what came of it."""
    return {
        "passed": check.passed,
        "metric": row_of(check.metric).label,
        "candidate": f"{model_label(check.candidate)} {quantity(check.metric, check.candidate_value)}",
        "against": f"{model_label(check.against)} {quantity(check.metric, check.against_value)}",
        "tolerance": quantity(check.metric, check.tolerance),
        "evidence": evidence(check.paired) if check.paired else "values alone",
        "verdict": check.verdict or ("passed" if check.passed else "failed"),
        "note": check.note,
    }


def evidence(paired: PairedDifference) -> str:
    """Return a paired difference in words: the value with its interval, p-value and units."""
    unit = f" {row_of(paired.metric).unit}" if row_of(paired.metric).unit else ""
    ends = ""
    if paired.low is not None and paired.high is not None:
        ends = f" ({signed_number(paired.metric, paired.low)} to {signed_number(paired.metric, paired.high)})"
    p_value = "" if paired.p_value is None else f", p = {paired.p_value:.2g}"
    units = f"{paired.units:,} unit{'' if paired.units == 1 else 's'}"
    return f"{signed_number(paired.metric, paired.difference)}{unit}{ends}{p_value}, {units}"


def signed_number(metric: str, difference: float) -> str:
    """Return a difference with its sign, without its unit."""
    written = number(metric, abs(difference))
    if float(written.replace(",", "")) == 0:
        return written
    return ("+" if difference > 0 else "\N{MINUS SIGN}") + written


@dataclass(frozen=True)
class Proof:
    """One thing that was checked, and what came out."""

    title: str
    passed: bool
    claim: str
    numbers: list[tuple[str, str]]


def proofs_of(reports: RunReports) -> list[Proof]:
    """Return every proof of a run, in the order in which they were made."""
    proofs = []
    if dataset := reports.dataset:
        rows = sum(source.rows for source in dataset.sources)
        numbers = [("Rows read", f"{rows:,}"), ("Sources", str(len(dataset.sources)))]
        claim = "Every row ends once: in train, eval or test, or dropped with a reason."
        proofs.append(Proof("Row ledger", True, claim, numbers))
        proofs.append(Proof("Mask", True, dataset.mask_proof, []))
        proofs.append(Proof("Splits", True, dataset.split_proof, []))
    if reports.dpo and reports.dpo.proof:
        proofs.append(training_proof(reports.dpo.proof))
    proofs += [merge_proof(merge) for merge in reports.merges.values()]
    return proofs


def training_proof(proof: LossProof) -> Proof:
    """Return what was checked before DPO's first update: of the frozen reference, or of a loss that has none."""
    if isinstance(proof, ReferenceProof):
        return _reference_proof(proof)
    return Proof(
        "First loss",
        True,
        "DPO's loss, which has no reference, starts at what its formula gives for the untrained policy.",
        [
            ("Loss before the first update", f"{proof.step0_loss:.6f}"),
            ("Loss by its formula", f"{proof.expected_loss:.6f}"),
        ],
    )


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


def merge_proof(merge: MergeReport) -> Proof:
    """Return what was checked of a merged model."""
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


def _short(sha256: str) -> str:
    return sha256[:12]


@dataclass(frozen=True)
class Fact:
    """One line of the lineage."""

    name: str
    value: str
    is_code: bool = False
    """A hash, a path: nothing to read word by word."""


def lineage(
    run: RunFacts,
    dataset: DatasetReport | None = None,
    evaluation: EvaluationReport | None = None,
    titles: Mapping[str, str] | None = None,
) -> list[Fact]:
    """Return what is known of a run's origin: code, machine, seed, data, weights, and where things lie."""
    return [*_origin(run), *_fingerprints(dataset, evaluation), *_weights(evaluation, titles), *_artifacts(run)]


def _origin(run: RunFacts) -> Iterator[Fact]:
    if version := run.model:
        parts = (version.name, version.version and f"version {version.version}", version.stage)
        yield Fact("Model", ", ".join(part for part in parts if part))
    yield Fact("Code", code_words(run))
    if run.hardware:
        yield Fact("Started on", run.hardware)
    if run.seed is not None:
        yield Fact("Seed", str(run.seed))


def code_words(run: RunFacts) -> str:
    """Return which code ran: its commit, and whether the files were that commit's."""
    if not run.code_commit:
        return "no commit is known: the code lay in no git repository, or git is missing"
    words = {None: "", False: ", unchanged", True: ", with changes that are in no commit"}
    return f"commit {run.code_commit}{words[run.code_dirty]}"


def _fingerprints(dataset: DatasetReport | None, evaluation: EvaluationReport | None) -> Iterator[Fact]:
    if dataset:
        for kind, fingerprint in dataset.fingerprints.items():
            yield Fact(f"Rows, {model_label(kind)}", fingerprint, is_code=True)
    if evaluation:
        yield Fact("Evaluation", evaluation.fingerprint, is_code=True)


def _weights(evaluation: EvaluationReport | None, titles: Mapping[str, str] | None) -> Iterator[Fact]:
    for name in evaluated(evaluation)[0] if evaluation else []:
        assert evaluation is not None
        yield Fact(f"Weights, {title_of(name, titles)}", evaluation.models[name].checkpoint_sha256, is_code=True)


def _artifacts(run: RunFacts) -> Iterator[Fact]:
    for name, path in run.artifacts.items():
        yield Fact(name.replace("_", " "), path, is_code=True)


@dataclass(frozen=True)
class TrackerWords:
    """Where the experiment tracker keeps one stage."""

    stage: str
    url: str | None
    is_web: bool
    """The address may become a link."""
    archive: str | None
    upload: str | None
    failures: int


def tracker_words(links: Iterable[TrackerLink]) -> list[TrackerWords]:
    """Return links to the tracker as pages show them; an archive comes with the command that sends it."""
    return [
        TrackerWords(
            stage=model_label(link.stage),
            url=link.url,
            is_web=(link.url or "").startswith(("https://", "http://")),
            archive=link.offline_archive,
            upload=f"comet upload {shlex.quote(link.offline_archive)}" if link.offline_archive else None,
            failures=link.failures,
        )
        for link in links
    ]


def step_times(run: RunFacts) -> list[tuple[str, str, bool, float]]:
    """Return name, time, whether it was cached, and share of the longest step in percent."""
    longest = max(run.step_seconds.values(), default=0) or 1
    timed = [
        (name, duration(seconds), name in run.cached_steps, 100 * seconds / longest)
        for name, seconds in run.step_seconds.items()
    ]
    return timed + [(name, "-", True, 0.0) for name in run.cached_steps if name not in run.step_seconds]
