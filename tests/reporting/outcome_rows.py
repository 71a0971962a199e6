"""Rows of pairs and answers, for the tests of the page that shows them."""

from llm_engineering.evaluation.changes import AnswerChange, Change, PairChange
from llm_engineering.reporting.outcomes_page import OUTCOMES


def pair(outcome: str = "learned", **given: object) -> PairChange:
    row = {
        "model": "dpo",
        "parent": "sft",
        "outcome": outcome,
        "unit": "u",
        "source": 0,
        "row": 1,
        "prompt": "Colour?",
        "chosen": "Black.",
        "rejected": "It is blue.",
        "parent_chosen_logp": -1.5,
        "parent_rejected_logp": -1.0,
        "model_chosen_logp": -0.5,
        "model_rejected_logp": -1.0,
        "reward_margin": 0.25,
    }
    return PairChange.model_validate(row | given)


def answer(outcome: str = "regressed", **given: object) -> AnswerChange:
    row = {
        "model": "dpo",
        "parent": "sft",
        "outcome": outcome,
        "unit": "u",
        "prompt": "Home?",
        "reference": "river",
        "parent_answer": "By the river.",
        "model_answer": "On the moon.",
    }
    return AnswerChange.model_validate(row | given)


def build_changes() -> list[Change]:
    """Return one row of every outcome for DPO, and of every outcome of a pair for SFT."""
    answers, pairs = OUTCOMES[:2], OUTCOMES[2:]
    return [
        *(pair(name) for name in pairs),
        *(answer(name) for name in answers),
        *(pair(name, model="sft", parent="base") for name in pairs),
    ]
