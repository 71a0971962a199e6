"""What else is known of the models of an evaluation, laid into its report."""

import hashlib
import json

from llm_engineering.reports.evaluation import EvaluationReport, HarnessReport, JudgeReport, ModelScores


def with_evidence(
    report: EvaluationReport, judge: JudgeReport | None = None, harness: HarnessReport | None = None
) -> EvaluationReport:
    """Return the report with the metrics of a judge and of the lm-evaluation-harness.

    Their settings become part of the fingerprint where they measured something: scores of another judge, or of tasks
    that were set up otherwise, do not compare.
    """
    found = [each for each in (judge, harness) if each is not None]
    models = {name: _with(scores, name, judge, harness) for name, scores in report.models.items()}
    measured = [each.settings_sha256 for each in found if each.metrics]
    return report.model_copy(
        update={
            "fingerprint": _fingerprint(report.fingerprint, measured),
            "models": models,
            "judge": judge,
            "notes": [*report.notes, *(note for each in found for note in each.notes)],
        }
    )


def _with(scores: ModelScores, name: str, judge: JudgeReport | None, harness: HarnessReport | None) -> ModelScores:
    metrics, outcomes = dict(scores.metrics), dict(scores.outcomes)
    for each in (judge, harness):
        if each is not None:
            metrics |= each.metrics.get(name, {})
            outcomes |= each.outcomes.get(name, {})
    return scores.model_copy(update={"metrics": metrics, "outcomes": outcomes})


def _fingerprint(own: str, settings: list[str]) -> str:
    return hashlib.sha256(json.dumps([own, *settings]).encode()).hexdigest() if settings else own
