"""What became of every held-out pair and question between a model and its parent, one row each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from llm_engineering.reports.folders import Artifact, Folder, hash_files
from llm_engineering.scoring.answers import JudgedAnswers
from llm_engineering.scoring.pairs import Logps

PairOutcome = Literal[
    "learned", "unlearned", "already right", "never learned", "suspected flipped label", "not a number"
]
AnswerOutcome = Literal["regressed", "corrected"]
CLEARLY = 0.2
"""Nats a token by which every model has to prefer the rejected answer before the label is suspected."""
CHANGES_FILE = "outcomes.jsonl"


class PairChange(Artifact):
    """One preference pair under a model and under the model that it was trained from.

    A model ranks a pair right if the chosen answer has the higher log-probability per token; a tie is wrong.
    """

    kind: Literal["pair"] = "pair"
    model: str
    parent: str
    outcome: PairOutcome
    unit: str
    """Pairs of one unit are dependent."""
    source: int
    """Which source of ``data`` the pair comes from, counted from 0; -1: it was sampled from the SFT model."""
    row: int
    """Its number there, from 1."""
    prompt: str
    chosen: str
    rejected: str
    parent_chosen_logp: float | None
    parent_rejected_logp: float | None
    model_chosen_logp: float | None
    model_rejected_logp: float | None
    """Log-probabilities in nats a token; None: not a number."""
    reward_margin: float | None
    """By how much more the model rewards the chosen answer (beta times the difference of the log-ratios)."""


class AnswerChange(Artifact):
    """One question that a model answers right and its parent wrong, or the other way round, greedily."""

    kind: Literal["answer"] = "answer"
    model: str
    parent: str
    outcome: AnswerOutcome
    unit: str
    prompt: str
    reference: str
    parent_answer: str
    model_answer: str


Change = PairChange | AnswerChange


@dataclass(frozen=True)
class PairText:
    """A held-out pair as people read it, and as it is counted."""

    unit: str
    source: int
    row: int
    prompt: str
    chosen: str
    rejected: str
    lengths: tuple[int, int]
    """Tokens of the chosen and the rejected answer."""


def pair_outcome(parent: float, model: float, base: float | None = None) -> PairOutcome:
    """Return what a pair's rankings say.

    A label is suspected to be flipped where the model, its parent and, where there is one, the base all prefer the
    rejected answer clearly: by more than ``CLEARLY`` nats a token.

    Args:
        parent: The chosen answer's log-probability per token less the rejected one's, under the parent.
        model: The same under the model.
        base: The same under the base, where it is another model than these two.
    """
    margins = [parent, model] if base is None else [parent, model, base]
    if not all(isfinite(margin) for margin in margins):
        return "not a number"
    if all(margin < -CLEARLY for margin in margins):
        return "suspected flipped label"
    if parent > 0:
        return "already right" if model > 0 else "unlearned"
    return "learned" if model > 0 else "never learned"


def pair_changes(
    names: tuple[str, str], pairs: Sequence[PairText], logps: tuple[Logps, Logps, Logps | None], beta: float
) -> list[PairChange]:
    """Return what became of every pair.

    Args:
        names: The model's and its parent's.
        pairs: What they were scored on.
        logps: Summed log-probabilities under the model, its parent and, where it is a third one, the base.
        beta: Scales the reward margin.
    """
    model, parent, base = logps
    changes = []
    for i, pair in enumerate(pairs):
        own, before, first = (
            None if each is None else _per_token(each[i], pair.lengths) for each in (model, parent, base)
        )
        assert own is not None
        assert before is not None
        reward = beta * ((model[i][0] - parent[i][0]) - (model[i][1] - parent[i][1]))
        changes.append(
            PairChange(
                model=names[0],
                parent=names[1],
                outcome=pair_outcome(before[0] - before[1], own[0] - own[1], first and first[0] - first[1]),
                unit=pair.unit,
                source=pair.source,
                row=pair.row,
                prompt=pair.prompt,
                chosen=pair.chosen,
                rejected=pair.rejected,
                parent_chosen_logp=_number(before[0]),
                parent_rejected_logp=_number(before[1]),
                model_chosen_logp=_number(own[0]),
                model_rejected_logp=_number(own[1]),
                reward_margin=_number(reward),
            )
        )
    return changes


def answer_changes(names: tuple[str, str], model: JudgedAnswers, parent: JudgedAnswers) -> Iterator[AnswerChange]:
    """Yield the questions that one of the two answers right and the other wrong; none where nobody judges.

    Args:
        names: The model's and its parent's.
        model: Its greedy answers.
        parent: The parent's, to the same questions.
    """
    judged = zip(model.judgements or [], parent.judgements or [], strict=True)
    for i, (own, before) in enumerate(judged):
        if own.correct == before.correct:
            continue
        question = model.questions[i]
        yield AnswerChange(
            model=names[0],
            parent=names[1],
            outcome="corrected" if own.correct else "regressed",
            unit=question.unit,
            prompt=question.shown,
            reference=question.reference,
            parent_answer=parent.answers[i].text,
            model_answer=model.answers[i].text,
        )


def count_outcomes(changes: Sequence[Change]) -> dict[str, dict[str, int]]:
    """Return how many pairs and answers of every model had which outcome."""
    models = dict.fromkeys(change.model for change in changes)
    return {model: dict(Counter(str(c.outcome) for c in changes if c.model == model)) for model in models}


def write_changes(changes: Sequence[Change], folder: Path) -> Folder:
    """Write one JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (change.model_dump_json() + "\n" for change in changes)
    (folder / CHANGES_FILE).write_text("".join(lines), encoding="utf-8")
    return Folder(path=folder, sha256=hash_files(folder))


def read_changes(folder: Folder) -> list[Change]:
    """Return what :func:`write_changes` has written."""
    from pydantic import TypeAdapter

    kinds: TypeAdapter[Change] = TypeAdapter(Change)
    text = (folder.path / CHANGES_FILE).read_text(encoding="utf-8")
    return [kinds.validate_json(line) for line in text.split("\n") if line]


def _per_token(logps: tuple[float, float], lengths: tuple[int, int]) -> tuple[float, float]:
    return logps[0] / lengths[0], logps[1] / lengths[1]


def _number(value: float) -> float | None:
    return round(value, 6) if isfinite(value) else None
