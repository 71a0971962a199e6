"""Rows written as JSON lines and prepared: what the tests of rules, ledger, audit and preview share."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_engineering.config.data import DataConfig
from llm_engineering.data.ledger import QUARANTINE
from llm_engineering.data.loading import load_raw_rows
from llm_engineering.data.preparation import PreparedRows, prepare_rows
from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.reports.data import SourceLedger
from llm_engineering.reports.folders import RowSet

Row = dict[str, Any]
Prepare = Callable[..., PreparedRows]

# Two texts of 30 words. One that differs in the last word shares 27 of 29 three-word shingles with the first, a Jaccard
# index of 0.93; one that differs in a word inside loses three of 28 shingles, 25 / 31 = 0.81.
LONG = (
    "describe in your own words how the heron waits in the shallow water of the lake until a small fish swims close "
    "enough to be caught before the sun goes down"
)
OTHER = (
    "explain to a child of ten years why the moon seems to change its shape from one night to the next although it is "
    "always the same round ball of grey stone"
)


def sft(question: str, answer: str, **more: Any) -> Row:
    return {"question": question, "answer": answer, **more}


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def chat(*turns: str) -> Row:
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]}


def prepare_in(
    folder: Path, chat: ChatTokenizer, sft: Sequence[Any], preference: Sequence[Any], seed: int, **rules: Any
) -> PreparedRows:
    """Write every source as JSON lines and prepare them; a source is rows, or rows with settings."""
    folder.mkdir(exist_ok=True)
    sources: dict[str, list[Row]] = {"sft": [], "preference": []}
    for kind, given_sources in (("sft", sft), ("preference", preference)):
        for number, given_source in enumerate(given_sources):
            rows, settings = given_source if isinstance(given_source, tuple) else (given_source, {})
            path = folder / f"{kind}-{number}.jsonl"
            path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
            sources[kind].append({"path": str(path), **settings})
    if sample := rules.pop("sample", None):
        sources["preference"].append({"sample": sample})
    data = DataConfig.model_validate({"evaluation_share": 0.0, "max_dropped_share": 1.0, **sources, **rules})
    raw = load_raw_rows(data, seed, folder / "raw")
    return prepare_rows(raw, data, chat, seed, folder / "prepared")


def fates(ledger: SourceLedger) -> dict[str, int]:
    """Return how many rows met which fate."""
    placed = {split: getattr(ledger, split) for split in ("train", "eval", "test")}
    return {fate: count for fate, count in {**placed, **ledger.dropped}.items() if count}


def placed_rows(rows: RowSet) -> dict[str, list[tuple[int, int]]]:
    """Return the sources and numbers of the rows of every split."""
    return {
        split: [(row["source"], row["row"]) for row in read_rows(rows, split)] for split, n in rows.rows.items() if n
    }


def quarantined(prepared: PreparedRows) -> list[Row]:
    """Return the lines of the quarantine."""
    with (prepared.quarantine.path / QUARANTINE).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
