"""Formats of preference pairs: one function each, from a row with the format's columns."""

import re
from itertools import combinations
from typing import Any

from llm_engineering.data.formats.columns import (
    Row,
    answer_text,
    number,
    score_ratio,
    shown,
    system_message,
    text,
)
from llm_engineering.data.formats.content import Message, Pair, RowProblem
from llm_engineering.data.formats.conversations import instruction, user
from llm_engineering.data.formats.html_text import html_text
from llm_engineering.data.formats.sharegpt import sharegpt_turn, sharegpt_turns
from llm_engineering.data.formats.tools import tool_list
from llm_engineering.data.formats.turns import check_messages, check_order, clean_messages, split_answer

HH_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def chosen_rejected(row: Row) -> Pair:
    """Read a prompt and two answers, each text or messages."""
    if isinstance(row["prompt"], list) and not row.get("input"):
        prompt = check_messages(row["prompt"], ends_with="user")
    else:
        prompt = [user(instruction(row, "prompt", "input"))]
    system = system_message(row)
    if system:
        prompt = check_order([*system, *prompt])
    return Pair(prompt, _reply(row, "chosen", prompt), _reply(row, "rejected", prompt))


def implicit_prompt(row: Row) -> Pair:
    """Read two conversations or texts whose common beginning is the prompt."""
    if isinstance(row["chosen"], list):
        chosen, rejected = (check_messages(row[column], column=column) for column in ("chosen", "rejected"))
        return _pair_of(chosen, rejected)
    chosen_text, rejected_text = answer_text(row, "chosen"), answer_text(row, "rejected")
    prompt = common_beginning(chosen_text, rejected_text)
    if not prompt:
        raise RowProblem("bad role order", "chosen and rejected have no prompt in common")
    start = len(prompt)
    return Pair([user(prompt.strip())], chosen_text[start:].strip(), rejected_text[start:].strip())


def hh_rlhf(row: Row) -> Pair:
    """Read two transcripts that differ in the last answer (Bai et al. 2022, arXiv:2204.05862)."""
    return _pair_of(_transcript(row, "chosen"), _transcript(row, "rejected"))


def ultrafeedback(row: Row) -> Pair:
    """Read scored completions: the best against the worst (Cui et al. 2023, arXiv:2310.01377)."""
    completions = _answers(row["completions"], "completions")
    scores = [number(completion, "overall_score") for completion in completions]
    if not scores or max(scores) == min(scores):
        raise RowProblem("filtered by rule", "no completion is better than another")
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    return Pair(
        [user(text(row, "instruction"))],
        answer_text(completions[best], "response"),
        answer_text(completions[worst], "response"),
        score_ratio=score_ratio(scores[best], scores[worst]),
    )


def sharegpt_ranking(row: Row) -> Pair:
    """Read ShareGPT turns that end before the answer, and two answers."""
    turns = [*system_message(row), *sharegpt_turns(row["conversations"], "conversations")]
    prompt = check_order(turns, ends_with="user")
    chosen, rejected = (
        split_answer([*prompt, sharegpt_turn(row[column], column)], column)[1] for column in ("chosen", "rejected")
    )
    return Pair(prompt, chosen, rejected, tool_list(row))


def shp(row: Row) -> Pair:
    """Read two comments of which ``labels`` says the better one (Ethayarajh et al. 2022, arXiv:2110.08420)."""
    label = number(row, "labels")
    if label not in (0, 1):
        raise RowProblem("unparsable", f"labels is {shown(row['labels'])}, not 1 (A is better) or 0 (B is better)")
    chosen, rejected = ("human_ref_A", "human_ref_B") if label == 1 else ("human_ref_B", "human_ref_A")
    ratio = None if row.get("score_ratio") is None else number(row, "score_ratio")
    return Pair([user(text(row, "history"))], answer_text(row, chosen), answer_text(row, rejected), score_ratio=ratio)


