"""The summary that machines read: one JSON object a run, the same keys every time."""

import math

from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.data_views import ROW_KINDS, together
from llm_engineering.reports.data import SourceLedger
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Variant
from llm_engineering.reports.folders import RowKind
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import TrainingReport


def build_summary(reports: RunReports) -> dict[str, object]:
    """Return the summary of a run, ready for ``json.dumps(..., allow_nan=False)``.

    All keys of the first level are always there; what the run does not have is ``null`` or empty. Numbers that JSON
    has no word for (NaN, infinity) are ``null``.
    """
    evaluation, decision, version = reports.evaluation, reports.decision, reports.run.model
    summary = {
        "run": reports.run.model_dump(mode="json", exclude={"model", "artifacts"}),
        "model": version.model_dump(mode="json") if version else None,
        "data": {kind: rows for kind in ROW_KINDS if (rows := _rows(reports, kind))},
        "promotion": _promotion(decision),
        "exports": [each.model_dump(mode="json") for each in reports.exports.exports] if reports.exports else [],
        "training": {training.stage: _training(training) for training in reports.trainings()},
        "models": _values(evaluation),
        "proofs": _proofs(reports),
        "tracker": [link.model_dump(mode="json", exclude_none=True) for link in reports.trackers()],
        "artifacts": dict(reports.run.artifacts),
    }
    return _ready(summary)


def build_comparison_summary(
    report: ComparisonReport, run: RunFacts, decision: PromotionDecision | None = None
) -> dict[str, object]:
    """Return the summary of a comparison or a sweep, ready for ``json.dumps(..., allow_nan=False)``.

    Args:
        report: The models, how they were made, and what was measured.
        run: What the orchestrator knows about the run.
        decision: What became of the best run of a sweep.
    """
    evaluation, version = report.evaluation, run.model
    summary = {
        "run": run.model_dump(mode="json", exclude={"model", "artifacts"}),
        "model": version.model_dump(mode="json") if version else None,
        "kind": report.kind,
        "metric": report.metric,
        "best": report.best,
        "promotion": _promotion(decision),
        "variants": {variant.name: _variant(variant) for variant in report.variants},
        "models": _values(evaluation),
        "intervals": _intervals(evaluation),
        "differences": [found.model_dump(mode="json") for found in report.differences],
        "notes": report.notes,
        "artifacts": dict(run.artifacts),
    }
    return _ready(summary)


def _variant(variant: Variant) -> dict[str, object]:
    facts = variant.model_dump(mode="json", include={"title", "changes", "error", "model_sha256"})
    return {**facts, "training": {training.stage: _training(training) for training in variant.trainings}}


def _promotion(decision: PromotionDecision | None) -> dict[str, object] | None:
    return decision.model_dump(mode="json", include={"promoted", "stage", "reason"}) if decision else None


def _values(evaluation: EvaluationReport | None) -> dict[str, dict[str, float]]:
    models = evaluation.models if evaluation else {}
    return {name: {m: metric.value for m, metric in scores.metrics.items()} for name, scores in models.items()}


def _intervals(evaluation: EvaluationReport | None) -> dict[str, dict[str, list[float]]]:
    """Return the ends of the 95 % intervals, where they are defined."""
    return {
        name: {
            m: [metric.low, metric.high]
            for m, metric in scores.metrics.items()
            if metric.low is not None and metric.high is not None
        }
        for name, scores in (evaluation.models if evaluation else {}).items()
    }


def _ready(summary: object) -> dict[str, object]:
    finite = _finite(summary)
    assert isinstance(finite, dict)
    return finite


def _rows(reports: RunReports, kind: RowKind) -> dict[str, object] | None:
    """Return what became of the rows of one kind, summed over their sources; None where there are none.

    Pairs that were sampled from the SFT model count as rows, too.
    """
    ledgers = reports.dataset.ledger(kind) if reports.dataset else []
    sampled = reports.preferences.pairs if reports.preferences and kind == "preference" else {}
    if not ledgers and not sampled:
        return None
    summed = together(ledgers) if ledgers else SourceLedger(kind=kind, source="sampled", format="", rows=0)
    return {
        "rows": summed.rows + sum(sampled.values()),
        "train": summed.train + sampled.get("train", 0),
        "eval": summed.eval + sampled.get("eval", 0),
        "test": summed.test + sampled.get("test", 0),
        "examples": summed.examples + sum(sampled.values()),
        "truncated": summed.truncated,
        "tokens_lost": summed.tokens_lost,
        "trained_tokens_lost": summed.trained_tokens_lost,
        "answers_cut": summed.answers_cut,
        "dropped": dict(summed.dropped),
        "found": dict(summed.found),
    }


def _training(report: TrainingReport) -> dict[str, object]:
    """Return what one stage did; ``first_attempt`` is the same of a DPO that was displaced and trained anew."""
    facts = {"steps", "planned_steps", "effective_batch", "seconds", "path", "notes"}
    facts |= {"best_step", "resumed_from", "stopped_early"}
    speed = {name for name in ("tokens_per_second", "pairs_per_second") if getattr(report, name) is not None}
    watch = {"verdicts", "stopped_by", "restarted_with_nll"}
    first = _training(report.first_attempt) if report.first_attempt else None
    return {**report.model_dump(mode="json", include=facts | speed | watch | {"metrics"}), "first_attempt": first}


def _proofs(reports: RunReports) -> dict[str, object]:
    of_dpo = reports.dpo.proof if reports.dpo else None
    reference = reports.dpo.reference if reports.dpo else None
    proof = {"max_logit_difference", "reload_logit_difference", "greedy_tokens"}
    return {
        "step0_loss": of_dpo.step0_loss if of_dpo else None,
        "expected_step0_loss": of_dpo.expected_loss if of_dpo else None,
        "reference_hash": reference.reference_sha256_before if reference else None,
        "reference_hash_after": reference.reference_sha256_after if reference else None,
        "sft_hash": reference.sft_sha256 if reference else None,
        "merge": {stage: merge.model_dump(mode="json", include=proof) for stage, merge in reports.merges.items()},
        "mask": reports.dataset.mask_proof if reports.dataset else None,
        "splits": reports.dataset.split_proof if reports.dataset else None,
    }


def _finite(value: object) -> object:
    """Return ``value`` with numbers that JSON has no word for replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
