"""How processes share the batches of a training, so that their number changes nothing that is computed.

A batch is drawn as one process draws it, and cut into as many shares as there are processes. A last batch that does
not divide gives the first processes a row more. A process without a row computes a stand-in, in which nothing is
scored: all of them have to take part in every forward and backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, Dataset, Sampler

if TYPE_CHECKING:
    import datasets

STAND_IN = -1
"""The index of the row that stands in where a share is empty."""
Row = Mapping[str, Any]


def share_of(batch: Sequence[int], process: int, processes: int) -> list[int]:
    """Return the rows of a batch that one process takes: as many as the others, or one more for the first ones.

    Of 5 rows 3 processes take 2, 2 and 1; of 1 row they take 1, 0 and 0.
    """
    each, rest = divmod(len(batch), processes)
    start = process * each + min(process, rest)
    return list(batch[start : start + each + (process < rest)])


class SharedBatches(BatchSampler):
    """The share of one process in every batch.

    accelerate's own way would fill up the last batch with rows from the beginning of the epoch, which then count twice.
    """

    def __init__(self, sampler: "Sampler[int]", batch_size: int, process: int, processes: int) -> None:
        """Cut the batches of a sampler.

        Args:
            sampler: Draws rows in the same order in every process.
            batch_size: Of all processes together.
            process: Whose shares these are.
            processes: How many there are.
        """
        super().__init__(sampler, batch_size, drop_last=False)
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            yield share_of(batch, self.process, self.processes) or [STAND_IN]

    def all_shares(self) -> list[list[list[int]]]:
        """Return the rows of every batch of the epoch, process by process."""
        return [[share_of(batch, p, self.processes) for p in range(self.processes)] for batch in super().__iter__()]


class RowsWithStandIn(Dataset[Row]):
    """Rows, and one more that stands in where a process has none."""

    total_dataset_length = 0
    """accelerate's name: from it, it reckons how much of gathered numbers is doubled and to be cut. Nothing is."""

    def __init__(self, rows: "datasets.Dataset", stand_in: Row) -> None:
        self.rows, self.stand_in = rows, stand_in

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        if index == STAND_IN:
            return self.stand_in
        row: Row = self.rows[index]
        return row
