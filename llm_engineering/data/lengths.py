"""Tokens and turns of the training rows, counted while they are made."""

from array import array
from collections.abc import Sequence

import numpy as np

from llm_engineering.data.tokens import TrainingRow
from llm_engineering.reports.data import Histogram
from llm_engineering.reports.folders import RowKind, Split

BARS = 24


class Lengths:
    """Counts the tokens of every row that is written; four bytes a row are held."""

    def __init__(self) -> None:
        self._lengths: dict[str, array[int]] = {}
        self._tokens: dict[str, int] = {}
        self._trained: dict[str, int] = {}
        self._turns: array[int] = array("i")

    def add(self, kind: RowKind, split: Split, rows: Sequence[TrainingRow]) -> None:
        """Count some rows."""
        if not rows:
            return
        name = f"{kind}/{split}"
        self._lengths.setdefault(name, array("i")).extend([row.length for row in rows])
        self._tokens[name] = self._tokens.get(name, 0) + sum(row.tokens for row in rows)
        self._trained[name] = self._trained.get(name, 0) + sum(row.trained_tokens for row in rows)
        if kind == "sft":
            self._turns.extend([row.turns for row in rows])

    @property
    def tokens(self) -> dict[str, int]:
        """All tokens, for each kind and split."""
        return dict(sorted(self._tokens.items()))

    @property
    def trained_tokens(self) -> dict[str, int]:
        """Tokens that carry loss, likewise."""
        return dict(sorted(self._trained.items()))

    @property
    def longest(self) -> dict[str, int]:
        """Tokens of the longest row, likewise; of a pair with the longer answer."""
        return {name: max(lengths) for name, lengths in sorted(self._lengths.items())}

    @property
    def histograms(self) -> dict[str, Histogram]:
        """Tokens a row, likewise; of a pair with the longer answer."""
        return {name: _histogram(lengths) for name, lengths in sorted(self._lengths.items())}

    @property
    def turns(self) -> Histogram | None:
        """Answers a conversation."""
        return _histogram(self._turns) if self._turns else None


def _histogram(values: Sequence[int]) -> Histogram:
    """Return counts over bars of equal, whole width."""
    largest = max(values)
    width = -(-(largest + 1) // BARS)
    counts, edges = np.histogram(values, bins=np.arange(0, largest + 1 + width, width))
    return Histogram(edges=edges.tolist(), counts=counts.tolist())
