"""The row ledger: every row is read into a format, held against the rules, split, tokenised, and accounted for."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from llm_engineering.artifacts import DatasetReport, DropReason, RenderedRow, RowKind, RowSet, SourceLedger, Split
from llm_engineering.config.schema import DataConfig, RowSource
from llm_engineering.data.formats import Conversation, Message, Pair, Reading, RowProblem, choose_format
from llm_engineering.data.rendering import IGNORED, ChatRenderer
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, Row, read_rows, write_rows
from llm_engineering.errors import ConfigError, DataError, ProofError
from llm_engineering.models.chat import ChatTokenizer

SPLITS: tuple[Split, ...] = ("train", "eval", "test")
MASK_PROOF = (
    "Every row has trained tokens, every trained turn ends with EOS and carries loss on it, no row has a second BOS, "
    "and every prompt has the tokens that a server would feed the model."
)
SPLIT_PROOF = "No prompt of eval or test stands in a train split at any turn, SFT and preference rows taken together."


@dataclass
class Candidate:
    """A row that can be used, until the rules decide."""

    kind: RowKind
    source: int
    row: int
    content: Conversation | Pair
    extra: Mapping[str, Any]
    prompt_key: str
    opening_key: str
    """Key of the first question: conversations that share a prompt at any turn share it, so splits are drawn by it."""
    split: Split | None
    dropped: DropReason | None = None
    prompt_ids: list[int] = field(default_factory=list)
    """The prompt as it is trained, cut where it was too long."""

    @property
    def prompt(self) -> list[Message]:
        """The messages before the last answer."""
        return self.content.messages[:-1] if isinstance(self.content, Conversation) else self.content.prompt


@dataclass
class PreparedRows:
    """What formatting hands on."""

    sft: RowSet
    preference: RowSet
    questions: RowSet
    report: DatasetReport


@dataclass
class Tally:
    """Counts of one source while its rows are handled."""

    source: RowSource
    kind: RowKind
    format: str
    rows: int
    fates: Counter[str] = field(default_factory=Counter)
    dropped: Counter[DropReason] = field(default_factory=Counter)
    first_problem: dict[DropReason, str] = field(default_factory=dict)
    """What was wrong with the first row that could not be read, for each reason."""
    truncated: int = 0
    tokens_lost: int = 0
    trained_tokens_lost: int = 0
    repeated_prompts: int = 0

    def why(self, reason: DropReason) -> str:
        """Return how many rows were dropped for a reason, and what was wrong with the first."""
        first = f" (first {self.first_problem[reason]})" if reason in self.first_problem else ""
        return f"{self.dropped[reason]} {reason}{first}"

    def ledger(self) -> SourceLedger:
        """Return the ledger of the source."""
        return SourceLedger(
            kind=self.kind,
            source=self.source.name,
            format=self.format,
            rows=self.rows,
            train=self.fates["train"],
            eval=self.fates["eval"],
            test=self.fates["test"],
            dropped=dict(self.dropped),
            truncated=self.truncated,
            tokens_lost=self.tokens_lost,
            trained_tokens_lost=self.trained_tokens_lost,
            repeated_prompts=self.repeated_prompts,
        )


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
        tally, rows = _read_candidates(read_rows(raw, f"{index:03d}"), source, kind, index)
        tallies.append(tally)
        candidates += rows
    _drop_duplicates(candidates, data, tallies)
    _draw_splits(candidates, data, seed)
    _drop_leaks(candidates)
    renderer = ChatRenderer(chat.tokenizer)
    trained = _tokenize(candidates, data, renderer, tallies)
    for candidate in candidates:
        tally = tallies[candidate.source]
        if candidate.dropped:
            tally.dropped[candidate.dropped] += 1
        else:
            tally.fates[str(candidate.split)] += 1
    kept = [c for c in candidates if not c.dropped]
    _count_repeated_prompts(kept, tallies)
    ledgers = [tally.ledger() for tally in tallies]
    _require_enough(tallies, data)
    _prove_splits(kept)
    prepared = {
        "sft": write_rows(folder / "sft", trained["sft"], SFT),
        "preference": write_rows(folder / "preference", trained["preference"], PREFERENCE),
    }
    questions = write_rows(folder / "questions", _questions(kept), QUESTIONS)
    report = _report(tallies, ledgers, trained, chat, renderer, prepared, data)
    return PreparedRows(prepared["sft"], prepared["preference"], questions, report)


def _read_candidates(
    rows: Iterable[Row], source: RowSource, kind: RowKind, index: int
) -> tuple[Tally, list[Candidate]]:
    parsed = [
        (row["row"], json.loads(row["data"]) if row["data"] is not None else None, row["problem"]) for row in rows
    ]
    objects = [data for _, data, _ in parsed if isinstance(data, dict)]
    if not objects:
        raise DataError(f"{source.name} has no row that is a JSON object. Check that the file is what you meant.")
    reading = choose_format(source, kind, {column for data in objects for column in data})
    tally = Tally(source, kind, reading.format.name, len(parsed))
    candidates = []
    for number, data, unreadable in parsed:
        try:
            if not isinstance(data, dict):
                raise RowProblem("unparsable", unreadable or "it is no JSON object")
            candidates.append(_read_candidate(data, number, reading, source, kind, index))
        except RowProblem as problem:
            tally.dropped[problem.reason] += 1
            tally.first_problem.setdefault(problem.reason, f"row {number}: {problem}")
    return tally, candidates


def _read_candidate(
    data: Mapping[str, Any], number: int, reading: Reading, source: RowSource, kind: RowKind, index: int
) -> Candidate:
    row = reading.rename(data)
    content = reading.format.read(row)
    prompt = content.messages[:-1] if isinstance(content, Conversation) else content.prompt
    opening = list(takewhile(lambda message: message["role"] != "assistant", prompt))
    split = source.split or row.get("split") or None
    if split is not None and split not in SPLITS:
        raise DataError(f"{source.name}, row {number}: split is {split!r}. Use one of {', '.join(SPLITS)}.")
    extra = {column: _as_text(row, column) for column in ("reference", "unit") if row.get(column) is not None}
    return Candidate(kind, index, number, content, extra, prompt_key(prompt), prompt_key(opening), split)


def _as_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column as text, also where it is a number or a structure, such as the right answer to a sum."""
    value = row[column]
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return what makes two prompts the same: roles and words, whatever their case and spacing."""
    words = [f"{message['role']}:{' '.join(message['content'].casefold().split())}" for message in prompt]
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def _last_answer(conversation: Conversation) -> str:
    return conversation.messages[-1]["content"]


def _drop_duplicates(candidates: list[Candidate], data: DataConfig, tallies: list[Tally]) -> None:
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
            identity = (key, _last_answer(content))
        if identity in seen and data.exact_duplicate == "drop":
            candidate.dropped = "exact duplicate"
            continue
        seen.add(identity)


def _count_repeated_prompts(kept: list[Candidate], tallies: list[Tally]) -> None:
    answers: dict[tuple[RowKind, str], set[tuple[str, ...]]] = {}
    for candidate in kept:
        content = candidate.content
        answer = (content.chosen, content.rejected) if isinstance(content, Pair) else (_last_answer(content),)
        earlier = answers.setdefault((candidate.kind, candidate.prompt_key), set())
        tallies[candidate.source].repeated_prompts += bool(earlier - {answer})
        earlier.add(answer)


def _draw_splits(candidates: list[Candidate], data: DataConfig, seed: int) -> None:
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


def _drop_leaks(candidates: list[Candidate]) -> None:
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


def _prove_splits(kept: list[Candidate]) -> None:
    train = {key for c in kept if c.split == "train" for key in _prompt_keys(c)}
    held = {key for c in kept if c.split != "train" for key in _prompt_keys(c)}
    if train & held:
        raise ProofError(f"{len(train & held)} held-out prompts stand in a train split; nothing was trained.")


def _prompt_keys(candidate: Candidate) -> Iterable[str]:
    """Return the keys of all prompts of a row, one for each answer that it shows."""
    prompt = candidate.prompt
    yield candidate.prompt_key
    yield from (prompt_key(prompt[:turn]) for turn, message in enumerate(prompt) if message["role"] == "assistant")


def _tokenize(
    candidates: list[Candidate], data: DataConfig, renderer: ChatRenderer, tallies: list[Tally]
) -> dict[RowKind, dict[str, list[Row]]]:
    """Return the rows of every kind and split as tokens; rows that are too long are cut, dropped or refused."""
    rows: dict[RowKind, dict[str, list[Row]]] = {
        "sft": {split: [] for split in SPLITS},
        "preference": {split: [] for split in SPLITS},
    }
    for candidate in candidates:
        if candidate.dropped:
            continue
        if isinstance(candidate.content, Conversation):
            row = _sft_row(candidate.content, data, renderer, tallies[candidate.source], candidate.row)
        else:
            row = _preference_row(candidate.content, data, renderer, tallies[candidate.source], candidate.row)
        if row is None:
            candidate.dropped = "too long"
            continue
        _prove_mask(row, renderer, f"{tallies[candidate.source].source.name}, row {candidate.row}")
        candidate.prompt_ids = _prompt_as_trained(row)
        rows[candidate.kind][str(candidate.split)].append(
            {"source": candidate.source, "row": candidate.row, **row},
        )
    return rows


def _prompt_as_trained(row: Mapping[str, list[int]]) -> list[int]:
    if "prompt_ids" in row:
        return row["prompt_ids"]
    answer = sum(1 for _ in takewhile(lambda label: label != IGNORED, reversed(row["labels"])))
    return row["input_ids"][: len(row["input_ids"]) - answer]


def _overflow(prompt: int, answer: int, data: DataConfig, tally: Tally, number: int) -> int | None:
    """Return how many tokens the prompt has to lose, or None for a row that is dropped."""
    if prompt + answer <= data.max_length:
        return 0
    if data.too_long == "error":
        raise DataError(
            f"{tally.source.name}, row {number} has {prompt + answer} tokens; data.max_length is {data.max_length}. "
            "Raise it, or set data.too_long to truncate_prompt or drop."
        )
    if data.too_long == "drop" or answer >= data.max_length:
        return None
    return prompt + answer - data.max_length


def _sft_row(
    content: Conversation, data: DataConfig, renderer: ChatRenderer, tally: Tally, number: int
) -> dict[str, list[int]] | None:
    rendered = renderer.conversation(content.messages)
    total = len(rendered.input_ids)
    cut = _overflow(rendered.last_answer, total - rendered.last_answer, data, tally, number)
    if cut is None:
        return None
    if cut:
        tally.truncated += 1
        tally.tokens_lost += cut
        tally.trained_tokens_lost += sum(label != IGNORED for label in rendered.labels[:cut])
    return {"input_ids": rendered.input_ids[cut:], "labels": rendered.labels[cut:]}


def _preference_row(
    content: Pair, data: DataConfig, renderer: ChatRenderer, tally: Tally, number: int
) -> dict[str, list[int]] | None:
    row = pair_tokens(content, renderer)
    answer = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
    cut = _overflow(len(row["prompt_ids"]), answer, data, tally, number)
    if cut is None:
        return None
    if cut:
        tally.truncated += 1
        tally.tokens_lost += cut
    return {**row, "prompt_ids": row["prompt_ids"][cut:]}


def pair_tokens(pair: Pair, renderer: ChatRenderer) -> dict[str, list[int]]:
    """Return a preference pair as tokens, both answers ending with EOS."""
    return {
        "prompt_ids": renderer.prompt_ids(pair.prompt),
        "chosen_ids": renderer.answer_ids(pair.prompt, pair.chosen),
        "rejected_ids": renderer.answer_ids(pair.prompt, pair.rejected),
    }


def _prove_mask(row: Mapping[str, list[int]], renderer: ChatRenderer, where: str) -> None:
    """Check one row: trained tokens, an EOS with loss at its end, no second BOS."""
    eos, bos = renderer.eos_token_id, renderer.tokenizer.bos_token_id
    if "labels" in row:
        sequences, good = [row["input_ids"]], row["labels"][-1] == eos == row["input_ids"][-1]
    else:
        sequences = [row["prompt_ids"] + row[answer] for answer in ("chosen_ids", "rejected_ids")]
        good = row["chosen_ids"][-1] == row["rejected_ids"][-1] == eos
    if not good:
        raise ProofError(f"{where} does not end with a trained EOS. Check model.special_tokens.eos and the template.")
    if bos is not None and bos != eos and any(ids.count(bos) > 1 for ids in sequences):
        raise DataError(
            f"{where} has more than one BOS token {renderer.tokenizer.bos_token!r}. Take it out of the row, or "
            "once out of the chat template."
        )


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
        answer = _last_answer(content) if isinstance(content, Conversation) else content.chosen
        questions[str(candidate.split)].append(
            {
                "unit": candidate.extra.get("unit", candidate.prompt_key[:16]),
                "prompt": json.dumps(candidate.prompt, ensure_ascii=False),
                "prompt_ids": candidate.prompt_ids,
                "reference": candidate.extra.get("reference", answer),
            }
        )
    return questions


def _require_enough(tallies: list[Tally], data: DataConfig) -> None:
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
    return notes


def require_length(data: DataConfig, positions: int | None) -> None:
    """Refuse rows that are longer than the model's positions.

    Raises:
        ConfigError: ``data.max_length`` exceeds them.
    """
    if positions is not None and data.max_length > positions:
        raise ConfigError(
            f"data.max_length is {data.max_length}, but the model has {positions} positions. Lower it to {positions}."
        )
