"""What the fast path changes in TRL's trainers: the forward pass, and nothing else.

Collator, sampler, losses, metrics, accumulation, checkpoints and evaluation stay TRL's. Shapes: B rows (chosen, then
rejected), T tokens of a padded row, N of the flat row, K scored tokens, E width of the hidden states.
"""

import inspect
import logging
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from llm_engineering.data.rowsets import IGNORED
from llm_engineering.models.flat.forward import FastForward
from llm_engineering.models.flat.head import TokenScores
from llm_engineering.models.flat.layout import FlatRows, flatten_packed, flatten_pairs, flatten_rows
from llm_engineering.models.flat.support import base_model, has_dropout, reason_against
from llm_engineering.training.added_loss import AddedLoss
from llm_engineering.training.part import TrainerPart
from llm_engineering.training.upstream import reason_against_fast_path

_log = logging.getLogger(__name__)

FastPathSetting = Literal["auto", "off"]


class FastPath(TrainerPart):
    """What both trainers do alike: choose a path once, and prove in every step that it ran."""

    fast: FastForward | None = None
    """None on TRL's own path."""
    path: str = ""
    """Which path runs, in words: ``fast``, or ``TRL's own`` and why."""

    def __init__(self, *args: Any, fast_path: FastPathSetting = "auto", **kwargs: Any) -> None:
        self._fast_path = fast_path
        super().__init__(*args, **kwargs)
        self.choose_path()

    def choose_path(self) -> None:
        """Take the fast path where it holds; warn once where it does not. Does nothing when called again."""
        if self.path:
            return
        reason = self._reason_against()
        self.path = f"TRL's own: {reason}" if reason else "fast"
        if reason and self._fast_path != "off":
            _log.warning("%s takes TRL's own path, which is slower: %s.", self.stage.upper(), reason)
        if not reason:
            self.fast = FastForward(base_model(self.model))
            self._hook_in(self.fast)

    def _reason_against(self) -> str | None:
        if self._fast_path == "off":
            return "off by configuration"
        return reason_against_fast_path(self.stage, self) or reason_against(self, self.stage)

    def _hook_in(self, fast: FastForward) -> None:
        """Let TRL's trainer call the fast forward pass, where overriding its methods does not do."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return TRL's loss of one batch."""
        before = self.fast.passes if self.fast else -1
        loss: Tensor = super().training_step(*args, **kwargs)
        assert self.fast is None or self.fast.passes > before, "The fast path was chosen and did not run."
        return loss


class FastSFT(FastPath):
    """An SFT trainer whose model, given labels, runs on flat rows.

    TRL patches the model's forward pass for its chunked loss. That patch is patched: what it returns stays the same.
    """

    stage = "sft"

    def _hook_in(self, fast: FastForward) -> None:
        _patch_forward(fast)


