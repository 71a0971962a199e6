"""From the configuration of a stage to the arguments of TRL's trainers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.hardware import HardwareConfig, LocalHardware
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.models.hardware import pick_dtype, pick_optimizer, require_liger
from llm_engineering.reports.folders import StageName
from llm_engineering.training.losses import uses_reference
from llm_engineering.training.processes.strategy import strategy_arguments

if TYPE_CHECKING:
    from trl import DPOConfig, SFTConfig


def planned_steps(config: StageConfig, rows: int) -> int:
    """Return how many updates a stage makes on so many rows, if nothing stops it early."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.epochs * _updates_per_epoch(config, rows))


def examples_seen(config: StageConfig, rows: int, step: int) -> int:
    """Return how many training rows the first ``step`` updates saw; a row of a second epoch counts again."""
    epochs, updates = divmod(step, _updates_per_epoch(config, rows))
    return epochs * rows + min(updates * config.effective_batch, rows)


def _updates_per_epoch(config: StageConfig, rows: int) -> int:
    return max(math.ceil(math.ceil(rows / config.batch_size) / config.accumulation), 1)


SEEN_OFTEN = 1.5
"""Average number of times that a pair is seen above which storing the reference's log-probabilities pays."""


def stores_reference(config: DPOStageConfig, rows: int) -> bool:
    """Return whether the reference scores all pairs once, before training, instead of every batch."""
    if config.reference != "auto" or not uses_reference(config):
        return config.reference == "stored" and uses_reference(config)
    seen = pairs_seen(config)
    return config.epochs > SEEN_OFTEN if seen is None else seen > SEEN_OFTEN * rows


def pairs_seen(config: DPOStageConfig) -> int | None:
    """Return how many pairs ``max_steps`` updates see, repeats included; None where epochs count."""
    return None if config.max_steps is None else config.max_steps * config.effective_batch


def require_shares(stage: StageName, config: StageConfig, hardware: HardwareConfig) -> int:
    """Return how many rows of a batch each process takes.

    Raises:
        ConfigError: They would not take the same number.
    """
    share, rest = divmod(config.batch_size, hardware.processes)
    if rest:
        raise ConfigError(
            f"{stage}.batch_size {config.batch_size} is of all processes together and does not divide by "
            f"hardware.processes {hardware.processes}. Make it a multiple."
        )
    return share


def require_warmup(stage: StageName, config: StageConfig, steps: int) -> None:
    """Refuse a warm-up of so many steps that the peak rate would never be reached.

    Raises:
        ConfigError: It is no shorter than the training.
    """
    if config.warmup >= max(steps, 1):
        raise ConfigError(
            f"{stage}.warmup ({config.warmup:g} steps) is no shorter than the training ({steps} "
            f"step{'' if steps == 1 else 's'}). Lower it, or give it as a share below 1."
        )


def warmup_steps(stage: StageName, config: StageConfig, steps: int) -> int:
    """Return the updates of the warm-up; one at least is left for the peak rate, since the first warm-up's rate is 0.

    Raises:
        ConfigError: So many steps are configured that the peak rate would never be reached.
    """
    if config.warmup < 1:
        return min(math.ceil(config.warmup * steps), steps - 1)
    require_warmup(stage, config, steps)
    return int(config.warmup)


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
    asked = _common("sft", config, model, work_dir, seed, evaluates, planned_steps(config, rows), share) | {
        "report_to": list(report_to) or "none",
        "neftune_noise_alpha": config.neftune_alpha,
        "max_length": None,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "train_sampling_strategy": "group_by_length",
    }
    return _as_asked(SFTConfig(**asked, **strategy_arguments(hardware)), asked)


def dpo_arguments(
    config: DPOStageConfig,
    model: ModelConfig,
    work_dir: Path,
    seed: int,
    evaluates: bool,
    rows: int,
    report_to: Sequence[str] = (),
    hardware: HardwareConfig = LocalHardware(),  # noqa: B008  # frozen
) -> "DPOConfig":
    """Return TRL's DPO arguments; reference log-probabilities are computed once where rows are seen more than once."""
    from trl import DPOConfig

    steps = planned_steps(config, rows)
    losses = dpo_losses(config)
    share = require_shares("dpo", config, hardware)
    asked = _common("dpo", config, model, work_dir, seed, evaluates, steps, share) | {
        "report_to": list(report_to) or "none",
        "loss_type": list(losses),
        "loss_weights": list(losses.values()),
        "max_length": None,
        "disable_dropout": False,
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
        "f_divergence_type": config.f_divergence,
        "f_alpha_divergence_coef": config.alpha_divergence,
        "ld_alpha": config.ld_alpha,
        "discopop_tau": config.discopop_tau,
        "precompute_ref_log_probs": not uses_reference(config) or stores_reference(config, rows),
    }
    return _as_asked(DPOConfig(**asked, **strategy_arguments(hardware)), asked)


