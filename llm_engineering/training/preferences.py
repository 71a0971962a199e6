"""Preference pairs from the run's own SFT model: sample answers, let a checker order them, pair them."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.config.data import SampleSettings
from llm_engineering.config.model import ModelConfig
from llm_engineering.data.rowsets import PREFERENCE, SAMPLED_SOURCE, Row, read_rows, write_rows
from llm_engineering.errors import DataError
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model, require_finite
from llm_engineering.models.generation import Answer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.data import PreferenceReport
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.scoring.answers import Question, ask, read_questions
from llm_engineering.scoring.checkers import load_checker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Sample:
    """One sampled answer and its judgement."""

    answer: Answer
    judgement: Judgement


@dataclass(frozen=True)
class SampledPair:
    """Two answers to one question, the first one preferred."""

    number: int
    question: Question
    chosen: Sample
    rejected: Sample

    def row(self) -> Row:
        """Return the pair as it is trained: the very tokens that were sampled."""
        return {
            "source": SAMPLED_SOURCE,
            "row": self.number,
            "prompt_ids": self.question.prompt_ids,
            "chosen_ids": self.chosen.answer.token_ids,
            "rejected_ids": self.rejected.answer.token_ids,
        }

    @property
    def tokens(self) -> int:
        """Tokens of the longer side, prompt included."""
        answers = (self.chosen.answer.token_ids, self.rejected.answer.token_ids)
        return len(self.question.prompt_ids) + max(map(len, answers))


def pair_samples(samples: Sequence[Sample], pairing: str) -> list[tuple[Sample, Sample]]:
    """Return (chosen, rejected) pairs of one prompt's finished samples; a tie gives none.

    Args:
        samples: In the order in which they were drawn.
        pairing: ``best_worst`` gives one pair from the extremes, ``disjoint`` one from every two samples.
    """
    if len(samples) < 2:
        return []
    by_score = sorted(samples, key=lambda sample: sample.judgement.score)
    couples = [(by_score[0], by_score[-1])]
    if pairing == "disjoint":
        couples = list(zip(samples[::2], samples[1::2], strict=False))
    ordered = [sorted(couple, key=lambda sample: sample.judgement.score) for couple in couples]
    return [(best, worst) for worst, best in ordered if best.judgement.score > worst.judgement.score]


def build_preferences(
    settings: SampleSettings,
    sft: Checkpoint,
    questions: RowSet,
    given: RowSet,
    model: ModelConfig,
    *,
    max_length: int,
    seed: int,
    folder: Path,
) -> tuple[RowSet, PreferenceReport]:
    """Sample pairs for the prompts of every split and add them to the given ones.

    Args:
        settings: How answers are sampled, judged and paired.
        sft: The merged SFT model.
        questions: Prompts and references of all splits; a pair goes to the split of its prompt.
        given: Pairs from files, already prepared.
        model: For tokenizer and precision.
        max_length: Longest row in tokens; a sampled pair that is longer is left out.
        seed: Seeds sampling and the order of the pairs.
        folder: Where the rows are written.

    Raises:
        DataError: The samples gave no pair to train on.
        ModelError: The model's weights are no numbers.
    """
    started = time.perf_counter()
    policy = load_model(sft.path, pick_dtype(model.dtype))
    require_finite(policy, sft.path)
    tokenizer = load_chat_tokenizer(sft, model).tokenizer
    asked = {split: read_questions(questions, split, settings.max_prompts, seed) for split in SPLITS}
    drawn = {split: _draw(policy, tokenizer, asked[split], settings, seed) for split in SPLITS}
    pairs = {
        split: _pairs(asked[split], drawn[split], settings, tokenizer.eos_token_id, max_length, seed)
        for split in SPLITS
    }
    if not pairs["train"]:
        raise DataError(
            f"The sampled answers gave no pair: {settings.checker} scores all answers to a prompt alike, or none was "
            "finished. Raise num_samples, temperature or max_new_tokens, or check the references."
        )
    rows: dict[str, list[Row]] = {
        split: [*read_rows(given, split), *(pair.row() for pair in pairs[split])] for split in SPLITS
    }
    samples = [sample for split in SPLITS for of_question in drawn[split] for sample in of_question]
    every = [pair for split in SPLITS for pair in pairs[split]]
    most = given.rows.get("train", 0) + settings.most_pairs(questions.rows.get("train", 0))
    return write_rows(folder, rows, PREFERENCE).model_copy(update={"most": most}), PreferenceReport(
        checker=settings.checker,
        prompts=sum(len(asked[split]) for split in SPLITS),
        samples=len(samples),
        pairs={split: len(pairs[split]) for split in SPLITS},
        without_pair=sum(len(asked[split]) - len({pair.number for pair in pairs[split]}) for split in SPLITS),
        unfinished=sum(not _ends(sample, tokenizer.eos_token_id) for sample in samples),
        chosen_correct=sum(pair.chosen.judgement.correct for pair in every) / len(every),
        rejected_correct=sum(pair.rejected.judgement.correct for pair in every) / len(every),
        seconds=time.perf_counter() - started,
    )


def _draw(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: list[Question],
    settings: SampleSettings,
    seed: int,
) -> list[list[Sample]]:
    """Return the samples of every question, each turn seeded by its number."""
    checker = load_checker(settings.checker)
    turns = []
    for turn in range(settings.num_samples):
        asked = ask(
            policy,
            tokenizer,
            questions,
            checker,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            temperature=settings.temperature,
            seed=seed * 1000 + turn,
        )
        assert asked.judgements is not None
        turns.append([Sample(a, j) for a, j in zip(asked.answers, asked.judgements, strict=True)])
    return [list(of_question) for of_question in zip(*turns, strict=True)]


def _ends(sample: Sample, eos: int) -> bool:
    """Return whether an answer ends with EOS; another end token of the model would not be trained on as an end."""
    return sample.answer.token_ids[-1:] == [eos]


def _pairs(
    questions: list[Question],
    drawn: list[list[Sample]],
    settings: SampleSettings,
    eos: int,
    max_length: int,
    seed: int,
) -> list[SampledPair]:
    """Return the pairs of one split, shuffled; answers that do not end with EOS take no part."""
    pairs = []
    for number, (question, samples) in enumerate(zip(questions, drawn, strict=True), start=1):
        finished = [sample for sample in samples if _ends(sample, eos)]
        pairs += [SampledPair(number, question, *couple) for couple in pair_samples(finished, settings.pairing)]
    pairs = [pair for pair in pairs if pair.tokens <= max_length]
    random.Random(seed).shuffle(pairs)
    return pairs
