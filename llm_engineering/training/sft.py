"""Supervised fine-tuning: cross-entropy on the answer tokens, by an adapter on the frozen base or by all weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.config.hardware import HardwareConfig, LocalHardware
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.adapters import adapter_config, load_for_training
from llm_engineering.models.backends import pick_backend
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.arguments import as_asked, common_arguments, planned_steps, require_shares
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.launcher import launch
from llm_engineering.training.memory import enough_memory
from llm_engineering.training.probes import probes
from llm_engineering.training.processes.strategy import strategy_arguments
from llm_engineering.training.stage import early_stopping, seed_everything, train
from llm_engineering.training.upstream import require_upstream
from llm_engineering.training.watch import judge_sft

if TYPE_CHECKING:
    from trl import SFTConfig


def launch_sft(config: SFTStageConfig, inputs: StageInputs) -> tuple[Checkpoint, TrainingReport]:
    """Train as :func:`train_sft` does, in as many processes as are configured."""
    return launch("sft", train_sft, config, inputs)


def train_sft(config: SFTStageConfig, inputs: StageInputs) -> tuple[Checkpoint, TrainingReport]:
    """Train on conversations and return the adapter, or the whole model, with a report.

    Minimises ``-sum log p(y_t | x, y_<t)`` over the answer tokens, EOS included, averaged over the tokens of an update.
    """
    require_upstream("sft")
    from trl.trainer.utils import disable_dropout_in_model

    from llm_engineering.training.progress import Progress, TrackSeries, Watch
    from llm_engineering.training.sft_trainer import PreparedSFTTrainer

    seed_everything(inputs.seed)
    tokenizer = load_chat_tokenizer(inputs.base, inputs.model).tokenizer
    model = load_for_training(inputs.base.path, inputs.model, inputs.adapter, inputs.hardware)
    if config.disable_dropout:
        disable_dropout_in_model(model)
    rows = read_rows(inputs.rows, "train")
    held_out = read_rows(inputs.rows, "eval") if inputs.rows.rows.get("eval") else None
    lengths = [len(ids) for ids in rows["input_ids"]]
    tokens_per_step = config.effective_batch * sum(lengths) / len(lengths)
    arguments = sft_arguments(
        config,
        inputs.model,
        inputs.work_dir,
        inputs.seed,
        held_out is not None,
        len(rows),
        inputs.report_to,
        inputs.hardware,
    )
    memory = enough_memory("sft", config, inputs.adapter, max(lengths), inputs.hardware.processes)
    with inputs.tracked("sft", config) as tracker, memory:
        trainer = PreparedSFTTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            fast_path=config.fast_path,
            hardware=inputs.hardware,
            peft_config=adapter_config(inputs.adapter, model),
            callbacks=[
                Progress("SFT", "tokens", tokens_per_step),
                TrackSeries(tracker),
                Watch("sft", inputs.watch, judge_sft),
                *early_stopping(config),
            ],
        )
        pick_backend(inputs.model.backend).speed_up(trainer.model, gradient_checkpointing=config.gradient_checkpointing)
        trainer.probes = probes(inputs, config, tokenizer, tracker)
        checkpoint, report = train(trainer, "sft", config, inputs, tracker, lengths, judge_sft)
    return checkpoint, report.model_copy(update={"tracker": tracker.link})


def sft_arguments(
    config: SFTStageConfig,
    model: ModelConfig,
    work_dir: Path,
    seed: int,
    evaluates: bool,
    rows: int,
    report_to: Sequence[str] = (),
    hardware: HardwareConfig = LocalHardware(),  # noqa: B008  # frozen
) -> "SFTConfig":
    """Return TRL's SFT arguments; the rows are tokenised, masked and cut already."""
    from trl import SFTConfig

    share = require_shares("sft", config, hardware)
    asked = common_arguments("sft", config, model, work_dir, seed, evaluates, planned_steps(config, rows), share) | {
        "report_to": list(report_to) or "none",
        "neftune_noise_alpha": config.neftune_alpha,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "group_by_length",
    }
    return as_asked(SFTConfig(**asked, **strategy_arguments(hardware)), asked)
