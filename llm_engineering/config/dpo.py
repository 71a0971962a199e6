"""Direct preference optimization."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from llm_engineering.config.block import PositiveFloat, Rate, Share, is_default
from llm_engineering.config.stage import StageConfig

DPOLoss = Literal[
    "sigmoid",
    "ipo",
    "hinge",
    "robust",
    "sigmoid_norm",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]
SMOOTHED_LOSSES = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
DIVERGENCE_LOSSES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
"""Losses of the difference between chosen and rejected score, where f-divergences apply."""


class DPOStageConfig(StageConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

    learning_rate: Rate = 5.0e-6
    """Peak rate, after the warm-up."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the policy is held to the reference."""
    loss: DPOLoss = "sigmoid"
    """TRL's name of the preference loss; docs/losses.md gives the formula and the source of each.

    ``sigmoid_norm`` is ``sigmoid`` on log-ratios per token of the answer; ``ipo`` is per token, too.
    """
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """What holds the policy to the reference (Wang et al. 2023, arXiv:2309.16240)."""
    alpha_divergence: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The alpha of ``f_divergence: alpha_divergence``."""
    ld_alpha: Share | None = None
    """Weight of an answer's tokens beyond the length of the other one (LD-DPO, Liu et al. 2024, arXiv:2409.06411)."""
    discopop_tau: PositiveFloat = 0.05
    """Temperature of the loss ``discopop`` (Lu et al. 2024, arXiv:2406.08414)."""
    reference_free: bool = False
    """Leave the reference out: log-ratios become the policy's log-probabilities alone."""
    nll_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean token cross-entropy on the chosen answers, added to the loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels (cDPO for ``sigmoid``)."""
    reference: Literal["auto", "stored", "on_the_fly"] = "auto"
    """``stored`` scores all pairs with the reference once, for every run with other losses; ``on_the_fly`` each batch.

    ``auto`` stores where a pair is seen more than 1.5 times on average.
    """
    kl_answers: Annotated[int, Field(ge=0)] = 16
    """Held-out questions on whose sampled answers KL from the reference is measured at each of ``evaluation_steps``."""

    @model_validator(mode="after")
    def _check_loss(self) -> "DPOStageConfig":
        if self.label_smoothing and self.loss not in SMOOTHED_LOSSES:
            raise ValueError(
                f"label_smoothing does nothing for the loss {self.loss}; use one of {', '.join(SMOOTHED_LOSSES)}, or 0"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs label_smoothing above 0; its paper's is 1e-3")
        if self.f_divergence != "reverse_kl" and self.loss not in DIVERGENCE_LOSSES:
            raise ValueError(
                f"f_divergence {self.f_divergence} is not defined for the loss {self.loss}; use one of "
                f"{', '.join(DIVERGENCE_LOSSES)}, or reverse_kl"
            )
        if self.reference_free and self.reference != "auto":
            raise ValueError(
                f"reference {self.reference} does nothing where reference_free is true; remove one of them"
            )
        for name, needs, value in (
            ("alpha_divergence", "f_divergence", "alpha_divergence"),
            ("discopop_tau", "loss", "discopop"),
        ):
            if not is_default(self, name) and getattr(self, needs) != value:
                raise ValueError(f"{name} does nothing unless {needs} is {value}")
        return self
