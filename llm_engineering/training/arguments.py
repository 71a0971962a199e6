"""From the configuration of a stage to the arguments of TRL's trainers."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.config.schema import DPOStageConfig, SFTStageConfig, StageConfig

if TYPE_CHECKING:
    import torch
    from trl import DPOConfig, SFTConfig


def planned_steps(config: StageConfig, rows: int) -> int:
    """Return how many updates a stage makes on so many rows, if nothing stops it early."""
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(rows / config.batch_size)
    return math.ceil(config.epochs * max(math.ceil(batches / config.accumulation), 1))


def sft_arguments(
    config: SFTStageConfig, work_dir: Path, dtype: "torch.dtype", seed: int, evaluates: bool
) -> "SFTConfig":
    """Return TRL's SFT arguments; the rows are tokenised, masked and cut already."""
    from trl import SFTConfig

    return SFTConfig(
        **_common(config, work_dir, dtype, seed, evaluates),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
    )


def dpo_arguments(
    config: DPOStageConfig, work_dir: Path, dtype: "torch.dtype", seed: int, evaluates: bool, rows: int
) -> "DPOConfig":
    """Return TRL's DPO arguments; reference log-probabilities are computed once where rows are seen more than once."""
    from trl import DPOConfig

    seen = planned_steps(config, rows) * config.batch_size * config.accumulation
    losses = dpo_losses(config)
    return DPOConfig(
        **_common(config, work_dir, dtype, seed, evaluates),
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=None,
        disable_dropout=False,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        precompute_ref_log_probs=seen > 1.5 * rows,
        precompute_ref_batch_size=4 * config.batch_size,
    )


def dpo_losses(config: DPOStageConfig) -> dict[str, float]:
    """Return the losses of TRL whose weighted sum is the configured one.

    TRL's ``sigmoid`` takes no label smoothing. With ``l = -log sigma(beta * delta)``, ``f`` the same for the flipped
    pair and smoothing ``e``, ``robust`` is ``((1 - e) l - e f) / (1 - 2e)``, so that conservative DPO (Mitchell 2023),
    ``(1 - e) l + e f``, equals ``2 (1 - e) l - (1 - 2e) robust``.
    """
    losses: dict[str, float] = {config.loss: 1.0}
    if config.loss == "sigmoid" and config.label_smoothing:
        losses = {"sigmoid": 2 * (1 - config.label_smoothing), "robust": 2 * config.label_smoothing - 1}
    return losses | ({"sft": config.nll_weight} if config.nll_weight else {})


def _common(config: StageConfig, work_dir: Path, dtype: "torch.dtype", seed: int, evaluates: bool) -> dict[str, Any]:
    import torch

    arguments: dict[str, Any] = {
        "output_dir": str(work_dir),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": 4 * config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup if config.warmup < 1 else int(config.warmup),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "restore_callback_states_from_checkpoint": True,  # a resumed training is as patient as before
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if config.evaluation_steps and evaluates:
        arguments |= {"eval_strategy": "steps", "eval_steps": config.evaluation_steps}
    if config.best_metric and evaluates:
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": config.best_metric,
            "greater_is_better": config.best_metric != "loss",
            "save_steps": config.evaluation_steps,
        }
    return arguments
