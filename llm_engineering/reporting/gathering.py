"""Gather what a run measured: the one place where stored reports become what every reader is shown."""

from collections.abc import Iterable

from llm_engineering.config.watch import WatchConfig
from llm_engineering.reporting.bundle import Measured
from llm_engineering.reports.data import DatasetReport, PreferenceReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.training import MergeReport, TrainingReport
from llm_engineering.training.verdicts import judged_anew


def gather(
    watch: WatchConfig,
    dataset: DatasetReport | None,
    trainings: Iterable[TrainingReport],
    merges: Iterable[MergeReport],
    evaluation: EvaluationReport | None,
    preferences: PreferenceReport | None,
) -> Measured:
    """Return what was measured; all curves, those of cached trainings too, are judged by these thresholds."""
    judged = {training.stage: judged_anew(training, watch, evaluation) for training in trainings}
    return Measured(
        dataset=dataset,
        preferences=preferences,
        sft=judged.get("sft"),
        dpo=judged.get("dpo"),
        merges={merge.stage: merge for merge in merges},
        evaluation=evaluation,
    )
