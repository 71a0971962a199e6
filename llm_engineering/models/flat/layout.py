"""Batches without padding: the tokens of all rows one behind the other, and which of them see which.

Shapes: B rows of a padded batch, P its pairs (B = 2P), T tokens of its longest row, N tokens of the flat row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """Tokens ``[start, stop)`` of a flat row, which see each other causally and one earlier prefix whole."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0

    @property
    def span(self) -> int:
        """How many tokens the last one of the segment sees, itself included."""
        return self.stop - self.start + self.prefix_stop - self.prefix_start


@dataclass(frozen=True)
class FlatRows:
    """The rows of a batch as one row of N tokens."""

    input_ids_N: Tensor
    position_ids_N: Tensor
    segments: tuple[Segment, ...]
    """They cover the flat row in order; each has one token at least."""
    index_BT: Tensor
    """Where each token of the padded batch stands in the flat row; padding points anywhere."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row, prefix included."""
        return max(segment.span for segment in self.segments)


def flatten_rows(input_ids_BT: Tensor, attention_mask_BT: Tensor) -> FlatRows:
    """Return the rows of a batch that is padded on the right."""
    lengths = _lengths(attention_mask_BT)
    kept_BT = attention_mask_BT.bool()
    positions_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    stops = torch.tensor(lengths).cumsum(0).tolist()
    starts_B = torch.tensor([stop - length for stop, length in zip(stops, lengths, strict=True)])
    return FlatRows(
        input_ids_N=input_ids_BT[kept_BT],
        position_ids_N=positions_T.expand_as(input_ids_BT)[kept_BT],
        segments=tuple(Segment(stop - n, stop) for stop, n in zip(stops, lengths, strict=True) if n),
        index_BT=_within(starts_B.to(positions_T.device)[:, None] + positions_T, stops[-1]),
    )


def flatten_packed(input_ids_1N: Tensor, position_ids_1N: Tensor) -> FlatRows:
    """Return rows that the collator has packed already: a row starts where the positions start again."""
    positions_N = position_ids_1N.reshape(-1)
    starts = (positions_N == 0).nonzero().squeeze(1).tolist()
    assert starts[:1] == [0], "A packed batch starts at position 0."
    stops = [*starts[1:], len(positions_N)]
    return FlatRows(
        input_ids_N=input_ids_1N.reshape(-1),
        position_ids_N=positions_N,
        segments=tuple(map(Segment, starts, stops)),
        index_BT=torch.arange(len(positions_N), device=positions_N.device)[None],
    )


def flatten_pairs(input_ids_BT: Tensor, attention_mask_BT: Tensor, share: bool = True) -> FlatRows:
    """Return pairs, the chosen row whole and the rejected row from its first other token on.

    The tokens that two rows begin with have the same hidden states in both, since attention is causal. They are
    computed once, in the chosen row; the rest of the rejected row sees them as its prefix. Comparing tokens, instead of
    counting those of the prompt, is right under any truncation.

    Args:
        input_ids_BT: The chosen rows, then the rejected rows in the same order, padded on the right.
        attention_mask_BT: 1 at tokens.
        share: Keep the rejected rows whole if not.
    """
    lengths = _lengths(attention_mask_BT)
    pairs = len(lengths) // 2
    common = _common_prefixes(input_ids_BT, attention_mask_BT) if share else [0] * pairs
    positions_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    tokens, positions, segments, index = [], [], [], torch.zeros_like(input_ids_BT)
    start = 0
    for pair, (chosen, rejected, shared) in enumerate(zip(lengths[:pairs], lengths[pairs:], common, strict=True)):
        middle, stop = start + chosen, start + chosen + rejected - shared
        tokens += [input_ids_BT[pair, :chosen], input_ids_BT[pairs + pair, shared:rejected]]
        positions += [positions_T[:chosen], positions_T[shared:rejected]]
        segments.append(Segment(start, middle))
        if stop > middle:
            segments.append(Segment(middle, stop, start if shared else 0, start + shared if shared else 0))
        index[pair] = start + positions_T
        index[pairs + pair] = torch.where(positions_T < shared, start + positions_T, middle + positions_T - shared)
        start = stop
    return FlatRows(torch.cat(tokens), torch.cat(positions), tuple(segments), _within(index, start))


def _lengths(attention_mask_BT: Tensor) -> list[int]:
    """Return the tokens of every row."""
    assert bool((attention_mask_BT[:, 1:] <= attention_mask_BT[:, :-1]).all()), "Rows are padded on the right."
    lengths: list[int] = attention_mask_BT.sum(1).tolist()
    return lengths


def _common_prefixes(input_ids_BT: Tensor, attention_mask_BT: Tensor) -> list[int]:
    """Return how many tokens the two rows of every pair begin with alike."""
    chosen_PT, rejected_PT = input_ids_BT.chunk(2)
    both_PT = attention_mask_BT.bool().chunk(2)[0] & attention_mask_BT.bool().chunk(2)[1]
    common: list[int] = ((chosen_PT == rejected_PT) & both_PT).int().cumprod(1).sum(1).tolist()
    return common


def _within(index_BT: Tensor, size: int) -> Tensor:
    """Return the index with the places of padding moved into the flat row."""
    return index_BT.clamp(max=size - 1)
