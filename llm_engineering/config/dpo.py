"""Direct preference optimization."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from llm_engineering.config.block import PositiveFloat, Rate, Share, is_default
from llm_engineering.config.losses import LOSSES, OPTIONS, Loss, check_name, loss_named, losses_with
from llm_engineering.config.stage import StageConfig

LossName = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"anyOf": [{"enum": list(LOSSES)}, {"type": "string"}], "default": "sigmoid"}),
]


class DPOStageConfig(StageConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

    learning_rate: Rate = 5.0e-6
    """Peak rate, after the warm-up."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the policy is held to the reference; for ``simpo`` and ``orpo`` see docs/losses.md."""
    loss: LossName = "sigmoid"
    """The preference loss, by its name or as ``module:function`` of yours; docs/losses.md has formulas and sources.

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
    simpo_gamma: Annotated[float, Field(ge=0)] = 0.5
    """The margin gamma of the loss ``simpo`` (Meng et al. 2024, arXiv:2405.14734)."""
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
        set_ones = [option for option in OPTIONS if not is_default(self, option)]
        for option in set_ones:
            if option not in self.loss_row.options:
                raise ValueError(
                    f"{option} does nothing for the loss {self.loss}; leave it out, or use one of {losses_with(option)}"
                )
        if self.loss_row.needs and self.loss_row.needs[0] not in set_ones:
            option, paper = self.loss_row.needs
            raise ValueError(f"the loss {self.loss} needs {option} above 0; {paper}")
        if self.reference != "auto" and (self.reference_free or not self.loss_row.has_reference):
            why = "reference_free is true" if self.reference_free else f"the loss {self.loss} has none"
            raise ValueError(f"reference {self.reference} does nothing where {why}; remove one of them")
        if not is_default(self, "alpha_divergence") and self.f_divergence != "alpha_divergence":
            raise ValueError("alpha_divergence does nothing unless f_divergence is alpha_divergence")
        return self

    @property
    def loss_row(self) -> Loss:
        """What is known of the loss."""
        return loss_named(self.loss)
