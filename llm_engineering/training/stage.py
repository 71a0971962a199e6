"""What SFT and DPO do alike: train or take up an interrupted training, keep the adapter or the model, report."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llm_engineering.config.hardware import HardwareConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.config.watch import WatchConfig
from llm_engineering.models.checkpoints import describe_checkpoint, save_model
from llm_engineering.models.hardware import describe_hardware
from llm_engineering.models.sharding import size_of, whole
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.reports.training import TrainingReport, Verdict
from llm_engineering.tracking import Tracker
from llm_engineering.training.arguments import planned_steps
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.probes import read_samples, replay_samples
from llm_engineering.training.recovery import is_finished, last_checkpoint, logged_until, step_of, writing
from llm_engineering.training.watch import Judge, acting, history_of, watched

if TYPE_CHECKING:
    from transformers import TrainerCallback

_log = logging.getLogger(__name__)
CUT_WEIGHTS = ("fsdp", "deepspeed_zero3")
"""Strategies in which no process has a whole weight."""


def seed_everything(seed: int) -> None:
    """Seed all generators: the adapter is drawn before TRL seeds anything."""
    from transformers import set_seed

    set_seed(seed)


def early_stopping(config: StageConfig) -> "list[TrainerCallback]":
    """Return the callback that stops a stage whose best metric no longer improves."""
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(early_stopping_patience=config.patience)] if config.patience else []


def train(
    trainer: Any,
    stage: StageName,
    config: StageConfig,
    inputs: StageInputs,
    tracker: Tracker,
    lengths: Sequence[int],
    judge: Judge,
) -> tuple[Checkpoint, TrainingReport]:
    """Train, from the last valid checkpoint where there is one, and return what was trained and what was done.

    Args:
        trainer: A :class:`~llm_engineering.training.trainers.StageTrainer`, ready to train.
        stage: Its name.
        config: Its configuration.
        inputs: Its inputs.
        tracker: Gets the totals; the series reach it through a callback.
        lengths: Tokens of every training row.
        judge: Says what the stage's curves show.
    """
    trained, total = _parameters(trainer)
    _log.info(
        "%s trains %s of %s parameters (%.1f %%), %d updates of %d rows",
        stage.upper(),
        f"{trained:,}",
        f"{total:,}",
        100 * trained / total,
        planned_steps(config, len(lengths)),
        config.effective_batch,
    )
    notes = _notes(trainer, config)
    for note in notes:
        _log.warning(note)
    trainer.source_names = inputs.sources
    with trainer.accelerator.main_process_first():  # which removes a torn one
        interrupted = last_checkpoint(inputs.work_dir)
    _introduce(tracker, stage, inputs, interrupted)
    started = time.perf_counter()
    _take_up(trainer, stage, interrupted)
    seconds = time.perf_counter() - started - trainer.evaluation_seconds
    stopped_by = _stopped_by(trainer, judge, inputs.watch)  # before the closing evaluation adds to the log
    if trainer.eval_dataset is not None and not config.evaluation_interval:
        trainer.evaluate()
    result = _keep_adapter(trainer, inputs) if hasattr(trainer.model, "peft_config") else _keep_model(trainer, inputs)
    report = _report(trainer, stage, config, lengths, seconds, step_of(interrupted) if interrupted else None)
    speed = {"tokens_per_second": report.tokens_per_second, "pairs_per_second": report.pairs_per_second}
    totals = {"train_seconds": seconds, **{name: value for name, value in speed.items() if value is not None}}
    tracker.log_metrics(totals, step=report.steps)
    if result.kind == "adapter":
        tracker.log_adapter(result.path)
    return result, watched(report.model_copy(update={"stopped_by": stopped_by, "notes": notes}), inputs.watch, judge)


def _introduce(tracker: Tracker, stage: StageName, inputs: StageInputs, interrupted: Path | None) -> None:
    """Tell the tracker what is trained on what, and, where a training is taken up, all that it had logged."""
    tracker.log_others({"base": inputs.base.base, "base_weights_sha256": inputs.base.weights_sha256})
    tracker.log_data(f"{stage}-rows", inputs.rows.sha256, inputs.rows.rows)
    remembered = inputs.work_dir / "experiment"
    if interrupted:
        earlier = remembered.read_text(encoding="utf-8") if remembered.is_file() else None
        tracker.replay(logged_until(interrupted), step_of(interrupted), earlier)
        replay_samples(inputs.work_dir, stage, step_of(interrupted), tracker)
    if key := tracker.key:
        inputs.work_dir.mkdir(parents=True, exist_ok=True)
        tracker.attempt("note its key", lambda: remembered.write_text(key, encoding="utf-8"))


def _stopped_by(trainer: Any, judge: Judge, watch: WatchConfig) -> Verdict | None:
    """Return the verdict that ended a training, from its log alone: it may have been taken up after its end."""
    state = trainer.state
    if state.global_step >= state.max_steps:
        return None
    found = acting(judge(history_of(state.log_history), state.max_steps, watch), watch.on)
    return found[0].model_copy(update={"first_seen": state.global_step}) if found else None


def _take_up(trainer: Any, stage: StageName, interrupted: Path | None) -> None:
    """Train to the end: from the start, from a checkpoint, or not at all where the checkpoint is the end."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    if interrupted and is_finished(interrupted):
        _log.info("%s had ended at step %d; its weights are taken.", stage.upper(), step_of(interrupted))
        trainer.take_up(interrupted)
        return
    if interrupted:
        _log.info("%s was interrupted; it goes on from step %d.", stage.upper(), step_of(interrupted))
    trainer.train(resume_from_checkpoint=str(interrupted) if interrupted else None)


