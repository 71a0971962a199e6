"""The rules that drop examples and draw splits, on arrays of keys, and the proof that the splits share no prompt."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llm_engineering.config.data import DataConfig, Finding, RowSource
from llm_engineering.data.examples import KEPT, KINDS, NOT_PLACED, REASONS, SPLITS, Keys, Records
from llm_engineering.data.near_duplicates import Indices, Mask, NearIndex, mix
from llm_engineering.errors import DataError, ProofError
from llm_engineering.reports.data import DropReason

TRAIN, EVAL, TEST = range(3)


@dataclass
class Fates:
    """All examples of a run, and what becomes of them."""

    table: Records
    turn_example: Indices
    """For every prompt before an earlier answer of a conversation: its example."""
    turn_key: Keys
    sources: Sequence[RowSource]
    place: Callable[[int, int], str]
    """Says where a row of a source stands."""
    reason: NDArray[np.int8] = field(init=False)
    """Index into REASONS, or KEPT."""
    split: NDArray[np.int8] = field(init=False)
    """Index into SPLITS."""
    found: dict[DropReason, Mask] = field(default_factory=dict)
    """Examples that a rule found and the configuration keeps."""

    def __post_init__(self) -> None:
        self.reason = np.full(len(self.table), KEPT, dtype=np.int8)
        self.split = self.table["placed"].copy()

    @property
    def kept(self) -> Indices:
        """The examples that no rule has dropped so far."""
        return np.flatnonzero(self.reason == KEPT)

    def of(self, kind: int, split: int) -> Indices:
        """Return the kept examples of a kind and split."""
        return np.flatnonzero((self.reason == KEPT) & (self.table["kind"] == kind) & (self.split == split))

    def count(self, reason: DropReason) -> int:
        """Return how many examples a rule has found so far, dropped or kept."""
        kept = self.found.get(reason)
        return int((self.reason == REASONS.index(reason)).sum()) + (0 if kept is None else int(kept.sum()))

    def apply(self, found: Indices, reason: DropReason, finding: Finding, rule: str) -> None:
        """Drop or keep the examples that a rule found, or stop the run.

        Raises:
            DataError: The rule says ``error``; names the first row.
        """
        if not len(found):
            return
        if finding == "error":
            first = self.table[found[0]]
            raise DataError(
                f"{self.place(first['source'], int(first['row']))}: {reason}; {len(found)} in all. Mend the "
                f"data or set data.rules.{rule}: drop."
            )
        if finding == "drop":
            self.reason[found] = REASONS.index(reason)
        else:
            mask = self.found.setdefault(reason, np.zeros(len(self.table), dtype=bool))
            mask[found] = True


def leave_out(fates: Fates) -> None:
    """Leave out pairs with a weak preference, and pairs beyond the number that a prompt may have."""
    table = fates.table
    for index, source in enumerate(fates.sources):
        own = table["source"] == index
        weak = own & (table["score_ratio"] < source.min_score_ratio)
        fates.apply(np.flatnonzero(weak), "filtered by rule", "drop", "")
        if source.max_pairs_per_prompt is not None:
            pairs = np.flatnonzero(own & ~weak)
            surplus = _rank(table["prompt"][pairs]) >= source.max_pairs_per_prompt
            fates.apply(pairs[surplus], "filtered by rule", "drop", "")


def drop_duplicates(fates: Fates, data: DataConfig, near: NearIndex | None) -> None:
    """Apply the rules on identical and contradictory pairs and on duplicates, in the order of the rows.

    Examples that are placed in different splits are not held against each other: among them, the held-out one stays.
    """
    table, rules = fates.table, data.rules
    pairs = table["kind"] == KINDS.index("preference")
    identical = pairs & (table["answer"] == table["rejected"])
    fates.apply(fates.kept[identical[fates.kept]], "identical pair", rules.identical_pair, "identical_pair")

    kept = fates.kept
    context = _context(fates, kept)
    own = mix(mix(context, table["answer"][kept]), table["rejected"][kept])
    swapped = mix(mix(context, table["rejected"][kept]), table["answer"][kept])
    keys, first = np.unique(own, return_index=True)
    place = np.minimum(np.searchsorted(keys, swapped), max(len(keys) - 1, 0))
    first_own = first[np.searchsorted(keys, own)] if len(keys) else first
    contradicts = pairs[kept] & (keys[place] == swapped) & (first[place] < first_own) if len(keys) else pairs[kept]
    fates.apply(kept[contradicts], "contradictory pair", rules.contradictory_pair, "contradictory_pair")

    kept = fates.kept
    identity = mix(mix(_context(fates, kept), table["answer"][kept]), table["rejected"][kept])
    fates.apply(kept[_rank(identity) > 0], "exact duplicate", rules.exact_duplicate, "exact_duplicate")
    if near is not None:
        fates.apply(_near_duplicates(fates, near), "near-duplicate", rules.near_duplicate, "near_duplicate")


def _near_duplicates(fates: Fates, near: NearIndex) -> Indices:
    """Return the kept examples that are nearly an earlier one of their kind and placement."""
    found = np.zeros(len(fates.table), dtype=bool)
    kept = fates.kept
    groups = _placement(fates)[kept]
    for group in np.unique(groups):
        for later, _ in near.links(kept[groups == group]):
            found[later] = True
    for kept_by_rule in fates.found.values():  # what exact rules found and keep is not dropped as nearly the same
        found &= ~kept_by_rule
    return np.flatnonzero(found)


def _placement(fates: Fates) -> NDArray[np.int64]:
    """Return one number per example for its kind and the split that it was placed in, train where it was not."""
    kind, placed = (fates.table[name].astype(np.int64) for name in ("kind", "placed"))
    return kind * len(SPLITS) + np.maximum(placed, TRAIN)


def _context(fates: Fates, items: Indices) -> Keys:
    return mix(fates.table["prompt"][items], _placement(fates)[items].astype(np.uint64))


def _rank(keys: Keys) -> Indices:
    """Return for every item how many earlier ones have the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return ranks