def _patch_forward(fast: FastForward) -> None:
    model = fast.model
    trl_forward = model.forward

    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return TRL's output for labels, without logits; any other call is the model's own."""
        others = {k: v for k, v in kwargs.items() if v is not None and k not in ("use_cache", "return_dict")}
        if labels is None or input_ids is None or others or (attention_mask is None) == (position_ids is None):
            kwargs |= {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            kwargs |= {} if position_ids is None else {"position_ids": position_ids}
            return trl_forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
        if attention_mask is not None:
            rows = flatten_rows(input_ids, attention_mask)
        else:
            rows = flatten_packed(input_ids, position_ids)  # type: ignore[arg-type]  # one of them is there
        return _sft_output(fast, rows, labels, num_items_in_batch)

    forward.__signature__ = inspect.signature(trl_forward.__func__)  # type: ignore[attr-defined]  # generate() reads it
    model.forward = types.MethodType(forward, model)


def _sft_output(fast: FastForward, rows: FlatRows, labels_BT: Tensor, num_items: Tensor | int | None) -> Any:
    """Return the loss ``-sum log p(y_t | y_<t) / n`` and what TRL logs.

    n is the number of labels in the update (``num_items``), in this batch if TRL names none.
    """
    from trl.trainer.sft_trainer import _ChunkedCELMHeadOutput

    targets_BT = labels_BT[:, 1:]
    scored_BT = targets_BT != IGNORED
    hidden_KE = fast.hidden_states(rows, rows.index_BT[:, :-1][scored_BT])
    scores = fast.score(hidden_KE, targets_BT[scored_BT], statistics=True)
    assert scores.hits_K is not None
    assert scores.entropies_K is not None
    count = torch.tensor(len(hidden_KE), device=hidden_KE.device)
    return _ChunkedCELMHeadOutput(
        loss=-scores.logps_K.sum() / (count.clamp(min=1) if num_items is None else num_items),
        num_correct_tokens=scores.hits_K.sum(),
        entropy_sum=scores.entropies_K.sum(),
        num_valid_tokens=count,
    )


class FastDPO(FastPath, AddedLoss):
    """A DPO trainer whose policy and reference run on flat rows in which the two answers share their prompt.

    TRL can take log-probabilities in place of logits (it does so for Liger). That switch is on while the fast path
    computes them; what TRL logs from logits alone is added.
    """

    stage = "dpo"
    _rows: FlatRows | None = None
    _policy: TokenScores | None = None
    _policy_is_next: bool = False

    def _compute_ref_log_probs(self, model: Any, inputs: dict[str, Tensor]) -> Any:
        if self.fast is None:
            return super()._compute_ref_log_probs(model, inputs)
        with self._laid_out(inputs):
            return super()._compute_ref_log_probs(model, inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        if self.fast is None or return_outputs:  # who wants outputs wants logits
            return super()._compute_loss(model, inputs, return_outputs)
        inner = self.accelerator.unwrap_model(model)
        if inner is model:
            return self._flat_loss(model, inputs)
        from trl.models.utils import _ForwardRedirection

        # DDP hears of a backward pass in its own forward pass alone: without it no gradient would be averaged
        return _ForwardRedirection()(model, inner, self._flat_loss, inner, inputs)

    def _flat_loss(self, model: Any, inputs: dict[str, Tensor]) -> Any:
        with self._laid_out(inputs):
            self._policy_is_next = True
            loss = super()._compute_loss(model, inputs, False)
            self._log_policy(inputs["completion_mask"])
        return loss

    @contextmanager
    def _laid_out(self, inputs: dict[str, Tensor]) -> Iterator[None]:
        """Lay a batch out once for policy and reference, and let TRL take log-probabilities in place of logits."""
        share = not has_dropout(self.model)  # with dropout each answer has its own draw
        self._rows = flatten_pairs(inputs["input_ids"], inputs["attention_mask"], share)
        self.use_liger_kernel = True
        try:
            yield
        finally:
            self.use_liger_kernel = False
            self._rows = self._policy = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, model_kwargs: dict[str, Any], input_ids: Tensor, completion_mask: Tensor
    ) -> Any:
        """Return log-probabilities and entropies, (B, T - 1), 0 where nothing is scored; entropies of the policy only.

        Which adapter acts, TRL has set on the model.
        """
        if self.fast is None:  # Liger kernels
            return super()._get_per_token_logps_and_entropies(model, model_kwargs, input_ids, completion_mask)
        assert self._rows is not None
        of_policy, self._policy_is_next = self._policy_is_next, False
        scored_BT, targets_BT = completion_mask[:, 1:].bool(), input_ids[:, 1:]
        with self.accelerator.autocast():
            hidden_KE = self.fast.hidden_states(self._rows, self._rows.index_BT[:, :-1][scored_BT])
            scores = self.fast.score(hidden_KE, targets_BT[scored_BT], statistics=of_policy)
        zeros_BT = scores.logps_K.new_zeros(scored_BT.shape)
        logps_BT = zeros_BT.masked_scatter(scored_BT, scores.logps_K)
        self.note(logps_BT)
        if not of_policy:
            return logps_BT, None, None
        assert scores.entropies_K is not None
        self._policy = scores
        return logps_BT, zeros_BT.masked_scatter(scored_BT, scores.entropies_K), None

    def _log_policy(self, completion_mask_BT: Tensor) -> None:
        """Add what TRL logs from logits: their means and, on the chosen answers, the share of likeliest tokens."""
        assert self._policy is not None
        assert self._policy.mean_logits_K is not None
        assert self._policy.hits_K is not None
        chosen = int(completion_mask_BT[: len(completion_mask_BT) // 2, 1:].sum())
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["logits/chosen"].append(self._mean(self._policy.mean_logits_K[:chosen]))
        metrics["logits/rejected"].append(self._mean(self._policy.mean_logits_K[chosen:]))
        metrics["mean_token_accuracy"].append(self._mean(self._policy.hits_K[:chosen]))

    def _mean(self, values_K: Tensor) -> float:
        """Return the mean over the values, of all processes where there are several."""
        if self.accelerator.num_processes == 1:
            return values_K.mean().item() if len(values_K) else 0.0
        own = torch.stack([values_K.float().sum(), torch.tensor(float(len(values_K)), device=values_K.device)])
        total, count = self.accelerator.reduce(own, "sum").tolist()
        return total / count if count else 0.0
