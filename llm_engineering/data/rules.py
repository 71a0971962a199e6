"""The rules that drop rows and draw splits, and the proof that no held-out prompt is trained on."""

import hashlib
from collections.abc import Iterable

from llm_engineering.artifacts import RowKind, Split
from llm_engineering.config.schema import DataConfig
from llm_engineering.data.candidates import Candidate, Tally, prompt_key
from llm_engineering.data.formats import Pair
from llm_engineering.errors import DataError, ProofError


def drop_duplicates(candidates: list[Candidate], data: DataConfig, tallies: list[Tally]) -> None:
    """Apply the rules on identical pairs, contradictory pairs and exact duplicates, in the order of the rows.

    Rows that are placed in different splits are not held against each other: among them, the held-out row stays.
    """
    seen: set[tuple[str, ...]] = set()
    for candidate in candidates:
        content, key = candidate.content, f"{candidate.split or 'train'}:{candidate.prompt_key}"
        if isinstance(content, Pair):
            if content.chosen == content.rejected:
                if data.identical_pair == "error":
                    name = tallies[candidate.source].source.name
                    raise DataError(
                        f"{name}, row {candidate.row}: chosen equals rejected. Remove the pair or set "
                        "data.identical_pair: drop."
                    )
                candidate.dropped = "identical pair"
                continue
            if (key, content.rejected, content.chosen) in seen:
                candidate.dropped = "contradictory pair"
                continue
            identity: tuple[str, ...] = (key, content.chosen, content.rejected)
        else:
            identity = (key, content.answer)
        if identity in seen and data.exact_duplicate == "drop":
            candidate.dropped = "exact duplicate"
            continue
        seen.add(identity)


def count_repeated_prompts(kept: list[Candidate], tallies: list[Tally]) -> None:
    """Count the kept rows whose prompt an earlier row has with another answer; they stay."""
    answers: dict[tuple[RowKind, str], set[tuple[str, ...]]] = {}
    for candidate in kept:
        content = candidate.content
        answer = (content.chosen, content.rejected) if isinstance(content, Pair) else (content.answer,)
        earlier = answers.setdefault((candidate.kind, candidate.prompt_key), set())
        tallies[candidate.source].repeated_prompts += bool(earlier - {answer})
        earlier.add(answer)


def draw_splits(candidates: list[Candidate], data: DataConfig, seed: int) -> None:
    """Place every row whose split is not given: a share of the prompts, drawn by seeded hash, is held out.

    Prompts of rows whose split is given are not drawn, so that none of those rows is lost to a draw.
    """
    given_keys = {c.opening_key for c in candidates if not c.dropped and c.split is not None}
    open_keys = {c.opening_key for c in candidates if not c.dropped} - given_keys
    order = sorted(open_keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    num_test, num_eval = (_held_out(share, len(order)) for share in (data.test_share, data.evaluation_share))
    place: dict[str, Split] = dict.fromkeys(order, "train")
    place.update(dict.fromkeys(order[:num_test], "test"))
    place.update(dict.fromkeys(order[num_test : num_test + num_eval], "eval"))
    for candidate in candidates:
        if not candidate.dropped and candidate.split is None:
            candidate.split = place.get(candidate.opening_key, "train")


def _held_out(share: float, prompts: int) -> int:
    """Return how many prompts a share is: at least one where the share is not zero and something remains."""
    return min(max(round(share * prompts), 1), max(prompts - 1, 0)) if share > 0 else 0


def drop_leaks(candidates: list[Candidate]) -> None:
    """Drop rows whose prompt is held out elsewhere: test wins over eval, eval over train."""
    held: dict[Split, set[str]] = {
        split: {c.opening_key for c in candidates if c.split == split and not c.dropped} for split in ("eval", "test")
    }
    for candidate in candidates:
        if candidate.dropped:
            continue
        leaks_test = candidate.split != "test" and candidate.opening_key in held["test"]
        if leaks_test or (candidate.split == "train" and candidate.opening_key in held["eval"]):
            candidate.dropped = "leaked into evaluation"


def prove_splits(kept: list[Candidate]) -> None:
    """Check that no prompt of a held-out row stands in a training row, at any turn of either.

    Raises:
        ProofError: One does.
    """
    train = {key for c in kept if c.split == "train" for key in _prompt_keys(c)}
    held = {key for c in kept if c.split != "train" for key in _prompt_keys(c)}
    if train & held:
        raise ProofError(f"{len(train & held)} held-out prompts stand in a train split; nothing was trained.")


def _prompt_keys(candidate: Candidate) -> Iterable[str]:
    """Return the keys of all prompts of a row, one for each answer that it shows."""
    prompt = candidate.prompt
    yield candidate.prompt_key
    yield from (prompt_key(prompt[:turn]) for turn, message in enumerate(prompt) if message["role"] == "assistant")


def require_enough(tallies: list[Tally], data: DataConfig) -> None:
    """Refuse a source that lost too many rows, and data that leave nothing to train on.

    Raises:
        DataError: Says which, and why rows were dropped.
    """
    for tally in tallies:
        name, lost = tally.source.name, sum(tally.dropped.values())
        why = ", ".join(tally.why(reason) for reason in sorted(tally.dropped))
        if lost == tally.rows:
            raise DataError(f"{name}: no rows are left, all {lost} were dropped: {why}. Mend the data.")
        if lost > data.max_dropped_share * tally.rows:
            raise DataError(
                f"{name}: {lost} of {tally.rows} rows were dropped, more than data.max_dropped_share "
                f"{data.max_dropped_share:.0%} allows: {why}. Mend the data or raise the share."
            )
    for kind in sorted({tally.kind for tally in tallies}):
        if not sum(tally.fates["train"] for tally in tallies if tally.kind == kind):
            raise DataError(f"No {kind} rows are left to train on. Lower evaluation_share, or add rows.")
