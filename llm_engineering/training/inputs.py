"""Everything that a stage is handed beside its own configuration."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.hardware import HardwareConfig, LocalHardware
from llm_engineering.config.model import AdapterConfig, LoraAdapter, ModelConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.config.tracking import NoTracking, TrackingConfig, TransformersTracking
from llm_engineering.config.watch import WatchConfig
from llm_engineering.reports.folders import Checkpoint, ReferenceLogProbs, RowSet, StageName
from llm_engineering.tracking import Origin, Tracker, tracked_stage
from llm_engineering.training.arguments import examples_seen


@dataclass(frozen=True)
class StageInputs:
    """Everything a stage needs beside its own configuration."""

    base: Checkpoint
    """The model that gets the adapter; in DPO also the frozen reference."""
    rows: RowSet
    questions: RowSet
    work_dir: Path
    """Checkpoints and the finished adapter; a training that was interrupted is taken up from here."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """How the base is loaded; which one it is, ``base`` says."""
    adapter: AdapterConfig = field(default_factory=LoraAdapter)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """By what models are measured while they train."""
    tracking: TrackingConfig = field(default_factory=NoTracking)
    seed: int = 42
    run: str = "run"
    """The run's name, for the tracker."""
    archive_dir: Path = Path("comet-offline")
    """Gets the tracker's offline archive."""
    sources: Sequence[str] = ()
    """What the user calls the sources of the rows, by the number that rows carry."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    """What the curves are judged by, and what a verdict leads to."""
    reference: ReferenceLogProbs | None = None
    """The reference's log-probabilities, for DPO; None: they are computed where they are wanted."""
    origin: Origin = field(default_factory=Origin)
    """The run that the stage belongs to, for the tracker."""
    hardware: HardwareConfig = field(default_factory=LocalHardware)
    """In how many processes the stage is trained, and how they share it."""

    def tracked(self, stage: StageName, config: StageConfig) -> AbstractContextManager[Tracker]:
        """Return the experiment of one stage, with every setting that shaped it."""
        parameters = {
            "data": self.origin.configuration.get("data", {}),
            stage: config.model_dump(mode="json"),
            "adapter": self.adapter.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "evaluation": self.evaluation.model_dump(mode="json"),
            "watch": self.watch.model_dump(mode="json"),
            "seed": self.seed,
            "rows_sha256": self.rows.sha256,
            "base_weights_sha256": self.base.weights_sha256,
        }
        return tracked_stage(
            self.tracking,
            stage=stage,
            name=f"{self.run}-{stage}",
            tags=[self.run, Path(self.base.base).name, f"data:{self.rows.sha256[:12]}"],
            parameters=parameters,
            archive_dir=self.archive_dir,
            origin=self.origin,
            examples_at=lambda step: examples_seen(config, self.rows.rows["train"], step),
        )

    @property
    def report_to(self) -> list[str]:
        """The trackers of transformers that get the training's numbers."""
        return self.tracking.report_to if isinstance(self.tracking, TransformersTracking) else []
