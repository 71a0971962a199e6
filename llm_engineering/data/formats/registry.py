"""The formats there are: one line each, for one function that reads a row."""

from collections.abc import Callable
from dataclasses import dataclass

from llm_engineering.data.formats import conversations, preferences
from llm_engineering.data.formats.columns import Row
from llm_engineering.data.formats.content import Example, Pair
from llm_engineering.data.formats.turns import MEDIA_COLUMNS

EXTRA_COLUMNS = ("reference", "unit", "split")
"""Columns that any row may have: the answer a checker compares with, the independent unit, the split it belongs to."""
SYNONYMS = {
    "messages": ("messages", "conversations", "conversation"),
    "conversations": ("conversations", "conversation"),
    "question": ("question", "instruction", "query"),
    "answer": ("answer", "response"),
    "prompt": ("prompt", "instruction", "question"),
    "system": ("system", "system_prompt"),
    "system_prompt": ("system_prompt", "system"),
}
"""Names that a data set may use for a format's column, besides those that ``columns`` maps."""


@dataclass(frozen=True)
class Format:
    """How rows with certain columns become conversations or pairs."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Example | list[Pair]]
    """Gets a row with the format's column names; raises ``RowProblem`` for one that cannot be used."""
    looks_right: Callable[[Row], bool] | None = None
    """Tells from a row's values whether it may be of the format, where its columns do not tell."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the format knows."""
        return (*self.required, *self.optional, *EXTRA_COLUMNS)


SFT_FORMATS = (
    Format(
        "messages",
        ("messages",),
        ("tools", *MEDIA_COLUMNS),
        conversations.messages,
        conversations.not_from_sharegpt,
    ),
    Format(
        "sharegpt",
        ("conversations",),
        ("system", "tools", *MEDIA_COLUMNS),
        conversations.sharegpt,
        conversations.not_from_openai,
    ),
    Format("alpaca", ("instruction", "output"), ("input", "system", "history"), conversations.alpaca),
    Format("question_answer", ("question", "answer"), ("system_prompt",), conversations.question_answer),
    Format("dolly", ("instruction", "context", "response"), (), conversations.dolly),
    Format("prompt_completion", ("prompt", "completion"), (), conversations.prompt_completion),
)
CHOICE = ("chosen", "rejected")
SHP_COLUMNS = ("history", "human_ref_A", "human_ref_B", "labels")
PREFERENCE_FORMATS = (
    Format("chosen_rejected", ("prompt", *CHOICE), ("input", "system"), preferences.chosen_rejected),
    Format("implicit_prompt", CHOICE, (), preferences.implicit_prompt, preferences.begins_alike),
    Format("hh_rlhf", CHOICE, (), preferences.hh_rlhf, preferences.is_transcript),
    Format(
        "ultrafeedback",
        ("instruction", "completions"),
        (),
        preferences.ultrafeedback,
        preferences.has_scored_completions,
    ),
    Format(
        "sharegpt_ranking",
        ("conversations", *CHOICE),
        ("system", "tools"),
        preferences.sharegpt_ranking,
        preferences.has_turns,
    ),
    Format("shp", SHP_COLUMNS, ("score_ratio",), preferences.shp),
    Format("stack_exchange", ("question", "answers"), (), preferences.stack_exchange, preferences.has_scored_answers),
)
FORMATS = {"sft": SFT_FORMATS, "preference": PREFERENCE_FORMATS}