def _parameters(trainer: Any) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are, adapter included."""
    counts = [(size_of(p), p.requires_grad) for p in trainer.model.parameters()]
    return sum(number for number, trained in counts if trained), sum(number for number, _ in counts)


def _keep_adapter(trainer: Any, inputs: StageInputs) -> Checkpoint:
    """Write the adapter alone, with name, revision and hash of the model it belongs to.

    That is the base in SFT, but the merged SFT model in DPO, which has no name but its folder.
    """
    folder, base = inputs.work_dir / "adapter", inputs.base
    is_named = base.weights_sha256 == base.base_sha256
    adapter = trainer.model.peft_config["default"]
    adapter.base_model_name_or_path = base.base if is_named else str(base.path)
    adapter.revision = inputs.model.revision if is_named else None
    belongs_to = {"name": adapter.base_model_name_or_path, "revision": adapter.revision, "sha256": base.weights_sha256}
    trained = None
    if trainer.processes > 1:
        trained = {name: whole(p) for name, p in trainer.model.named_parameters() if p.requires_grad}
    if trainer.is_first:
        with writing(folder):
            trainer.model.save_pretrained(folder, state_dict=trained, save_embedding_layers=False)
            (folder / "base_model.json").write_text(json.dumps(belongs_to, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()
    return describe_checkpoint(folder, "adapter", inputs.base)


def _keep_model(trainer: Any, inputs: StageInputs) -> Checkpoint:
    """Write all weights, where all were trained."""
    folder = inputs.work_dir / "model"
    is_cut = trainer.hardware.strategy in CUT_WEIGHTS
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if is_cut else None
    if trainer.is_first:
        with writing(folder):
            save_model(trainer.model, trainer.processing_class, folder, weights)
    trainer.accelerator.wait_for_everyone()
    return describe_checkpoint(folder, "model", inputs.base)


def _notes(trainer: Any, config: StageConfig) -> list[str]:
    """Return what is done in another way than configured."""
    if trainer.args.optim == config.optimizer:
        return []
    return [
        f"The optimizer {config.optimizer} needs a CUDA GPU and bitsandbytes, which are not here: "
        f"{trainer.args.optim.value} steps in."
    ]


def _where(hardware: HardwareConfig) -> str:
    """Return what trained, in a phrase: ``2 processes (ddp) on CPU, 1 thread`` where there are several."""
    each = describe_hardware()
    return f"{hardware.processes} processes ({hardware.strategy}), each on {each}" if hardware.strategy else each


def _report(
    trainer: Any,
    stage: StageName,
    config: StageConfig,
    lengths: Sequence[int],
    seconds: float,
    resumed_from: int | None,
) -> TrainingReport:
    state = trainer.state
    rows_per_second = (state.global_step - (resumed_from or 0)) * config.effective_batch / seconds
    history = history_of(state.log_history)
    trained, total = _parameters(trainer)
    return TrainingReport(
        stage=stage,
        steps=state.global_step,
        planned_steps=planned_steps(config, len(lengths)),
        epochs=state.epoch or 0.0,
        seconds=seconds,
        rows=len(lengths),
        effective_batch=config.effective_batch,
        tokens_per_second=rows_per_second * fmean(lengths) if stage == "sft" else None,
        pairs_per_second=rows_per_second if stage == "dpo" else None,
        trainable_parameters=trained,
        parameters=total,
        history=history,
        metrics={name: value for entry in history for name, value in entry.items() if name != "step"},
        best_step=state.best_global_step,
        best_metric=config.best_metric,
        resumed_from=resumed_from,
        stopped_early=state.global_step < state.max_steps,
        path=trainer.path,
        hardware=_where(trainer.hardware),
        processes=trainer.hardware.processes,
        strategy=trainer.hardware.strategy,
        samples=read_samples(Path(trainer.args.output_dir)),
    )
