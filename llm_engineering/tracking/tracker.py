"""What a stage says to its experiment; nothing in here ever raises or holds up a training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llm_engineering.reports.evaluation import EvaluationReport, SampleAnswers
from llm_engineering.reports.training import TrackerLink
from llm_engineering.tracking.archives import Record

_T = TypeVar("_T")
_LOGGER = logging.getLogger(__name__)

MEGABYTE = 10**6


class Tracker:
    """Takes what one stage has to say; does nothing where tracking is off, and never raises where it fails."""

    def __init__(self, stage: str, examples_at: Callable[[int], int] | None = None, adapter_mb: float = 0.0) -> None:
        self.link: TrackerLink | None = None
        """Where the stage was logged: known once its block has ended, and None where tracking is off."""
        self.stage = stage
        self.adapter_mb = adapter_mb
        self.examples_at = examples_at
        self.experiment: Any = None
        self.record: Record | None = None
        self.failures = 0

    @property
    def key(self) -> str | None:
        """The experiment's key; None where there is no experiment."""
        return self.experiment.id if self.experiment is not None else None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, at an optimizer step if given, with the examples seen until then where that is known.

        NaN and infinity are logged as what they are.
        """
        if self.experiment is not None:
            self.attempt("log metrics", lambda: self._log_metrics(dict(metrics), step))

    def _log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        if step is not None and self.examples_at is not None:
            metrics["examples"] = self.examples_at(step)
        epoch = int(metrics["epoch"]) if "epoch" in metrics else None
        self.experiment.log_metrics(metrics, step=step, epoch=epoch)

    def replay(self, history: Sequence[Mapping[str, float]], resumed_from: int, earlier: str | None = None) -> None:
        """Log again what an interrupted training had logged up to the checkpoint that it goes on from.

        Args:
            history: Its log; every entry has ``step``.
            resumed_from: The checkpoint's step.
            earlier: The key of the experiment that the interruption cut off.
        """
        self.add_tags([f"resumed_from:{resumed_from}"])
        self.log_others({"resumed_from": resumed_from, **({"resumed_from_experiment": earlier} if earlier else {})})
        for entry in history:
            self.log_metrics({name: value for name, value in entry.items() if name != "step"}, step=int(entry["step"]))

    def log_text(self, name: str, text: str, step: int | None = None) -> None:
        """Store a text as the asset ``name``, such as ``config.yaml``."""
        if self.experiment is not None:
            self.attempt(f"store {name}", lambda: self.experiment.log_asset_data(text, name=name, step=step))

    def log_others(self, values: Mapping[str, object]) -> None:
        """Log what is neither a metric nor a hyper-parameter."""
        if self.experiment is not None:
            self.attempt("log others", lambda: self.experiment.log_others(dict(values)))

    def add_tags(self, tags: Sequence[str]) -> None:
        """Add what the experiment is found by."""
        if self.experiment is not None:
            self.attempt("add tags", lambda: self.experiment.add_tags(list(tags)))

    def log_data(self, name: str, sha256: str, rows: Mapping[str, int]) -> None:
        """Name the rows that a stage works on: a reference by content hash, nothing is uploaded.

        Online it is a version of the Comet artifact ``name``, the same one for the same rows; offline, where Comet has
        no artifacts, a remote asset.

        Args:
            name: Such as ``sft-rows``.
            sha256: Hash of the rows.
            rows: Rows per split.
        """
        if self.experiment is not None:
            self.attempt(f"name the data {name}", lambda: _log_data(self.experiment, name, sha256, dict(rows)))

    def log_adapter(self, folder: Path) -> None:
        """Log a trained adapter as a model, or, where it is larger than is configured, its size alone."""
        if self.experiment is not None:
            self.attempt("store the adapter", lambda: self._log_adapter(folder))

    def _log_adapter(self, folder: Path) -> None:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEGABYTE
        self.log_others({"adapter_mb": round(size, 3)})
        if size <= self.adapter_mb:
            self.log_model(f"{self.stage}-adapter", folder)
        elif self.adapter_mb:
            self.log_others({"adapter_not_logged": f"larger than tracking.log_adapter_mb ({self.adapter_mb:g})"})

    def log_evaluation(self, report: EvaluationReport) -> None:
        """Log the metrics of every model, what held-out rows they were measured on, and the answers side by side."""
        for name, scores in report.models.items():
            self.log_metrics({f"{name}/{metric}": value.value for metric, value in scores.metrics.items()})
        self.log_others({"held_out_fingerprint": report.fingerprint, "split": report.split})
        numbers = report.model_dump_json(indent=2, exclude={"answers": True, "models": {"__all__": {"outcomes"}}})
        self.log_text("evaluation.json", numbers)
        self.log_text("samples.txt", "\n\n".join(map(_side_by_side, report.samples)))

    def log_model(self, name: str, folder: Path) -> None:
        """Log the files of a folder as the model ``name``."""
        if self.experiment is not None:
            log = self.experiment.log_model
            self.attempt(f"store the model {name}", lambda: log(name, str(folder), prepend_folder_name=False))

    def failed(self, message: str) -> None:
        """Count a failure, and say the first one."""
        self.failures += 1
        if self.failures == 1:
            _LOGGER.warning("Comet (%s) %s. Nothing else depends on it.", self.stage, message.rstrip(". \n"))

    def attempt(self, what: str, action: Callable[[], _T]) -> _T | None:
        """Return the action's result, or None where it fails, which is counted once."""
        before = self.failures
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - Comet raises its own, its server's, requests' and more
            if self.failures == before:
                self.failed(f"could not {what}: {type(error).__name__}: {error}")
            return None


def _side_by_side(sample: SampleAnswers) -> str:
    wanted = [] if sample.reference is None else [f"Reference: {sample.reference}"]
    return "\n".join([f"Question: {sample.prompt}", *wanted, *(f"{n}: {text}" for n, text in sample.answers.items())])


def _log_data(experiment: Any, name: str, sha256: str, rows: dict[str, int]) -> None:
    from comet_ml import Artifact, OfflineExperiment
    from comet_ml.exceptions import CometException

    uri, metadata = f"sha256:{sha256}", {"sha256": sha256, "rows": rows}
    if isinstance(experiment, OfflineExperiment):
        experiment.log_remote_asset(uri, remote_file_name=name, metadata=metadata)
        return
    alias = sha256[:12]
    try:
        experiment.get_artifact(name, version_or_alias=alias)  # which notes that this experiment uses it
    except CometException:  # there is none yet
        artifact = Artifact(name, "dataset", aliases=[alias], metadata=metadata)
        artifact.add_remote(uri, logical_path=name, metadata=metadata, sync_mode=False)
        experiment.log_artifact(artifact)
