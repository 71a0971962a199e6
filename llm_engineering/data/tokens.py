"""Candidates as tokens: cut, dropped or refused where they are too long, and proven to carry loss as they should."""

from collections.abc import Mapping
from itertools import takewhile

from llm_engineering.artifacts import RowKind
from llm_engineering.config.schema import DataConfig
from llm_engineering.data.candidates import SPLITS, Candidate, Tally
from llm_engineering.data.formats import Conversation, Pair
from llm_engineering.data.rendering import IGNORED, ChatRenderer
from llm_engineering.data.rowsets import Row
from llm_engineering.errors import ConfigError, DataError, ProofError


def tokenize(
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
        if token := renderer.special_token_in(candidate.texts):
            candidate.dropped = "special token in text"
            problem = f"row {candidate.row}: it holds {token}"
            tallies[candidate.source].first_problem.setdefault(candidate.dropped, problem)
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


def require_length(data: DataConfig, positions: int | None) -> None:
    """Refuse rows that are longer than the model's positions.

    Raises:
        ConfigError: ``data.max_length`` exceeds them.
    """
    if positions is not None and data.max_length > positions:
        raise ConfigError(
            f"data.max_length is {data.max_length}, but the model has {positions} positions. Lower it to {positions}."
        )