def stack_exchange(row: Row) -> list[Pair]:
    """Read a question and its scored answers, all in HTML: every two answers with different scores are a pair.

    Askell et al. 2021 (arXiv:2112.00861), section 4.1. The pair with the largest difference comes first. Answers
    without text, such as a lone picture, are left out.
    """
    question = html_text(text(row, "question"), "question")
    answers = [
        (number(answer, "pm_score"), html_text(text(answer, "text"), "an answer"))
        for answer in _answers(row["answers"], "answers")
    ]
    ranked = sorted((each for each in answers if each[1]), key=lambda each: -each[0])
    pairs = [(better, worse) for better, worse in combinations(ranked, 2) if better[0] > worse[0]]
    if not pairs:
        raise RowProblem("filtered by rule", "no answer is better than another")
    pairs.sort(key=lambda pair: pair[1][0] - pair[0][0])
    return [
        Pair([user(question)], better, worse, score_ratio=score_ratio(high, low))
        for (high, better), (low, worse) in pairs
    ]


def is_transcript(row: Row) -> bool:
    """Tell whether both answers of a row are HH transcripts."""
    return all(
        isinstance(row[column], str) and row[column].lstrip().startswith("Human:") and "\n\nAssistant:" in row[column]
        for column in ("chosen", "rejected")
    )


def begins_alike(row: Row) -> bool:
    """Tell whether both answers of a row are messages, or texts with a common beginning and no HH transcripts."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        return True
    texts = isinstance(chosen, str) and isinstance(rejected, str)
    return texts and not is_transcript(row) and bool(common_beginning(chosen.strip(), rejected.strip()))


def has_turns(row: Row) -> bool:
    """Tell whether both answers of a row are ShareGPT turns."""
    return all(isinstance(row[column], dict) and "from" in row[column] for column in ("chosen", "rejected"))


def has_scored_completions(row: Row) -> bool:
    """Tell whether the completions of a row are objects with a response."""
    return _holds(row["completions"], "response")


def has_scored_answers(row: Row) -> bool:
    """Tell whether the answers of a row are objects with a score."""
    return _holds(row["answers"], "pm_score")


def common_beginning(first: str, second: str) -> str:
    """Return what both texts begin with, up to the last place where a word begins in both, or nothing."""
    shorter = min(len(first), len(second))
    end = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), shorter)
    common = first[:end]
    if first[end : end + 1].isspace() and second[end : end + 1].isspace():
        return common
    words = re.search(r"\s\S*\Z", common)
    return common[: words.start() + 1] if words else ""


def _reply(row: Row, column: str, prompt: list[Message]) -> str:
    """Return an answer given as text, or as an assistant message that may follow the prompt's messages."""
    value = row[column]
    if not isinstance(value, list):
        return answer_text(row, column)
    said = clean_messages(value, column)
    if not said or said[-1]["role"] != "assistant":
        raise RowProblem("bad role order", f"{column} does not end with the assistant")
    before = check_order(said[:-1])
    if before and before not in (prompt, prompt[1:]):
        raise RowProblem("bad role order", f"{column} repeats another prompt than the row's")
    return split_answer([*prompt, said[-1]], column)[1]


def _pair_of(chosen: list[Message], rejected: list[Message]) -> Pair:
    prompt, answer = split_answer(chosen, "chosen")
    other_prompt, other = split_answer(rejected, "rejected")
    if prompt != other_prompt:
        raise RowProblem("bad role order", "chosen and rejected differ before the last answer")
    if not prompt:
        raise RowProblem("bad role order", "the pair has no prompt")
    return Pair(prompt, answer, other)


def _transcript(row: Row, column: str) -> list[Message]:
    before, *parts = HH_SPEAKER.split(text(row, column))
    if before or not parts:
        raise RowProblem("bad role order", f"{column} does not begin with Human:")
    return [
        {"role": HH_ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _answers(value: Any, column: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(answer, dict) for answer in value):
        raise RowProblem("not text", f"{column} is no list of objects")
    return value


def _holds(value: Any, key: str) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and key in value[0]
