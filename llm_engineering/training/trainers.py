"""TRL's trainers, fed with rows that are tokenised already, and evaluated on generated answers too."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute
import torch
from torch import Tensor
from transformers import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import rotate_checkpoints
from trl import DPOConfig, SFTConfig, SFTTrainer

from llm_engineering.data.rowsets import IGNORED
from llm_engineering.errors import TrainingError
from llm_engineering.models.checkpoints import broken_weight
from llm_engineering.progress import Work
from llm_engineering.scoring.likelihood import LOGITS_AT_ONCE
from llm_engineering.training.fast_path import FastDPO, FastSFT
from llm_engineering.training.finite import FiniteUpdates
from llm_engineering.training.losses import REFERENCE_LOGPS, OwnLoss
from llm_engineering.training.memory import worth_trying
from llm_engineering.training.part import Probe
from llm_engineering.training.processes.batches import Row
from llm_engineering.training.processes.trainer import STAND_IN_TOKENS, ManyProcesses
from llm_engineering.training.recovery import seal, writing
from llm_engineering.training.upstream import require_upstream

if TYPE_CHECKING:
    from datasets import Dataset

TOKENS_AT_ONCE = 2**13
"""Tokens of a batch that the reference scores, padding included."""


class StageTrainer(FiniteUpdates, ManyProcesses):
    """What both trainers have beside TRL's own: checks, sealed checkpoints, and metrics of generated answers."""

    probes: Sequence[Probe] = ()
    evaluation_seconds: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_upstream(self.stage, self)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Prepare as TRL does, take up its count of tokens, and see that memory lasts."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        logged = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
        self._total_train_tokens = int(logged[-1]) if logged else 0
        self._try_largest_batch()
        return prepared

    def _try_largest_batch(self) -> None:
        """Run the largest batch that the sampler could draw forward and backward, where that costs next to nothing.

        Weights, gradients, random state, metrics and counters stay as they are.
        """
        batches = self.state.max_steps * self.args.gradient_accumulation_steps
        if not self.is_deepspeed_enabled and worth_trying(batches, self.args.device.type):  # else an update is made
            sizes = self.row_sizes()
            self.try_without_trace(sorted(range(len(sizes)), key=sizes.__getitem__)[-self.args.train_batch_size :])

    def row_sizes(self) -> list[int]:
        """Return how many tokens of every training row take memory."""
        raise NotImplementedError

    def try_without_trace(self, indices: Sequence[int]) -> None:
        """Run some training rows forward and backward as one batch, with room for the optimizer, and forget it."""
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        moments = 2 if isinstance(optimizer, torch.optim.AdamW) and not optimizer.state else 0
        room = [torch.empty_like(p) for _ in range(moments) for p in self._trained()]
        tokens = self._total_train_tokens
        with torch.random.fork_rng():
            self.try_rows(indices)
        del room
        self.model.zero_grad()
        self._metrics["train"].clear()
        self._total_train_tokens = tokens

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's metrics on the held-out rows, and those of the probes: of generated answers, for example.

        Early stopping and the choice of the best checkpoint can go by either. The random state is left as it was (a
        DataLoader draws from it too), so that how often a training is evaluated changes no weight.
        """
        started = time.perf_counter()
        with torch.random.fork_rng():
            output = super().evaluation_loop(*args, **kwargs)
        for probe in self.probes:
            found = self.from_first(probe(self))
            output.metrics.update({f"eval_{name}": value for name, value in found.items()})
        self.evaluation_seconds += time.perf_counter() - started
        return output

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint in progress is not published."""

    def take_up(self, checkpoint: Path) -> None:
        """Take state and weights of a training that had ended, the best weights where a metric chooses them.

        Resuming it would make one update more: Trainer looks for the end only after an update.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(best or str(checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save and seal a checkpoint, and only then remove those that it replaces.

        Raises:
            TrainingError: The weights hold something that is no number; resuming from them would be of no use. Or the
                checkpoint cannot be written.
        """
        self.require_finite()
        if broken_weight((name, p) for name, p in model.named_parameters() if p.requires_grad):
            raise TrainingError(
                f"The weights are not finite at step {self.state.global_step}. Lower the learning rate or "
                "max_grad_norm; the last good checkpoint is kept."
            )
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        kept, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with writing(checkpoint):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process writes its random state
                if self.is_first:
                    seal(checkpoint)
        finally:
            self.args.save_total_limit = kept
        if self.is_first:
            rotate_checkpoints(self.args.output_dir, kept, self.state.best_model_checkpoint)


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
        return _token_counts(self.train_dataset, "input_ids")

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
        counts = zip(*(_token_counts(self.train_dataset, name) for name in names), strict=True)
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
    counts = zip(*(_token_counts(pairs, name) for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True)
    return [2 * (prompt + max(chosen, rejected)) for prompt, chosen, rejected in counts]


def batches_of_like_length(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Yield indices of rows, the longest first, as many together as ``most`` tokens hold, padding included."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        stop = start + max(1, most // max(1, lengths[order[start]]))
        yield order[start:stop]
        start = stop


def _token_counts(dataset: "Dataset", column: str) -> list[int]:
    """Return the lengths of a column's lists, without reading the lists."""
    lists = dataset.with_format("arrow")[:][column]
    counts: list[int] = pyarrow.compute.list_value_length(lists).to_pylist()
    return counts
