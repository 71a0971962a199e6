"""TRL's DPOTrainer, fed with pairs that are tokenised already, with a forward pass on flat rows.

Shapes: P pairs, B rows (chosen, then rejected), T tokens of a padded row, K scored tokens, E width of hidden states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import DPOConfig

from llm_engineering.models.flat.head import TokenScores
from llm_engineering.models.flat.layout import FlatRows, flatten_pairs
from llm_engineering.models.flat.support import has_dropout
from llm_engineering.progress import Work
from llm_engineering.scoring.likelihood import LOGITS_AT_ONCE
from llm_engineering.training.added_loss import AddedLoss
from llm_engineering.training.fast_path import FastPath
from llm_engineering.training.losses import REFERENCE_LOGPS, OwnLoss
from llm_engineering.training.processes.batches import Row
from llm_engineering.training.processes.trainer import STAND_IN_TOKENS
from llm_engineering.training.trainers import StageTrainer, token_counts

if TYPE_CHECKING:
    from datasets import Dataset

TOKENS_AT_ONCE = 2**13
"""Tokens of a batch that the reference scores, padding included."""


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


class PreparedDPOTrainer(StageTrainer, FastDPO):
    """TRL's DPOTrainer on rows with ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``; it drops and cuts none."""

    args: DPOConfig
    stand_in_rows = 2
    _in_update: tuple[int, Tensor, Tensor] | None = None
    """How many batches, pairs and tokens of chosen answers the update has, those of all processes together."""

    def __init__(
        self, *args: Any, reference_free: bool = False, own_loss: OwnLoss | None = None, **kwargs: Any
    ) -> None:
        self.reference_free, self.own_loss = reference_free, own_loss
        super().__init__(*args, **kwargs)

    def row_sizes(self) -> list[int]:
        """Return the tokens of every pair: of the longer answer's row where rows are padded, of both where not."""
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        counts = zip(*(token_counts(self.train_dataset, name) for name in names), strict=True)
        return [p + c + r if self.fast else p + max(c, r) for p, c, r in counts]

    def stand_in(self) -> Row:
        """Return a pair of empty answers to a prompt of two tokens."""
        prompt = {"prompt_ids": [self.processing_class.eos_token_id] * STAND_IN_TOKENS}
        return {**prompt, "chosen_ids": [], "rejected_ids": [], **dict.fromkeys(REFERENCE_LOGPS, 0.0)}

    def size_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many pairs a batch has, and how many tokens of chosen answers."""
        chosen_BT = batch["completion_mask"][: len(batch["completion_mask"]) // 2, 1:]
        return torch.stack([chosen_BT.any(dim=1).sum(), chosen_BT.sum()])

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Draw the batches of an update, and count what is in them, in all processes."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        self._in_update = None
        if len(batches) > 1 or self.processes > 1:
            sizes_2 = torch.stack([self.size_of(batch) for batch in batches]).sum(0)
            pairs, tokens = self.accelerator.reduce(sizes_2.to(self.accelerator.device), "sum")
            self._in_update = len(batches), pairs, tokens
        return batches, num_items

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Any:
        """Return TRL's loss, each batch weighed by its part of the update, and each process's share by its part of it.

        TRL takes the mean over the pairs of a batch, in the NLL term over its tokens, the mean of these over the
        batches of the update, and of that over the processes. With the part of the pairs, and of the tokens, as its
        weight, the loss is the mean over the update, however it is cut. A stand-in weighs nothing; it has no token to
        take a mean over.
        """
        whole = self._whole_of()
        if whole is None:
            return super()._compute_loss(model, inputs, return_outputs)
        parts, pairs, tokens = whole
        own_pairs, own_tokens = self.size_of(inputs)
        of_pairs = parts * own_pairs / pairs
        of_tokens = parts * own_tokens / tokens
        configured = self.loss_types, self.loss_weights
        weighed = [
            (loss, weight * (of_tokens if loss == "sft" else of_pairs))
            for loss, weight in zip(*configured, strict=True)
            if loss != "sft" or own_tokens > 0
        ]
        self.loss_types, self.loss_weights = [loss for loss, _ in weighed], [weight for _, weight in weighed]
        try:
            return super()._compute_loss(model, inputs, return_outputs)
        finally:
            self.loss_types, self.loss_weights = configured

    def _whole_of(self) -> tuple[int, Any, Any] | None:
        """Return of what a batch is a part: how many parts there are, and their pairs and tokens; None: of nothing.

        While training it is a part of an update, else of the same batch in all processes.
        """
        if self.model.training and self._in_update is not None:
            batches, pairs, tokens = self._in_update
            return batches * self.processes, pairs, tokens
        if self.processes == 1:
            return None
        pairs, tokens = (sum(sizes) for sizes in zip(*self._sizes, strict=True))
        return self.processes, pairs, tokens

    def _prepare_dataset(self, dataset: "Dataset", *args: Any) -> "Dataset":
        return dataset

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean log-ratios to the reference too, in nats an answer: TRL's rewards are beta times them."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        for side in () if self.reference_free else ("chosen", "rejected"):
            if rewards := metrics.get(f"rewards/{side}"):
                metrics[f"log_ratio/{side}"] = [reward / self.beta for reward in rewards]
        super().log(logs, start_time)

    def _precompute_ref_logps(self, dataset: "Dataset", name: str, batch_size: int) -> "Dataset":
        """Return the dataset with the reference's log-probabilities, as it is where it has them.

        They are computed in batches of like length, the longest first, so that too little memory shows at once. The
        batches depend on nothing but the rows and the vocabulary: other settings of a training leave the numbers alone.
        Without a reference they are 0.
        """
        if REFERENCE_LOGPS[0] in dataset.column_names:
            return dataset
        logps = torch.zeros(2, len(dataset))
        if not self.reference_free:
            self.choose_path()  # TRL computes them before its trainer is complete
            self._score(dataset, name, logps)
        for column, values in zip(REFERENCE_LOGPS, logps, strict=True):
            dataset = dataset.add_column(column, values.tolist())
        return dataset

    def _score(self, dataset: "Dataset", name: str, logps_2P: Tensor) -> None:
        """Write the reference's log-probabilities of the chosen and the rejected answers of P pairs."""
        lengths = _padded_lengths(dataset)
        most = TOKENS_AT_ONCE if self.fast else LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size
        with Work(f"Reference, {len(lengths):,} {name} pairs:", sum(lengths), "tokens") as work:
            for indices in batches_of_like_length(lengths, min(most, TOKENS_AT_ONCE)):
                batch = self.data_collator([dataset[i] for i in indices])
                inputs = {key: value.to(self.accelerator.device) for key, value in batch.items()}
                with self.accelerator.autocast():
                    chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
                logps_2P[0, indices], logps_2P[1, indices] = chosen.float().cpu(), rejected.float().cpu()
                work(sum(lengths[i] for i in indices))


def _padded_lengths(pairs: "Dataset") -> list[int]:
    """Return twice the tokens of the longer side of every pair: what it takes in a padded batch."""
    counts = zip(*(token_counts(pairs, name) for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True)
    return [2 * (prompt + max(chosen, rejected)) for prompt, chosen, rejected in counts]


def batches_of_like_length(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Yield indices of rows, the longest first, as many together as ``most`` tokens hold, padding included."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        stop = start + max(1, most // max(1, lengths[order[start]]))
        yield order[start:stop]
        start = stop
