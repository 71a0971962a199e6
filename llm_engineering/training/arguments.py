"""From the configuration of a stage to what SFT and DPO alike tell TRL's trainers."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.config.hardware import HardwareConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.models.hardware import pick_dtype, pick_optimizer, require_liger
from llm_engineering.reports.folders import StageName

if TYPE_CHECKING:
    pass


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


def as_asked(arguments: Any, asked: dict[str, Any]) -> Any:
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


def common_arguments(
    stage: StageName,
    config: StageConfig,
    model: ModelConfig,
    work_dir: Path,
    seed: int,
    evaluates: bool,
    steps: int,
    share: int,
) -> dict[str, Any]:
    """Return the arguments that say the same of both stages; ``share`` is a process's rows of a batch."""
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
