"""The rows and questions that models are measured on, and what of them is independent."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.data.rowsets import IGNORED, read_rows
from llm_engineering.evaluation.changes import PairText
from llm_engineering.reports.folders import RowSet
from llm_engineering.scoring.answers import Question, read_questions
from llm_engineering.scoring.likelihood import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
SHOWN_CHARACTERS = 600
"""Characters of a prompt or an answer that are kept where pairs are listed."""
Prompt = tuple[int, ...]


@dataclass(frozen=True)
class HeldOut:
    """The rows and questions that models are measured on."""

    split: str
    conversations: list[Row]
    pairs: list[dict[str, list[int]]]
    questions: list[Question]
    fingerprint: str
    conversation_units: list[str] = field(default_factory=list)
    """What each conversation belongs to; those of one unit are dependent."""
    pair_units: list[str] = field(default_factory=list)
    """What each pair belongs to, likewise."""
    pair_places: list[tuple[int, int]] = field(default_factory=list)
    """Each pair's source and its row there."""
    prompts: Mapping[Prompt, str] = field(default_factory=dict)
    """What people read of the split's prompts, by their tokens."""
    notes: list[str] = field(default_factory=list)
    """Sentences about rows that are held out and not measured."""

    @property
    def pair_lengths(self) -> list[tuple[int, int]]:
        """Tokens of every pair's chosen and rejected answer."""
        return [(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in self.pairs]


def read_held_out(
    sft: RowSet,
    preference: RowSet,
    questions: RowSet,
    config: EvaluationConfig,
    seed: int,
    first: Literal["test", "eval"] = "test",
    checker_sha256: str = "",
) -> HeldOut:
    """Return the split that comes first, or the other one where the first has no rows.

    A conversation or a pair belongs to the unit of the question with the same prompt; where no question has it, the
    prompt is a unit of its own. A conversation's prompt is what stands before its first answer with loss.

    Rows that are trained on are no part of the fingerprint: runs that train on other rows compare. Nor is which models
    are measured. The hash of a user's checker is: an edited one judges otherwise.
    """
    held = any(rows.rows.get(first) for rows in (sft, preference, questions))
    split = first if held else ("eval" if first == "test" else "test")
    conversations = [(row["input_ids"], row["labels"]) for row in read_rows(sft, split)]
    rows = list(read_rows(preference, split))
    pairs = [{side: row[side] for side in PAIR_IDS} for row in rows]
    known = {tuple(question.prompt_ids): question for question in read_questions(questions, split)}
    asked = read_questions(questions, split, config.max_questions, seed)
    parts: list[object] = [conversations, pairs, [asdict(question) for question in asked]]
    parts += [checker_sha256] if checker_sha256 else []
    how = config.model_dump(mode="json", exclude={"models", "parents"})
    units = {prompt: question.unit for prompt, question in known.items()}
    return HeldOut(
        split=split,
        conversations=conversations,
        pairs=pairs,
        questions=asked,
        fingerprint=hashlib.sha256(json.dumps([split, seed, how, parts], sort_keys=True).encode()).hexdigest(),
        conversation_units=[_unit(_first_prompt(*row), units) for row in conversations],
        pair_units=[_unit(tuple(pair["prompt_ids"]), units) for pair in pairs],
        pair_places=[(row["source"], row["row"]) for row in rows],
        prompts={prompt: question.shown for prompt, question in known.items()},
        notes=[
            f"The {kind} of the eval split are not measured: there is a test split, and it has none."
            for kind, own in (("conversations", sft), ("pairs", preference))
            if split == first == "test" and own.rows.get("eval") and not own.rows.get("test")
        ],
    )


def pair_texts(held_out: HeldOut, tokenizer: "PreTrainedTokenizerBase") -> list[PairText]:
    """Return the pairs as people read them, long ones shortened in the middle."""
    texts = []
    for i, pair in enumerate(held_out.pairs):
        prompt = held_out.prompts.get(tuple(pair["prompt_ids"])) or _read(tokenizer, pair["prompt_ids"])
        chosen, rejected = (_read(tokenizer, pair[side]) for side in ("chosen_ids", "rejected_ids"))
        source, row = held_out.pair_places[i]
        shown = (_shortened(prompt), _shortened(chosen), _shortened(rejected))
        lengths = (len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        texts.append(PairText(held_out.pair_units[i], source, row, *shown, lengths))
    return texts


def _unit(prompt: Prompt, units: Mapping[Prompt, str]) -> str:
    return units.get(prompt) or hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]


def _first_prompt(input_ids: Sequence[int], labels: Sequence[int]) -> Prompt:
    """Return what stands before the first token with loss."""
    end = next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))
    return tuple(input_ids[:end])


def _read(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _shortened(text: str) -> str:
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} ... {text[-half:]}"
