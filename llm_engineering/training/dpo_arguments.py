"""From the configuration of DPO to the arguments of TRL's trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.hardware import HardwareConfig, LocalHardware
from llm_engineering.config.model import ModelConfig
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.training.arguments import as_asked, common_arguments, planned_steps, require_shares
from llm_engineering.training.losses import uses_reference
from llm_engineering.training.processes.strategy import strategy_arguments

if TYPE_CHECKING:
    from trl import DPOConfig

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
    asked = common_arguments("dpo", config, model, work_dir, seed, evaluates, steps, share) | {
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
    return as_asked(DPOConfig(**asked, **strategy_arguments(hardware)), asked)


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
