"""A stop at the update whose loss or gradient is no number, before it is made, with the rows that it saw."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from llm_engineering.data.rowsets import SAMPLED_SOURCE
from llm_engineering.errors import TrainingError
from llm_engineering.models.checkpoints import broken_weight
from llm_engineering.models.sharding import whole
from llm_engineering.training.part import TrainerPart
from llm_engineering.training.processes.batches import SharedBatches

NAMED_ROWS = 32
"""Rows of one source that a message names; it counts the others."""


@dataclass(frozen=True)
class Update:
    """The losses of an update's batches and the norm of its gradient, on their way from the device."""

    step: int
    """Its number, from 1."""
    values: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, step: int, losses: Sequence[Tensor], norm: Tensor | float) -> "Update":
        """Start to copy the numbers of an update; on CUDA this waits for nothing."""
        numbers = (*losses, whole(norm) if isinstance(norm, Tensor) else norm)
        values = torch.stack([torch.as_tensor(value, device=losses[0].device).float() for value in numbers])
        arrived = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        copied = values.to("cpu", non_blocking=values.is_cuda)
        if arrived is not None:
            arrived.record()
        return cls(step, copied, arrived)

    def read(self) -> tuple[list[float], float]:
        """Return the losses and the norm."""
        if self.arrived is not None:
            self.arrived.synchronize()
        *losses, norm = self.values.tolist()
        return losses, norm


class FiniteUpdates(TrainerPart):
    """What both trainers do alike to notice a loss or a gradient that is infinite or not a number.

    On a CPU the numbers are read before the update is made, so that the weights stay good, and each row of the batch is
    tried alone to find those to blame. On CUDA they are read in the next update, when TRL has waited for the device
    anyway: the step and its rows are named all the same, one update late. No checkpoint comes between, since one is
    saved only after they are read. A gradient that overflows in float16 is the loss scaler's, as long as it has a scale
    to lower.
    """

    source_names: Sequence[str] = ()
    """What the user calls the sources of the rows."""
    reads_late: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._losses: list[Tensor] = []
        self._unread: Update | None = None
        super().__init__(*args, **kwargs)
        self.reads_late = self.args.device.type == "cuda"

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return TRL's loss of one batch, and keep it until the update's gradient is known."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        self.require_finite()
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Return the gradient's norm; Trainer asks for it between the backward pass and the update."""
        norm = super()._get_grad_norm(*args, **kwargs)
        losses = self._losses
        if self.accelerator.num_processes > 1:  # all of them are to see, and say, the same
            losses = list(self.accelerator.gather(torch.stack(losses)))
        self._unread = Update.of(self.state.global_step + 1, losses, norm)
        self._losses = []
        if not self.reads_late:
            self.require_finite()
        return norm

    def require_finite(self) -> None:
        """Look at the last update, once.

        Raises:
            TrainingError: Its loss or gradient is infinite or not a number.
        """
        update, self._unread = self._unread, None
        if update is None:
            return
        losses, norm = update.read()
        failed = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
        if failed:
            raise self._error(update.step, f"loss is {losses[failed[0]]}", failed)
        if not math.isfinite(norm) and not self._scale_is_to_blame():
            raise self._error(update.step, f"gradient's norm is {norm}", list(range(len(losses))))

    def _scale_is_to_blame(self) -> bool:
        scaler = getattr(self.accelerator, "scaler", None)
        return scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1

    def _error(self, step: int, what: str, batches: list[int]) -> TrainingError:
        if not self.reads_late and (broken := self._broken_weight()):  # read late, they may be what the update made
            return TrainingError(
                f"{self.stage.upper()}: the {what} at step {step}, since {broken} holds NaN or infinite numbers; the "
                "rows are not to blame. Lower the learning rate or max_grad_norm; the last good checkpoint is kept."
            )
        drawn = self.rows_of_update(step)
        indices = [index for number in batches for index in drawn[number]]
        guilty = [] if self.reads_late else [index for index in indices if self._fails_alone(index)]
        seen = f"{self.stage.upper()}: the {what} at step {step}, on {self.name_rows(indices)}"
        if guilty and len(guilty) < len(indices):
            return TrainingError(
                f"{seen}; alone, {self.name_rows(guilty)} gives it too. Mend what is in it or leave it out, and run "
                "again; the last good checkpoint is kept."
            )
        return TrainingError(f"{seen}. Lower the learning rate or max_grad_norm; the last good checkpoint is kept.")

    def _broken_weight(self) -> str | None:
        """Return a weight that holds what is no number; all processes return the same."""
        names = [name for name, _ in self.model.named_parameters()]
        found = broken_weight(self.model.named_parameters())
        if self.accelerator.num_processes > 1:
            place = torch.tensor([len(names) if found is None else names.index(found)], device=self.args.device)
            first = int(self.accelerator.gather(place).min())
            found = [*names, None][first]
        return found

    def _fails_alone(self, index: int) -> bool:
        loss = self.try_rows([index])
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained() if p.grad is not None])
        return not (bool(loss.isfinite()) and bool(norm.isfinite()))

    def _trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def try_rows(self, indices: Sequence[int]) -> Tensor:
        """Return the loss of some training rows as one batch; their gradient alone lies in the parameters then."""
        self.model.zero_grad()
        self.current_gradient_accumulation_steps = 1  # Trainer says it anew before every update
        columns = self._signature_columns
        rows = [self.train_dataset[index] for index in indices]
        batch = self.data_collator([{k: v for k, v in row.items() if k in columns} for row in rows])
        loss: Tensor = super().training_step(self.model_wrapped, batch)
        return loss

    def rows_of_update(self, step: int) -> list[list[int]]:
        """Return the indices of the rows of one update, batch by batch, those of one process after another's.

        Their order follows from the seed and the epoch, and is drawn anew here: to know it costs nothing until it is
        asked for.
        """
        loader = self.callback_handler.train_dataloader
        accumulation = self.args.gradient_accumulation_steps
        updates = math.ceil(len(loader) / accumulation)
        epoch, number = divmod(step - 1, updates)
        loader.set_epoch(epoch)
        sampler = loader.batch_sampler
        if isinstance(sampler, SharedBatches):
            drawn = sampler.all_shares()[number * accumulation : (number + 1) * accumulation]
            return [share for of_process in zip(*drawn, strict=True) for share in of_process]
        batches = [list(batch) for batch in sampler]
        return batches[number * accumulation : (number + 1) * accumulation]

    def name_rows(self, indices: Iterable[int]) -> str:
        """Return what the user calls some training rows: ``rows 3 and 8 of pairs.jsonl``."""
        dataset = self.train_dataset
        if "source" not in dataset.column_names:
            return _listed("row", [index + 1 for index in indices])
        found = sorted((dataset[index]["source"], dataset[index]["row"]) for index in indices)
        parts = [
            f"{_listed('row', [row for _, row in rows])} of {self._source_name(source)}"
            for source, rows in groupby(found, key=lambda place: place[0])
        ]
        return " and ".join(parts)

    def _source_name(self, source: int) -> str:
        if source == SAMPLED_SOURCE:
            return "the sampled pairs"
        return self.source_names[source] if source < len(self.source_names) else f"source {source}"


def _listed(noun: str, numbers: Sequence[int]) -> str:
    """Return ``row 3`` or ``rows 3, 5 and 8``."""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    shown = [str(number) for number in numbers[:NAMED_ROWS]]
    last = f"{len(numbers) - NAMED_ROWS} more" if len(numbers) > NAMED_ROWS else shown.pop()
    return f"{noun}s {', '.join(shown)} and {last}"