def draw_splits(fates: Fates, data: DataConfig, prompts: NearIndex | None, seed: int) -> None:
    """Place every example whose split is not given: a share of the prompts, drawn by seeded hash, is held out.

    Prompts that are alike are drawn together. Prompts of examples whose split is given are not drawn, so that none of
    those is lost to a draw.
    """
    kept = fates.kept
    openings, group = np.unique(fates.table["opening"][kept], return_inverse=True)
    cluster = _clusters(kept, group, len(openings), prompts) if prompts is not None else np.arange(len(openings))
    given = np.zeros(len(openings), dtype=bool)
    given[group[fates.split[kept] != NOT_PLACED]] = True
    closed = np.zeros(cluster.max(initial=-1) + 1, dtype=bool)
    closed[cluster[given]] = True
    place = _draw(openings, cluster, ~closed[cluster], data, seed)
    unplaced = kept[fates.split[kept] == NOT_PLACED]
    fates.split[unplaced] = place[group[fates.split[kept] == NOT_PLACED]]


def _clusters(kept: Indices, group: Indices, openings: int, prompts: NearIndex) -> Indices:
    """Return one number per distinct opening: equal where openings are alike, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    position = np.zeros(kept.max(initial=-1) + 1, dtype=np.int64)
    position[kept] = group
    cluster = np.arange(openings)
    for later, earlier in prompts.links(kept):
        edges = np.unique(np.stack([cluster[position[later]], cluster[position[earlier]]]), axis=1)
        graph = coo_array((np.ones(edges.shape[1], dtype=bool), (edges[0], edges[1])), shape=(openings, openings))
        cluster = connected_components(graph, directed=False)[1][cluster].astype(np.int64)
    return cluster


def _draw(openings: Keys, cluster: Indices, drawn: Mask, data: DataConfig, seed: int) -> NDArray[np.int8]:
    """Return the split of every opening; clusters are taken in the order of a seeded hash, as long as they fit."""
    place = np.zeros(len(openings), dtype=np.int8)
    candidates = np.flatnonzero(drawn)
    wanted = {
        TEST: _held_out(data.test_share, len(candidates)),
        EVAL: _held_out(data.evaluation_share, len(candidates)),
    }
    wanted[EVAL] = max(min(wanted[EVAL], len(candidates) - 1 - wanted[TEST]), 0)
    hashed = [hashlib.blake2b(b"%d:%d" % (seed, key), digest_size=8).digest() for key in openings[candidates].tolist()]
    order = cluster[candidates[sorted(range(len(hashed)), key=hashed.__getitem__)]]
    sizes = np.bincount(cluster[candidates], minlength=cluster.max(initial=-1) + 1)
    chosen = np.zeros(len(sizes), dtype=np.int8)
    for split, number in wanted.items():
        for one in order.tolist():
            if not number:
                break
            if chosen[one] == TRAIN and sizes[one] <= number:
                chosen[one] = split
                number -= int(sizes[one])
    place[candidates] = chosen[cluster[candidates]]
    return place


def _held_out(share: float, prompts: int) -> int:
    """Return how many prompts a share is: at least one where the share is not zero and something remains."""
    return min(max(round(share * prompts), 1), max(prompts - 1, 0)) if share > 0 else 0


def drop_leaks(fates: Fates, data: DataConfig, prompts: NearIndex | None) -> None:
    """Drop examples whose prompt is held out elsewhere, or nearly is: test wins over eval, eval over train."""
    openings = fates.table["opening"]
    for loser, winner in ((EVAL, TEST), (TRAIN, TEST), (TRAIN, EVAL)):
        losing, winning = (fates.kept[fates.split[fates.kept] == split] for split in (loser, winner))
        leaked = np.isin(openings[losing], openings[winning])
        if prompts is not None:
            leaked |= prompts.found_in(losing, winning)
        fates.apply(losing[leaked], "leaked into evaluation", data.rules.leak, "leak")


def mix_sources(fates: Fates, seed: int) -> None:
    """Cut the training examples of every source to its count, or all sources of a kind to their weights."""
    for kind in range(len(KINDS)):
        train = fates.of(kind, TRAIN)
        own = {
            int(source): train[fates.table["source"][train] == source]
            for source in np.unique(fates.table["source"][train])
        }
        weights = {source: fates.sources[source].weight for source in own}
        total = min((len(own[s]) / w for s, w in weights.items() if w), default=0.0)
        for source, items in own.items():
            weight, count = weights[source], fates.sources[source].count
            wanted = round(total * weight) if weight else count if count else len(items)
            order = np.random.default_rng([seed, source]).permutation(len(items))
            fates.apply(np.sort(items[order[wanted:]]), "over the mix", "drop", "")


def prove_splits(fates: Fates) -> None:
    """Check that no prompt of a held-out example stands in a training example, at any turn of either.

    Raises:
        ProofError: One does.
    """
    kept = fates.reason == KEPT
    train, held = kept & (fates.split == TRAIN), kept & (fates.split != TRAIN)
    trained, held_out = (
        np.concatenate([fates.table["prompt"][side], fates.turn_key[side[fates.turn_example]]])
        for side in (train, held)
    )
    both = np.intersect1d(trained, held_out)
    if len(both):
        raise ProofError(f"{len(both)} held-out prompts stand in a train split; nothing was trained.")


def repeated_prompts(fates: Fates) -> Mask:
    """Return which kept examples have a prompt that an earlier one of their kind has with another answer."""
    kept = fates.kept
    table = fates.table[kept]
    context = mix(table["prompt"], table["kind"].astype(np.uint64))
    repeated = np.zeros(len(fates.table), dtype=bool)
    again = _rank(mix(mix(context, table["answer"]), table["rejected"])) > 0
    repeated[kept] = (_rank(context) > 0) & ~again
    return repeated
