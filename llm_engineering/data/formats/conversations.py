"""Formats of conversations: one function each, from a row with the format's columns."""

from typing import Any

from llm_engineering.data.formats.columns import Row, answer_text, optional_text, system_message, text
from llm_engineering.data.formats.content import Conversation, Message, RowProblem
from llm_engineering.data.formats.sharegpt import sharegpt_turns
from llm_engineering.data.formats.tools import tool_list
from llm_engineering.data.formats.turns import check_messages, check_order, refuse_media


def messages(row: Row) -> Conversation:
    """Read OpenAI messages, with tool calls and what they gave."""
    refuse_media(row)
    return Conversation(check_messages(row["messages"], ends_with="assistant"), tool_list(row))


def sharegpt(row: Row) -> Conversation:
    """Read ShareGPT turns."""
    refuse_media(row)
    turns = [*system_message(row), *sharegpt_turns(row["conversations"], "conversations")]
    return Conversation(check_order(turns, ends_with="assistant"), tool_list(row))


def alpaca(row: Row) -> Conversation:
    """Read an instruction, its input, its output, and the turns before it."""
    prompt = [*system_message(row), *_history(row.get("history")), user(instruction(row, "instruction", "input"))]
    return Conversation([*prompt, assistant(answer_text(row, "output"))])


def question_answer(row: Row) -> Conversation:
    """Read a question and its answer, as in OpenOrca."""
    prompt = [*system_message(row, "system_prompt"), user(text(row, "question"))]
    return Conversation([*prompt, assistant(answer_text(row, "answer"))])


def dolly(row: Row) -> Conversation:
    """Read an instruction, the context it is about, and the response."""
    return Conversation([user(instruction(row, "instruction", "context")), assistant(answer_text(row, "response"))])


def prompt_completion(row: Row) -> Conversation:
    """Read a prompt and its completion, both text or both messages."""
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        return Conversation(check_messages(row["prompt"] + row["completion"], ends_with="assistant"))
    return Conversation([user(text(row, "prompt")), assistant(answer_text(row, "completion"))])


def not_from_sharegpt(row: Row) -> bool:
    """Tell whether the messages of a row may be objects with ``role``: they do not begin as ShareGPT turns."""
    return not _begins_with(row["messages"], "from")


def not_from_openai(row: Row) -> bool:
    """Tell whether the turns of a row may be ShareGPT's: they do not begin as objects with ``role``."""
    return not _begins_with(row["conversations"], "role")


def user(content: str) -> Message:
    """Return what a user says."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """Return what an assistant says."""
    return {"role": "assistant", "content": content}


def instruction(row: Row, column: str, input_column: str) -> str:
    """Return an instruction and, after an empty line, what it is about."""
    task, about = text(row, column), optional_text(row, input_column)
    return f"{task}\n\n{about}" if task and about else task or about


def _history(value: Any) -> list[Message]:
    """Return the messages of earlier turns, a list of a question and an answer each."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowProblem("not text", f"history is {type(value).__name__}, not a list of questions and answers")
    turns = []
    for earlier in value:
        if not isinstance(earlier, list) or len(earlier) != 2:
            raise RowProblem("bad role order", "history holds something else than a question and an answer")
        said = {"a question of history": earlier[0], "an answer of history": earlier[1]}
        turns += [user(text(said, "a question of history")), assistant(answer_text(said, "an answer of history"))]
    return turns


def _begins_with(turns: Any, key: str) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and key in turns[0]
