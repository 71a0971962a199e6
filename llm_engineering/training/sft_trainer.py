"""TRL's SFTTrainer, fed with rows that are tokenised already, with a forward pass on flat rows.

Shapes: B rows, T tokens of a padded row, K scored tokens, E width of the hidden states.
"""

import inspect
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from llm_engineering.data.rowsets import IGNORED
from llm_engineering.models.flat.forward import FastForward
from llm_engineering.models.flat.layout import FlatRows, flatten_packed, flatten_rows
from llm_engineering.training.fast_path import FastPath
from llm_engineering.training.processes.batches import Row
from llm_engineering.training.processes.trainer import STAND_IN_TOKENS
from llm_engineering.training.trainers import StageTrainer, token_counts

if TYPE_CHECKING:
    from datasets import Dataset


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


class LengthGroupedRows(LengthGroupedSampler):  # type: ignore[misc]  # transformers is untyped here
    """Batches of rows of like length, shuffled by seed and epoch alone, so that a resumed training draws the same."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch next; Trainer says which one begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()  # type: ignore[no-any-return]


class PreparedSFTTrainer(StageTrainer, FastSFT, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer on rows with ``input_ids`` and ``labels``."""

    args: SFTConfig

    def row_sizes(self) -> list[int]:
        """Return the tokens of every row."""
        return token_counts(self.train_dataset, "input_ids")

    def _get_train_sampler(self, train_dataset: "Dataset | None" = None) -> LengthGroupedRows:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        rows_per_update = self.args.train_batch_size * self.processes * self.args.gradient_accumulation_steps
        return LengthGroupedRows(rows_per_update, lengths, self.args.seed)

    def _get_eval_sampler(self, eval_dataset: "Dataset") -> LengthGroupedRows:
        lengths = [len(ids) for ids in eval_dataset["input_ids"]]
        return LengthGroupedRows(self.args.eval_batch_size * self.processes, lengths, self.args.seed)

    def stand_in(self) -> Row:
        """Return a row of two tokens without a label."""
        return {
            "input_ids": [self.processing_class.eos_token_id] * STAND_IN_TOKENS,
            "labels": [IGNORED] * STAND_IN_TOKENS,
        }

    def size_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many rows a batch has, and how many labels."""
        labels_BT = batch["labels"][:, 1:] != IGNORED
        return torch.stack([labels_BT.any(dim=1).sum(), labels_BT.sum()])
