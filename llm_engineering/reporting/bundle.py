"""What is known about one run, in one value: the input of every report."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from llm_engineering.reports.data import DatasetReport, PreferenceReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Artifact, Checkpoint, StageName
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from llm_engineering.reports.training import MergeReport, TrackerLink, TrainingReport


class ModelVersion(Artifact):
    """The version of the ZenML model that a run made."""

    name: str
    version: str | None = None
    stage: str | None = None
    """The stage that the version holds after the run."""


class RunFacts(Artifact):
    """What the orchestrator knows about a run."""

    name: str
    id: str
    pipeline: str
    status: Literal["completed", "failed"] = "completed"
    seconds: float
    """Wall-clock time of the whole run."""
    step_seconds: dict[str, float] = Field(default_factory=dict)
    """Wall-clock time per step, in the order in which they ran."""
    cached_steps: list[str] = Field(default_factory=list)
    """Steps whose result an earlier run had made."""
    model: ModelVersion | None = None
    error: str | None = None
    """The sentence that a failed run ended with."""
    seed: int | None = None
    code_commit: str | None = None
    """The commit of the repository that the run was started from; None where git does not know."""
    code_dirty: bool | None = None
    """Whether files differed from that commit, or stood beside it."""
    hardware: str | None = None
    """The machine that the run was started on; where each stage was trained stands in its report."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """Where things lie: name and path (``sft_model``, ``dpo_model``, ``report`` ...)."""


class Measured(Artifact):
    """What a run measured and proved before it decided; what its pipeline does not have, or did not reach, is missing.

    The verdicts on its curves are those of the thresholds that this run has.
    """

    dataset: DatasetReport | None = None
    preferences: PreferenceReport | None = None
    """Pairs that were sampled; they are not in the ledger of ``dataset``."""
    sft: TrainingReport | None = None
    dpo: TrainingReport | None = None
    merges: dict[StageName, MergeReport] = Field(default_factory=dict)
    evaluation: EvaluationReport | None = None

    def trainings(self) -> Iterator[TrainingReport]:
        """Yield the training reports there are, in the order of the stages."""
        yield from (report for report in (self.sft, self.dpo) if report is not None)

    def promoted(self, decision: PromotionDecision, models: Sequence[Checkpoint]) -> Checkpoint | None:
        """Return the promoted one of the models that the trainings made, in their order."""
        stages = [training.stage for training in self.trainings()]
        return dict(zip(stages, models, strict=True)).get(decision.promoted) if decision.promoted else None


class RunReports(Measured):
    """The reports of a run: what was measured, what was decided on it, and what became of that."""

    run: RunFacts
    decision: PromotionDecision | None = None
    exports: ExportReport | None = None
    config_yaml: str = ""
    """The configuration with every default resolved."""
    published: TrackerLink | None = None
    """Where the report itself was logged, which it cannot name."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that the results depend on."""

    def trackers(self) -> Iterator[TrackerLink]:
        """Yield the links to the experiment tracker, in the order of the stages."""
        links = [training.tracker for training in self.trainings()]
        if self.evaluation:
            links.append(self.evaluation.tracker)
        links.append(self.published)
        yield from (link for link in links if link is not None)
