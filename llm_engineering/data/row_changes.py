"""Which rows two reads of the same sources have and have not in common, by the content of the rows."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from llm_engineering.data.rowsets import read_batches, source_split
from llm_engineering.reports.data import RowChange
from llm_engineering.reports.folders import RowSet


def row_changes(left: RowSet, right: RowSet, names: tuple[Sequence[str], Sequence[str]]) -> list[RowChange]:
    """Return what changed in every source, the unchanged ones left out.

    Args:
        left: Raw rows of one run, a split a source.
        right: Those of the other.
        names: The names of the sources of both, in the order of the splits.
    """
    earlier, later = (
        {name: _hashes(rows, source_split(i)) for i, name in enumerate(sources)}
        for rows, sources in zip((left, right), names, strict=True)
    )
    found = []
    for name in dict.fromkeys([*earlier, *later]):
        before, after = earlier.get(name, Counter()), later.get(name, Counter())
        added, removed = (after - before).total(), (before - after).total()
        if added or removed:
            change = RowChange(source=name, before=before.total(), after=after.total(), added=added, removed=removed)
            found.append(change)
    return found


def _hashes(rows: RowSet, split: str) -> Counter[bytes]:
    """Return how often every row stands in a split, by the hash of its content."""
    counted: Counter[bytes] = Counter()
    for batch in read_batches(rows, split):
        texts = (row["data"] if row["data"] is not None else row["problem"] or "" for row in batch)
        counted.update(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest() for text in texts)
    return counted