def _as_asked(arguments: Any, asked: dict[str, Any]) -> Any:
    """Return a trainer's arguments if they are what was asked: a backend that patches TRL may change them.

    Raises:
        ConfigError: One is not.
    """
    for name, value in asked.items():
        found = getattr(arguments, name)
        if name != "report_to" and getattr(found, "value", found) != value:  # the trainer makes a list of report_to
            raise ConfigError(
                f"The backend trains with {name} {getattr(found, 'value', found)!r} where the configuration asks for "
                f"{value!r}. Change that setting (model.dtype, for bf16), or set model.backend to {{type: peft}}."
            )
    return arguments


def reference_arguments(folder: Path, model: ModelConfig, ld_alpha: float | None) -> "DPOConfig":
    """Return TRL's arguments of a trainer that trains nothing and computes the reference's log-probabilities."""
    import torch
    from trl import DPOConfig

    dtype = pick_dtype(model.dtype)
    return DPOConfig(
        output_dir=str(folder),
        precompute_ref_log_probs=True,
        ld_alpha=ld_alpha,
        max_length=None,
        disable_dropout=False,
        gradient_checkpointing=False,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        tf32=True if model.dtype == "tf32" else None,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def dpo_losses(config: DPOStageConfig) -> dict[str, float]:
    """Return the losses whose weighted sum is the configured one: TRL's by its names, one of another by its own.

    TRL's ``sigmoid`` takes no label smoothing. With ``l = -log sigma(beta * delta)``, ``f`` the same for the flipped
    pair and smoothing ``e``, ``robust`` is ``((1 - e) l - e f) / (1 - 2e)``, so that conservative DPO (Mitchell 2023),
    ``(1 - e) l + e f``, equals ``2 (1 - e) l - (1 - 2e) robust``.
    """
    losses: dict[str, float] = {config.loss: 1.0}
    if config.loss == "sigmoid" and config.label_smoothing:
        losses = {"sigmoid": 2 * (1 - config.label_smoothing), "robust": 2 * config.label_smoothing - 1}
    return losses | ({"sft": config.nll_weight} if config.nll_weight else {})


def _schedule(stage: StageName, config: StageConfig, steps: int) -> dict[str, Any]:
    """Return the schedule as transformers names it; its ``constant`` knows no warm-up, its ``cosine`` no floor."""
    name, kwargs = config.schedule, {}
    if config.schedule == "constant":
        name = "constant_with_warmup"  # type: ignore[assignment]  # one of transformers' names
    if config.min_rate:
        name, kwargs = "cosine_with_min_lr", {"min_lr_rate": config.min_rate}  # type: ignore[assignment]
    return {
        "lr_scheduler_type": name,
        "lr_scheduler_kwargs": kwargs,
        "warmup_steps": warmup_steps(stage, config, steps),
    }


def _common(
    stage: StageName,
    config: StageConfig,
    model: ModelConfig,
    work_dir: Path,
    seed: int,
    evaluates: bool,
    steps: int,
    share: int,
) -> dict[str, Any]:
    import torch

    dtype = pick_dtype(model.dtype)
    arguments: dict[str, Any] = {
        **_schedule(stage, config, steps),
        "output_dir": str(work_dir),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": share,
        "per_device_eval_batch_size": 4 * share,
        "gradient_accumulation_steps": config.accumulation,
        "optim": pick_optimizer(config.optimizer),
        "learning_rate": config.learning_rate,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "tf32": True if model.dtype == "tf32" else None,
        "torch_compile": config.compile,
        "use_liger_kernel": require_liger(stage, config.liger_kernel),
        "seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": config.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "eval_on_start": config.evaluate_first and evaluates,
        "disable_tqdm": True,
        "restore_callback_states_from_checkpoint": True,  # a resumed training is as patient as before
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if config.evaluation_interval and evaluates:
        arguments |= {"eval_strategy": "steps", "eval_steps": config.evaluation_interval}
    if config.best_metric and evaluates:
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": config.best_metric,
            "greater_is_better": config.best_metric != "loss",
            "save_steps": config.evaluation_interval,
        }
    return arguments
