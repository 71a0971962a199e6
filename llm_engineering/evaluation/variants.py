"""Models of a comparison or a sweep side by side: paired differences, and which is the best."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from llm_engineering.config.metrics import higher_is_better
from llm_engineering.evaluation.paired import paired_differences
from llm_engineering.reports.evaluation import (
    ComparisonReport,
    EvaluationReport,
    PairedDifference,
    SampleAnswers,
    Variant,
)


def together(reports: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """Return several evaluations as one; those of other rows keep their values, but do not compare in pairs."""
    if len(reports) < 2:
        return reports[0] if reports else None
    fingerprints = list(dict.fromkeys(report.fingerprint for report in reports))
    prompts = {(sample.prompt, sample.reference) for report in reports for sample in report.samples}
    samples = {key: SampleAnswers(prompt=key[0], reference=key[1], answers={}) for key in sorted(prompts, key=str)}
    for sample in (sample for report in reports for sample in report.samples):
        samples[sample.prompt, sample.reference].answers.update(sample.answers)
    notes = list(dict.fromkeys(note for report in reports for note in report.notes))
    if len(fingerprints) > 1:
        notes.append("Not all models were measured on the same rows: they are not tested in pairs.")
    joined = hashlib.sha256("".join(fingerprints).encode()).hexdigest()
    return reports[0].model_copy(
        update={
            "fingerprint": fingerprints[0] if len(fingerprints) == 1 else joined,
            "models": {name: scores for report in reports for name, scores in report.models.items()},
            "samples": list(samples.values()),
            "changes": {name: counts for report in reports for name, counts in report.changes.items()},
            "notes": notes,
            "seconds": sum(report.seconds for report in reports),
        }
    )


def compare(
    kind: Literal["comparison", "sweep"],
    variants: Sequence[Variant],
    evaluations: Sequence[EvaluationReport],
    metric: str | None,
    tested: Sequence[str],
    against: Mapping[str, Sequence[str]] | None,
    notes: Sequence[str],
    seconds: float,
) -> ComparisonReport:
    """Return the report of a comparison or a sweep.

    Args:
        kind: Which.
        variants: In the order in which they are shown, with what was made of them.
        evaluations: Of those that did not fail; several where not all read the same held-out rows.
        metric: What they are ranked by; None: they are not ranked.
        tested: Metrics of the paired tests; only those that have outcomes per unit can be tested.
        against: Whom each is tested against; None: each against the best one.
        notes: What a reader should know beforehand.
        seconds: The wall-clock time of the whole run.
    """
    evaluation = together(evaluations)
    models = evaluation.models if evaluation else {}
    measured = [
        one.model_copy(update={"model_sha256": models[one.name].checkpoint_sha256 if one.name in models else None})
        for one in variants
    ]
    best, ranking = best_of(evaluation, metric) if evaluation and metric else (None, [])
    if against is None:
        against = {name: [best] for name in models if best and name != best}
    return ComparisonReport(
        kind=kind,
        variants=measured,
        evaluation=evaluation,
        differences=_differences(evaluations, against, tested),
        metric=metric,
        best=best,
        notes=[*notes, *ranking],
        seconds=seconds,
    )


def best_of(evaluation: EvaluationReport, metric: str) -> tuple[str | None, list[str]]:
    """Return the best model by a metric, and what is to be known of the choice.

    Of equals it is the one that moved least from its parent (``kl_per_token``), else the first.
    """
    values = {
        name: scores.metrics[metric].value
        for name, scores in evaluation.models.items()
        if metric in scores.metrics and not math.isnan(scores.metrics[metric].value)
    }
    if not values:
        known = sorted({name for scores in evaluation.models.values() for name in scores.metrics})
        return None, [f"No model has a value of {metric}, so that none is the best. There are: {', '.join(known)}."]
    top = max(values.values()) if higher_is_better(metric) else min(values.values())
    equal = sorted((name for name in values if values[name] == top), key=lambda name: _moved(evaluation, name))
    notes = [f"Ranked by {metric} on the {evaluation.split} split."]
    if len(equal) > 1:
        notes.append(f"Equally good: {'; '.join(equal[1:])}. The one that moved least from its parent (KL) is taken.")
    if len(values) > 1:
        notes.append(
            f"The best of {len(values)} looks better on the split that it was chosen by than on rows that nobody chose "
            "by."
        )
    return equal[0], notes


def _moved(evaluation: EvaluationReport, name: str) -> float:
    """Return a model's KL from its parent; infinity where that was not measured."""
    found = evaluation.models[name].metrics.get("kl_per_token")
    return found.value if found and not math.isnan(found.value) else math.inf


def _differences(
    evaluations: Sequence[EvaluationReport], against: Mapping[str, Sequence[str]], tested: Sequence[str]
) -> list[PairedDifference]:
    """Return the paired tests of models that were measured on the same rows."""
    measured = {name: (report.fingerprint, scores) for report in evaluations for name, scores in report.models.items()}
    pairs = [
        (name, other)
        for name, others in against.items()
        for other in others
        if name != other and name in measured and other in measured and measured[name][0] == measured[other][0]
    ]
    return [
        difference
        for name, other in pairs
        for difference in paired_differences(name, other, (measured[name][1], measured[other][1]), tested)
    ]
