"""The account of every row: tallies per source, and the dropped rows themselves."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from llm_engineering.config.data import DataConfig, RowSource
from llm_engineering.data.formats.choice import listed
from llm_engineering.data.tokens import TrainingRow
from llm_engineering.errors import DataError
from llm_engineering.reports.data import ASKED_FOR, DropReason, SourceLedger
from llm_engineering.reports.folders import RowKind, Split

QUARANTINE = "quarantine.jsonl"
RULES: dict[DropReason, str] = {
    "filtered by rule": "min_score_ratio or max_pairs_per_prompt of the source leaves it out",
    "identical pair": "chosen equals rejected",
    "contradictory pair": "an earlier pair has the two answers the other way round",
    "exact duplicate": "an earlier row has the same prompt and answers",
    "near-duplicate": "an earlier row is nearly the same",
    "leaked into evaluation": "its prompt is held out, or nearly is",
    "over the mix": "count or weight of the source leaves it out",
}
"""What was found where a rule decides about a row by others, or by the configuration."""


@dataclass
class Tally:
    """Counts of one source while its rows get their fates."""

    name: str
    source: RowSource
    kind: RowKind
    format: str
    unused: list[str] = field(default_factory=list)
    """Columns that the format does not know."""
    scored: bool = True
    """Some of its pairs have scores."""
    rows: int = 0
    fates: Counter[Split] = field(default_factory=Counter)
    dropped: Counter[DropReason] = field(default_factory=Counter)
    found: Counter[DropReason] = field(default_factory=Counter)
    first_problem: dict[DropReason, str] = field(default_factory=dict)
    examples: Counter[Split] = field(default_factory=Counter)
    truncated: int = 0
    tokens_lost: int = 0
    trained_tokens_lost: int = 0
    answers_cut: int = 0
    repeated_prompts: int = 0

    def drop(self, reason: DropReason, place: str, detail: str) -> None:
        """Count a dropped row, and keep what was wrong with the first of its reason."""
        self.dropped[reason] += 1
        self.first_problem.setdefault(reason, f"{place}: {detail}")

    def keep(self, split: Split, rows: list[TrainingRow]) -> None:
        """Count a kept row and the training rows that it gave."""
        self.fates[split] += 1
        self.examples[split] += len(rows)
        self.truncated += any(row.tokens_lost for row in rows)
        self.tokens_lost += sum(row.tokens_lost for row in rows)
        self.trained_tokens_lost += sum(row.trained_lost for row in rows)
        self.answers_cut += sum(row.answers_cut for row in rows)

    def why(self) -> str:
        """Return the reasons with their numbers, and what was wrong with the first row of each."""
        faults = sorted(reason for reason in self.dropped if reason not in ASKED_FOR)
        return ", ".join(f"{self.dropped[reason]} {reason} (first {self.first_problem[reason]})" for reason in faults)

    def ledger(self, share: float | None) -> SourceLedger:
        """Return the ledger of the source.

        Args:
            share: The source's part of the training examples of its kind.
        """
        source = self.source
        asked = f"count {source.count}" if source.count else f"weight {source.weight:g}" if source.weight else None
        return SourceLedger(
            kind=self.kind,
            source=self.name,
            format=self.format,
            rows=self.rows,
            train=self.fates["train"],
            eval=self.fates["eval"],
            test=self.fates["test"],
            dropped=dict(self.dropped),
            found=dict(self.found),
            first_problem=self.first_problem,
            examples=self.examples.total(),
            truncated=self.truncated,
            tokens_lost=self.tokens_lost,
            trained_tokens_lost=self.trained_tokens_lost,
            answers_cut=self.answers_cut,
            repeated_prompts=self.repeated_prompts,
            asked=asked,
            share=share,
        )


def ledgers(tallies: list[Tally]) -> list[SourceLedger]:
    """Return the ledgers of all sources, each with its share of the training examples where several give some."""
    train: dict[RowKind, list[int]] = {tally.kind: [] for tally in tallies}
    for tally in tallies:
        train[tally.kind].append(tally.examples["train"])
    mixed = {kind: sum(numbers) for kind, numbers in train.items() if sum(map(bool, numbers)) > 1}
    return [t.ledger(t.examples["train"] / mixed[t.kind] if t.kind in mixed else None) for t in tallies]


class Quarantine:
    """Writes dropped rows with source, place and reason, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / QUARANTINE).open("w", encoding="utf-8", errors="surrogatepass")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, tally: Tally, raw: Mapping[str, Any], reason: DropReason, detail: str) -> None:
        """Write one row as it was read, or null where it could not be."""
        facts = {
            "source": tally.name,
            "row": raw["row"],
            "place": raw["place"],
            "reason": reason,
            "detail": detail,
        }
        data = (raw["data"] or "null").replace("\n", " ").replace("\r", " ")  # between its parts, never in a text
        self._file.write(f'{json.dumps(facts, ensure_ascii=False)[:-1]}, "data": {data}}}\n')


def require_enough(tallies: list[Tally], data: DataConfig) -> None:
    """Refuse a source that lost too many rows to faults, and data that leave nothing to train on.

    Raises:
        DataError: Says which, and why rows were dropped.
    """
    for tally in tallies:
        name = tally.name
        lost = sum(rows for reason, rows in tally.dropped.items() if reason not in ASKED_FOR)
        if lost and lost == tally.rows:
            raise DataError(f"{name}: no rows are left, all {lost} were dropped: {tally.why()}. Mend the data.")
        if lost and lost / tally.rows > data.max_dropped_share:  # 0.29 * 100 is less than 29
            raise DataError(
                f"{name}: {lost} of {tally.rows} rows were dropped, more than data.max_dropped_share "
                f"{data.max_dropped_share:.0%} allows: {tally.why()}. Mend the data or raise the share."
            )
    for kind in sorted({tally.kind for tally in tallies}):
        if not sum(tally.fates["train"] for tally in tallies if tally.kind == kind):
            raise DataError(f"No {kind} rows are left to train on. Lower evaluation_share, or add rows.")


def notes(tallies: list[Tally], data: DataConfig) -> list[str]:
    """Return what the ledger's numbers do not say, a sentence each."""
    said = []
    for tally in tallies:
        name, source, train = tally.name, tally.source, tally.examples["train"]
        if tally.unused:
            said.append(f"{name}: columns that the format {tally.format} does not use: {listed(tally.unused)}.")
        if source.min_score_ratio > 1 and not tally.scored:
            said.append(f"{name}: min_score_ratio leaves out nothing, since the rows have no scores.")
        if tally.answers_cut:
            said.append(
                f"{name}: {tally.answers_cut} answers lost their end and EOS; data.max_length is too short for them."
            )
        if source.count and train < source.count:
            said.append(f"{name}: {source.count} training examples were asked for, {train} are there.")
    for kind in {tally.kind: None for tally in tallies}:
        held_out = sum(tally.fates["eval"] + tally.fates["test"] for tally in tallies if tally.kind == kind)
        if data.evaluation_share and not held_out:
            said.append(
                f"No {kind} rows are held out: too few prompts for data.evaluation_share {data.evaluation_share:g}."
            )
    return said
