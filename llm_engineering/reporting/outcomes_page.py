"""What became of held-out pairs and questions, as one static page whose table one can filter without a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

from llm_engineering.evaluation.changes import (
    CHANGES_FILE,
    CLEARLY,
    AnswerChange,
    AnswerOutcome,
    Change,
    PairChange,
    PairOutcome,
    count_outcomes,
)
from llm_engineering.reporting.page import render_page

ROWS = 300
"""Rows that the page shows of each model; the file has all."""
OUTCOMES: tuple[str, ...] = (*get_args(AnswerOutcome), *get_args(PairOutcome))
MEANING: dict[str, str] = {
    "regressed": "The parent answered right, the model wrong.",
    "corrected": "The parent answered wrong, the model right.",
    "learned": "The parent ranked the rejected answer first, the model the chosen one.",
    "unlearned": "The parent ranked the chosen answer first, the model the rejected one.",
    "already right": "Both rank the chosen answer first.",
    "never learned": "Both rank the rejected answer first, or as high.",
    "suspected flipped label": (
        f"All, the base too, prefer the rejected answer by more than {CLEARLY:g} nats a token: look at the label."
    ),
    "not a number": "A log-probability is none.",
}


@dataclass(frozen=True)
class _Table:
    """The rows of one model, ready for the template."""

    model: str
    parent: str
    rows: list[Change]
    left_out: int


def render_outcomes(changes: Sequence[Change]) -> str:
    """Return the page; what deserves a look first stands first."""
    counts = count_outcomes(changes)
    return render_page(
        "outcomes.html.j2",
        title="Outcomes",
        outcomes=[(i, name, MEANING[name]) for i, name in enumerate(OUTCOMES)],
        numbers={name: i for i, name in enumerate(OUTCOMES)},
        counts=[(model, [counts[model].get(name, 0) for name in OUTCOMES]) for model in counts],
        tables=[_table(model, list(rows)) for model, rows in groupby(_sorted(changes), key=lambda c: c.model)],
        rows=ROWS,
        file=CHANGES_FILE,
        logps=_logps,
        answers=_answers,
    )


def _sorted(changes: Sequence[Change]) -> list[Change]:
    models = list(dict.fromkeys(change.model for change in changes))
    first = ["regressed", "unlearned", "suspected flipped label", "not a number", "never learned", "corrected"]
    order = {name: i for i, name in enumerate([*first, "learned", "already right"])}
    return sorted(changes, key=lambda change: (models.index(change.model), order[change.outcome]))


def _table(model: str, rows: list[Change]) -> _Table:
    return _Table(model, rows[0].parent, rows[:ROWS], max(len(rows) - ROWS, 0))


def _answers(change: Change) -> list[tuple[str, str]]:
    """Return the two texts of a row, each with what it is."""
    if isinstance(change, AnswerChange):
        return [(f"{change.parent} said", change.parent_answer), (f"{change.model} said", change.model_answer)]
    return [("chosen", change.chosen), ("rejected", change.rejected)]


def _logps(change: Change) -> list[str]:
    """Return by how much a pair's chosen answer is preferred, in nats a token, under the parent and under the model."""
    if not isinstance(change, PairChange):
        return ["", "", ""]
    sides = [
        (change.parent_chosen_logp, change.parent_rejected_logp),
        (change.model_chosen_logp, change.model_rejected_logp),
    ]
    gaps = ["-" if c is None or r is None else f"{c - r:+.3f}" for c, r in sides]
    return [*gaps, "-" if change.reward_margin is None else f"{change.reward_margin:+.3f}"]
