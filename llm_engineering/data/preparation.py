"""From raw rows to training rows: every row is read, held against the rules, split, tokenised and accounted for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_engineering.artifacts import DatasetReport, RenderedRow, RowKind, RowSet, SourceLedger
from llm_engineering.config.schema import DataConfig
from llm_engineering.data.candidates import SPLITS, Candidate, Tally, read_candidates
from llm_engineering.data.formats import Conversation
from llm_engineering.data.rendering import IGNORED, ChatRenderer
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, Row, read_rows, write_rows
from llm_engineering.data.rules import (
    count_repeated_prompts,
    draw_splits,
    drop_duplicates,
    drop_leaks,
    prove_splits,
    require_enough,
)
from llm_engineering.data.tokens import tokenize
from llm_engineering.models.chat import ChatTokenizer

MASK_PROOF = (
    "Every row has trained tokens, every trained turn ends with EOS and carries loss on it, no row has a second BOS, "
    "and every prompt has the tokens that a server would feed the model."
)
SPLIT_PROOF = "No prompt of eval or test stands in a train split at any turn, SFT and preference rows taken together."


@dataclass
class PreparedRows:
    """What formatting hands on."""

    sft: RowSet
    preference: RowSet
    questions: RowSet
    report: DatasetReport


def prepare_rows(raw: RowSet, data: DataConfig, chat: ChatTokenizer, seed: int, folder: Path) -> PreparedRows:
    """Turn raw rows into tokenised training rows, pairs and questions, and account for every row.

    Rows are dropped for a reason from a closed list, splits are drawn by prompt over SFT and preference rows together,
    and nothing is dropped or cut after this function.

    Args:
        raw: From :func:`~llm_engineering.data.loading.load_raw_rows`.
        data: The rules.
        chat: Tokenizer with chat template.
        seed: Seeds the splits.
        folder: Gets the folders ``sft``, ``preference`` and ``questions``.

    Raises:
        DataError: A rule says ``error``, too many rows are dropped, or none is left to train on.
        ProofError: The mask or the splits are not what they have to be.
    """
    tallies: list[Tally] = []
    candidates: list[Candidate] = []
    for index, (kind, source) in enumerate(data.row_sources):
        tally, rows = read_candidates(read_rows(raw, f"{index:03d}"), source, kind, index)
        tallies.append(tally)
        candidates += rows
    drop_duplicates(candidates, data, tallies)
    draw_splits(candidates, data, seed)
    drop_leaks(candidates)
    renderer = ChatRenderer(chat.tokenizer)
    trained = tokenize(candidates, data, renderer, tallies)
    for candidate in candidates:
        tally = tallies[candidate.source]
        if candidate.dropped:
            tally.dropped[candidate.dropped] += 1
        else:
            tally.fates[str(candidate.split)] += 1
    kept = [c for c in candidates if not c.dropped]
    count_repeated_prompts(kept, tallies)
    ledgers = [tally.ledger() for tally in tallies]
    require_enough(tallies, data)
    prove_splits(kept)
    prepared = {
        "sft": write_rows(folder / "sft", trained["sft"], SFT),
        "preference": write_rows(folder / "preference", trained["preference"], PREFERENCE),
    }
    questions = write_rows(folder / "questions", _questions(kept), QUESTIONS)
    report = _report(tallies, ledgers, trained, chat, renderer, prepared, data)
    return PreparedRows(prepared["sft"], prepared["preference"], questions, report)


def _questions(kept: list[Candidate]) -> dict[str, list[Row]]:
    """Return every distinct prompt once, from the SFT rows, or from the pairs where there are no SFT rows."""
    kind = "sft" if any(c.kind == "sft" for c in kept) else "preference"
    questions: dict[str, list[Row]] = {split: [] for split in SPLITS}
    seen = set()
    for candidate in kept:
        if candidate.kind != kind or candidate.prompt_key in seen:
            continue
        seen.add(candidate.prompt_key)
        content = candidate.content
        answer = content.answer if isinstance(content, Conversation) else content.chosen
        questions[str(candidate.split)].append(
            {
                "unit": candidate.extra.get("unit", candidate.prompt_key[:16]),
                "prompt": json.dumps(candidate.prompt, ensure_ascii=False),
                "prompt_ids": candidate.prompt_ids,
                "reference": candidate.extra.get("reference", answer),
            }
        )
    return questions


def _report(
    tallies: list[Tally],
    ledgers: list[SourceLedger],
    trained: Mapping[RowKind, Mapping[str, list[Row]]],
    chat: ChatTokenizer,
    renderer: ChatRenderer,
    prepared: Mapping[str, RowSet],
    data: DataConfig,
) -> DatasetReport:
    tokens, loss_tokens, longest = {}, {}, {}
    examples = []
    for kind, splits in trained.items():
        for split, rows in splits.items():
            if not rows:
                continue
            lengths = [_lengths(row) for row in rows]
            name = f"{kind}/{split}"
            tokens[name] = sum(total for total, _ in lengths)
            loss_tokens[name] = sum(trained for _, trained in lengths)
            longest[name] = max(total for total, _ in lengths)
        examples += [_example(kind, row, renderer) for row in splits["train"][:1]]
    return DatasetReport(
        sources=ledgers,
        template=chat.template,
        eos_token=renderer.eos_token,
        tokens=tokens,
        trained_tokens=loss_tokens,
        longest=longest,
        fingerprints={kind: rows.sha256 for kind, rows in prepared.items()},
        mask_proof=MASK_PROOF,
        split_proof=SPLIT_PROOF,
        examples=examples,
        notes=[*chat.notes, *_notes(tallies, data)],
    )


def _lengths(row: Row) -> tuple[int, int]:
    """Return the tokens of a row and those that carry loss, both answers counted for a pair."""
    if "labels" in row:
        return len(row["input_ids"]), sum(label != IGNORED for label in row["labels"])
    answers = len(row["chosen_ids"]) + len(row["rejected_ids"])
    return 2 * len(row["prompt_ids"]) + answers, answers


def _example(kind: RowKind, row: Row, renderer: ChatRenderer) -> RenderedRow:
    decode = renderer.tokenizer.decode
    if kind == "preference":
        named = (("prompt_ids", False), ("chosen_ids", True), ("rejected_ids", True))
        return RenderedRow(kind=kind, pieces=[(decode(row[name]), loss) for name, loss in named])
    pieces: list[tuple[list[int], bool]] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if not pieces or pieces[-1][1] != (label != IGNORED):
            pieces.append(([], label != IGNORED))
        pieces[-1][0].append(token)
    return RenderedRow(kind=kind, pieces=[(decode(ids), loss) for ids, loss in pieces])


def _notes(tallies: list[Tally], data: DataConfig) -> list[str]:
    """Return what was kept or dropped by which rule, a sentence each."""
    rules = {
        "identical pair": "data.identical_pair: drop",
        "exact duplicate": "data.exact_duplicate: drop",
        "too long": f"data.too_long: {data.too_long}",
    }
    notes = []
    for tally in tallies:
        name = tally.source.name
        for reason, count in sorted(tally.dropped.items()):
            cause = rules.get(reason) or tally.first_problem.get(reason)
            shown = f" ({cause})" if cause else ""
            notes.append(f"{name}: {count} of {tally.rows} rows dropped, {reason}{shown}.")
        if tally.repeated_prompts:
            notes.append(f"{name}: {tally.repeated_prompts} rows repeat a prompt with another answer; kept.")
        if tally.truncated:
            notes.append(
                f"{name}: {tally.truncated} rows lost {tally.tokens_lost} prompt tokens at the start "
                f"(data.too_long: {data.too_long}, data.max_length: {data.max_length})."
            )
    for kind in {tally.kind: None for tally in tallies}:
        if data.evaluation_share and not any(
            tally.fates["eval"] + tally.fates["test"] for tally in tallies if tally.kind == kind
        ):
            notes.append(
                f"No {kind} rows are held out: too few prompts for data.evaluation_share {data.evaluation_share:g}."
            )
    return notes
