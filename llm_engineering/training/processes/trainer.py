"""What both trainers do where several processes train together: shares of batches, and numbers over all of them.

The loss, its gradient and everything that is logged are those of the whole batch, however many processes share it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from llm_engineering.config.hardware import HardwareConfig, LocalHardware
from llm_engineering.training.part import TrainerPart
from llm_engineering.training.processes.batches import Row, RowsWithStandIn, SharedBatches
from llm_engineering.training.processes.strategy import prove_strategy

if TYPE_CHECKING:
    from datasets import Dataset

STAND_IN_TOKENS = 2
"""Tokens of a row in which nothing is scored; in a pair each side has so many."""


class ManyProcesses(TrainerPart):
    """A trainer whose processes share every batch; in one process it changes nothing."""

    hardware: HardwareConfig
    stand_in_rows: int = 1
    """Rows of a padded batch that a stand-in makes: a pair makes two."""
    _sizes: list[tuple[int, int]]
    """Rows (pairs) and scored tokens (of chosen answers) of the batch that is computed, process by process."""

    def __init__(self, *args: Any, hardware: HardwareConfig | None = None, **kwargs: Any) -> None:
        self.hardware = hardware or LocalHardware()
        self._sizes = []
        super().__init__(*args, **kwargs)

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and logs."""
        return bool(self.accelerator.is_main_process)

    def stand_in(self) -> Row:
        """Return a row in which nothing is scored."""
        raise NotImplementedError

    def size_of(self, batch: dict[str, Tensor]) -> Tensor:
        """Return how many rows (pairs) and scored tokens (of chosen answers) a batch has; a stand-in has none."""
        raise NotImplementedError

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        model, loader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prove_strategy(self, model, self.hardware)
        return model, loader

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Take up the optimizer; accelerate calls a process's CPU ``cpu:1``, a place that torch.load does not know."""
        args = self.args
        if args.device.type == "cpu":
            args.__dict__["_setup_devices"] = torch.device("cpu")  # the cached property behind `args.device`
        super()._load_optimizer_and_scheduler(checkpoint)

    def get_train_dataloader(self) -> Any:
        """Return the batches of the training rows, or this process's shares in them."""
        if self.processes == 1:
            return super().get_train_dataloader()
        sampler = self._get_train_sampler()
        return self._shared(self.train_dataset, "Training", sampler, self.args.train_batch_size)

    def get_eval_dataloader(self, eval_dataset: "Dataset | None" = None) -> Any:
        """Return the batches of held-out rows, or this process's shares in them."""
        if self.processes == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        sampler = self._get_eval_sampler(rows) or SequentialSampler(rows)
        return self._shared(rows, "Evaluation", sampler, self.args.eval_batch_size)

    def _shared(self, rows: "Dataset", what: str, sampler: "Sampler[int]", each: int) -> Any:
        """Return a loader of shares, prepared as accelerate prepares that of one process."""
        from accelerate.data_loader import prepare_data_loader

        accelerator, args = self.accelerator, self.args
        batches = SharedBatches(sampler, each * self.processes, accelerator.process_index, self.processes)
        loader: DataLoader[Row] = DataLoader(
            RowsWithStandIn(self._remove_unused_columns(rows, what), self.stand_in()),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=args.dataloader_pin_memory,
        )
        return prepare_data_loader(
            loader,
            accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            use_seedable_sampler=True,
            data_seed=args.data_seed,
        )

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of this process's share: the mean over the processes is the loss of the whole batch."""
        if self.processes == 1:
            return super().compute_loss(model, inputs, *args, **kwargs)
        self._sizes = self.sizes_by_process(inputs)
        with self._gathering_shares():
            found = super().compute_loss(model, inputs, *args, **kwargs)
        if self.model.training:
            self._count_no_stand_ins()
        return found

    def sizes_by_process(self, batch: dict[str, Tensor]) -> list[tuple[int, int]]:
        """Return what :meth:`size_of` says of a batch in every process."""
        own = self.size_of(batch).to(self.accelerator.device)
        return [(rows, tokens) for rows, tokens in self.accelerator.gather(own[None]).tolist()]

    @contextmanager
    def _gathering_shares(self) -> Iterator[None]:
        """Let TRL gather a number of each row where shares differ in length, and none of a stand-in."""
        accelerator: Any = self.accelerator
        gather = accelerator.gather
        accelerator.gather = lambda values: values if values is None else self._gather(gather, values)
        try:
            yield
        finally:
            del accelerator.gather  # the class's own is seen again

    def _gather(self, gather: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        values = values.to(self.accelerator.device)  # proofs may be made in main memory
        if values.dim() == 0:
            return gather(values)
        lengths = [rows for rows, _ in self._sizes]
        own = lengths[self.accelerator.process_index]
        padded = values.new_zeros(max(lengths))
        padded[:own] = values[:own]
        parts = gather(padded).chunk(self.processes)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def _count_no_stand_ins(self) -> None:
        """Take the tokens of stand-ins out of TRL's count."""
        stand_ins = sum(rows == 0 for rows, _ in self._sizes)
        self._total_train_tokens -= stand_ins * self.stand_in_rows * STAND_IN_TOKENS
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return TRL's metrics, over the held-out rows of all processes, each counted once."""
        if self.processes > 1:
            self.gather_function = self._of_every_row
        return super().evaluation_loop(*args, **kwargs)

    def _of_every_row(self, losses: Tensor) -> Tensor:
        """Return the loss of a whole batch, as often as it has rows: Trainer takes the mean over rows."""
        whole: Tensor = self.accelerator.gather(losses[:1]).mean()
        return whole.repeat(sum(rows for rows, _ in self._sizes))

    def from_first(self, value: Any) -> Any:
        """Return the first process's value, so that all of them decide alike."""
        from accelerate.utils import broadcast_object_list

        if self.processes == 1:
            return value
        return broadcast_object_list([value])[0]
