"""The ledger in the form in which all reports show it: totals, and one line a reason."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_engineering.reporting.wording import REASONS, count, in_order, percent
from llm_engineering.reports.data import DropReason, SourceLedger
from llm_engineering.reports.folders import RowKind

ROW_KINDS: tuple[RowKind, ...] = ("sft", "preference")
_SUMMED = (
    "rows",
    "train",
    "eval",
    "test",
    "examples",
    "truncated",
    "tokens_lost",
    "trained_tokens_lost",
    "answers_cut",
    "repeated_prompts",
)


@dataclass(frozen=True)
class Problem:
    """One reason, and what became of the rows of one source that it was found in."""

    reason: DropReason
    dropped: int
    kept: int
    first: str | None
    """What was wrong with the first row, and where it stands."""


def together(sources: Sequence[SourceLedger]) -> SourceLedger:
    """Return the sum of the ledgers of one kind; sums reconcile as their parts do."""
    dropped, found = (Counter[DropReason]() for _ in range(2))
    for source in sources:
        dropped.update(source.dropped)
        found.update(source.found)
    sums = {name: sum(getattr(source, name) for source in sources) for name in _SUMMED}
    return SourceLedger(
        kind=sources[0].kind,
        source="Together",
        format=f"{len(sources)} sources",
        dropped=dict(dropped),
        found=dict(found),
        **sums,
    )


def reconciliation(ledger: SourceLedger) -> str:
    """Return the fates as a sum: ``100 read = 88 train + 5 eval + 7 dropped``."""
    fates = {"train": ledger.train, "eval": ledger.eval, "test": ledger.test, "dropped": sum(ledger.dropped.values())}
    parts = " + ".join(f"{count(rows)} {fate}" for fate, rows in fates.items() if rows)
    return f"{count(ledger.rows)} read = {parts or '0'}"


def problems(ledger: SourceLedger) -> list[Problem]:
    """Return every reason that was found in a source, in the order in which it is looked for."""
    reasons = in_order([*ledger.dropped, *ledger.found, *ledger.first_problem], REASONS)
    return [
        Problem(reason, ledger.dropped.get(reason, 0), ledger.found.get(reason, 0), ledger.first_problem.get(reason))
        for reason in reasons
    ]


def mix(ledger: SourceLedger) -> str | None:
    """Return what the mix asks of a source and what it got; None where it asks nothing and nothing is known."""
    obtained = None if ledger.share is None else f"{percent(ledger.share)} of training"
    parts = [part for part in (f"{ledger.asked} asked" if ledger.asked else None, obtained) if part]
    return ", ".join(parts) or None


def kinds(sources: Sequence[SourceLedger]) -> Iterator[tuple[RowKind, list[SourceLedger], SourceLedger]]:
    """Yield every kind that rows were read of, with its ledgers and their sum."""
    for kind in ROW_KINDS:
        if ledgers := [source for source in sources if source.kind == kind]:
            yield kind, ledgers, together(ledgers)
