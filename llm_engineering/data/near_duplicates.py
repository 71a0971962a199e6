"""Texts that are nearly the same: MinHash sketches (Broder 1997) in bands, kept in arrays.

A text is the set of its three-word shingles. The share of equal entries in two sketches estimates the Jaccard index of
the sets. Only texts that agree in a whole band are compared, each with the first of its band, so that cost and memory
grow with the number of texts, not with that of their pairs.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

NUM_PERM = 64
"""Entries of a sketch; the estimate's standard error at a Jaccard index of 0.9 is 0.04."""
BAND = 4
"""Entries of a band: texts with an index of 0.9 agree in one of the sixteen all but surely."""
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese, whose words are not set apart by spaces: a character is a word."""
_PUNCTUATION = (
    r"!-/:-@\[-^`{-~\xa1\xa7\xab\xb4\xb6\xb7\xbb\xbf\u060c\u061b\u061f\u06d4\u0964\u0965\u2000-\u206f\u3000-\u303f"
    r"\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_WORDS = re.compile(rf"[^\s{_PUNCTUATION}{_UNSPACED}]+|[{_UNSPACED}]|[+*/=<>^%]|(?<!\w)-(?=\s?\d)")
"""Words, and the signs without which two sums would be the same."""
_LONGEST_WORD = 25
"""Mean characters of a word beyond which a script without spaces is assumed; then shingles are of characters."""
_CHUNK = 100_000
"""Sketches that are compared at once."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


def shingles(text: str) -> list[str]:
    """Return the three-word shingles of a text, whatever its case, spacing and punctuation.

    A text of punctuation alone is its own shingle.
    """
    words = _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())
    if words and sum(map(len, words)) > _LONGEST_WORD * len(words):
        words = list("".join(words))
    if len(words) < 3:
        return [" ".join(words) or text]
    return [f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)]


class SketchWriter:
    """Writes the sketches of texts to a file, a batch at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, texts: Sequence[str]) -> None:
        """Append the sketches of some texts, each text of them sketched once."""
        from rensa import RMinHash

        place = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        sketches = RMinHash.digest_matrix_from_token_sets([shingles(text) for text in place], NUM_PERM, 42)
        rows = np.array(sketches.to_rows(), dtype=np.uint32)
        rows[[place[text] for text in texts]].tofile(self._file)

    def read(self) -> NDArray[np.uint32]:
        """Return all sketches, memory-mapped: one row a text."""
        self._file.close()
        if self.path.stat().st_size == 0:
            return np.zeros((0, NUM_PERM), dtype=np.uint32)
        return np.memmap(self.path, dtype=np.uint32, mode="r").reshape(-1, NUM_PERM)


class NearIndex:
    """Finds items that are alike: in each of their texts the sketches agree to at least ``similarity``."""

    def __init__(self, sketches: Sequence[NDArray[np.uint32]], similarity: float) -> None:
        self.sketches = sketches
        self.similarity = similarity

    def links(self, items: Indices) -> Iterator[tuple[Indices, Indices]]:
        """Yield items and earlier items that they are like, band by band; none is paired with itself."""
        for band in range(NUM_PERM // BAND):
            keys = self._keys(items, band)
            _, first, group = np.unique(keys, return_index=True, return_inverse=True)
            earlier = items[first[group]]
            later = earlier != items
            alike = self._alike(items[later], earlier[later])
            yield items[later][alike], earlier[later][alike]

    def found_in(self, items: Indices, others: Indices) -> Mask:
        """Return which items are like one of the others."""
        found = np.zeros(len(items), dtype=bool)
        if not len(items) or not len(others):
            return found
        for band in range(NUM_PERM // BAND):
            open_items = np.flatnonzero(~found)
            keys, first = np.unique(self._keys(others, band), return_index=True)
            own = self._keys(items[open_items], band)
            place = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
            hits = np.flatnonzero(keys[place] == own)
            alike = self._alike(items[open_items[hits]], others[first[place[hits]]])
            found[open_items[hits[alike]]] = True
        return found

    def _keys(self, items: Indices, band: int) -> NDArray[np.uint64]:
        """Return one key per item for the band, from all of its texts."""
        keys = np.zeros(len(items), dtype=np.uint64)
        for sketches in self.sketches:
            columns = np.ascontiguousarray(sketches[items, band * BAND : (band + 1) * BAND])
            for half in columns.view(np.uint64).T:
                keys = mix(keys, half)
        return keys

    def _alike(self, items: Indices, others: Indices) -> Mask:
        alike = np.ones(len(items), dtype=bool)
        for start in range(0, len(items), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            for sketches in self.sketches:
                equal = sketches[items[chunk]] == sketches[others[chunk]]
                alike[chunk] &= equal.mean(axis=1) >= self.similarity
        return alike


def mix(keys: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one key for two, by the finaliser of splitmix64 (Steele et al. 2014)."""
    mixed = (keys ^ more) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
