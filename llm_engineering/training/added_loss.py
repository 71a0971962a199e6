"""How a loss that is not TRL's is computed in TRL's trainer, beside those that are.

Shapes: B rows (chosen, then rejected), P pairs, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from trl import DPOTrainer
from trl.trainer import dpo_trainer

from llm_engineering.training.losses import POLICY_LOGPS, REFERENCE_LOGPS, TOKENS, OwnLoss

TRLS_LOGPS = ("selective_log_softmax_and_entropy", "selective_log_softmax")
"""What TRL's trainer computes log-probabilities of policy and reference with, from logits."""


class AddedLoss(DPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """TRL's DPOTrainer with one loss computed on its own, from the log-probabilities that were computed for TRL."""

    own_loss: OwnLoss | None = None
    """None: all losses are TRL's."""
    loss_types: list[str]
    loss_weights: list[Any]
    _noted: list[Tensor] | None = None
    """Log-probabilities (B, T - 1) of the batch that is computed, 0 where nothing is scored: the policy's first."""

    def note(self, logps_BT: Tensor) -> None:
        """Keep log-probabilities for the loss that is not TRL's, if there is one."""
        if self._noted is not None:
            self._noted.append(logps_BT)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.note(found[0])
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        """Return TRL's weighted sum of losses, with the one that it does not know."""
        if self.own_loss is None:
            return super()._compute_loss(model, inputs, return_outputs)
        configured = self.loss_types, self.loss_weights
        weights = dict(zip(*configured, strict=True))
        own_weight = weights.pop(self.own_loss.name)
        self.loss_types, self.loss_weights, self._noted = list(weights), list(weights.values()), []
        try:
            with _heard(self.note):
                found = super()._compute_loss(model, inputs, return_outputs)
            given = self._given(inputs)
        finally:
            (self.loss_types, self.loss_weights), self._noted = configured, None
        own = own_weight * _mean_loss(self.own_loss, given)
        if not self.own_loss.has_reference:
            self._log_rewards(given)
        return (found[0] + own, found[1]) if return_outputs else found + own

    def _given(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is known of the pairs of a batch, by name."""
        assert self._noted, "TRL's trainer computes log-probabilities in another way than it did."
        tokens_B = inputs["completion_mask"][:, 1:].sum(1)
        sums = [logps_BT.sum(1).chunk(2) for logps_BT in self._noted]
        reference = sums[1] if len(sums) > 1 else [inputs[name] for name in REFERENCE_LOGPS]
        values = (*sums[0], *tokens_B.chunk(2), *reference)
        return dict(zip((*POLICY_LOGPS, *TOKENS, *REFERENCE_LOGPS), values, strict=True))

    def _log_rewards(self, given: dict[str, Tensor]) -> None:
        """Log beta times the log-probability a token as rewards: without a reference, sums say which answer is longer.

        They take the place of TRL's, of the same batch.
        """
        gather, beta = self.accelerator.gather, self.beta
        chosen_P, rejected_P = (
            gather(beta * given[logps].detach() / given[tokens].clamp(min=1))
            for logps, tokens in zip(POLICY_LOGPS, TOKENS, strict=True)
        )
        rewards = {"chosen": chosen_P, "rejected": rejected_P, "margins": chosen_P - rejected_P}
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, values_P in {**rewards, "accuracies": (chosen_P > rejected_P).float()}.items():
            metrics[f"rewards/{name}"][-1] = values_P.mean().item()


def _mean_loss(loss: OwnLoss, given: dict[str, Tensor]) -> Tensor:
    """Return the mean loss of the pairs; a pair without answers, which stands in for none, is left out."""
    is_pair_P = given[TOKENS[0]] > 0
    if not is_pair_P.any():
        return 0.0 * (given[POLICY_LOGPS[0]] + given[POLICY_LOGPS[1]]).sum()  # its gradient is 0, and there is one
    return loss({name: values_P[is_pair_P] for name, values_P in given.items()}).mean()


@contextmanager
def _heard(note: Callable[[Tensor], None]) -> Iterator[None]:
    """Note the log-probabilities that TRL's trainer computes from logits."""
    trls = {name: getattr(dpo_trainer, name) for name in TRLS_LOGPS}

    def heard(function: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*args: Any, **kwargs: Any) -> Any:
            found = function(*args, **kwargs)
            note(found[0] if isinstance(found, tuple) else found)
            return found

        return computed

    for name, function in trls.items():
        setattr(dpo_trainer, name, heard(function))
    try:
        yield
    finally:
        for name, function in trls.items():
            setattr(dpo_trainer, name, function)
