"""What is measured at every evaluation while a stage trains, beside the loss on the held-out rows.

All of it is read off answers to held-out questions. Nothing here touches the training's random state or its weights.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import TrainingSample
from llm_engineering.scoring.answers import Question, ask, preferred, read_questions, right, score
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.intervals import by_unit
from llm_engineering.tracking import Tracker
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.recovery import writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llm_engineering.training.part import Probe

    ReferenceOf = Callable[[Any], AbstractContextManager[PreTrainedModel | None]]

GENERATED = {"answer_accuracy": right, "preferred_rate": preferred, "answer_score": score}
"""Metrics of generated answers; not from the table of all, since another metric trains nothing anew."""
SAMPLES = "samples.json"
"""What a work folder calls the answers that were kept."""


def asked_questions(inputs: "StageInputs", config: StageConfig) -> list[Question]:
    """Return the held-out questions that a stage answers at each of its ``evaluation_steps``."""
    return _held_out_questions(inputs) if config.evaluation_interval else []


def _held_out_questions(inputs: "StageInputs") -> list[Question]:
    return read_questions(inputs.questions, "eval", inputs.evaluation.max_questions, inputs.seed)


def probes(
    inputs: StageInputs,
    config: StageConfig,
    tokenizer: "PreTrainedTokenizerBase",
    tracker: "Tracker",
    reference_of: "ReferenceOf | None" = None,
) -> "list[Probe]":
    """Return what both stages measure at each of their ``evaluation_steps``.

    Args:
        inputs: The stage's inputs.
        config: Its configuration.
        tokenizer: Of the model that it trains.
        tracker: Gets the answers that are kept.
        reference_of: Gives the frozen reference of a trainer, whose answers are kept as well.

    Raises:
        ConfigError: ``best_metric`` names a metric that needs a checker, or held-out rows, and there is none.
    """
    if config.best_metric and not inputs.rows.rows.get("eval"):
        raise ConfigError(f"best_metric {config.best_metric} needs held-out rows (data.evaluation_share).")
    evaluation, found = inputs.evaluation, []
    if config.best_metric in GENERATED and not (evaluation.checker and _held_out_questions(inputs)):
        raise ConfigError(
            f"best_metric {config.best_metric} needs evaluation.checker and held-out questions (data.evaluation_share)."
        )
    questions = asked_questions(inputs, config)
    if questions and evaluation.checker:
        found.append(judged_answers(questions, evaluation, tokenizer))
    if questions and config.samples:
        shown = questions[: config.samples]
        found.append(SampleKeeper(shown, evaluation, tokenizer, inputs.work_dir, tracker, reference_of))
    return found


def judged_answers(
    questions: Sequence[Question], evaluation: EvaluationConfig, tokenizer: "PreTrainedTokenizerBase"
) -> "Probe":
    """Return a probe that judges greedy answers."""
    assert evaluation.checker is not None
    checker = load_checker(evaluation.checker)

    def measure(trainer: Any) -> dict[str, float]:
        judgements = ask(trainer.model, tokenizer, questions, checker, **how_to_ask(evaluation)).judgements or []
        units = [question.unit for question in questions]
        return {name: fmean(by_unit([of(each) for each in judgements], units)) for name, of in GENERATED.items()}

    return measure


class SampleKeeper:
    """A probe that keeps greedy answers of policy and reference, in a file that a killed training finds again.

    An evaluation comes before the checkpoint of its step. So a training that is taken up makes anew what came after its
    checkpoint, and what the file has of that is left out.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        evaluation: EvaluationConfig,
        tokenizer: "PreTrainedTokenizerBase",
        folder: Path,
        tracker: Tracker,
        reference_of: "ReferenceOf | None" = None,
    ) -> None:
        """Keep answers to ``questions`` in ``folder``."""
        self.reference_of = reference_of
        self.questions, self.evaluation, self.tokenizer = questions, evaluation, tokenizer
        self.folder, self.tracker = folder, tracker
        self.reference: list[str] | None = None

    def __call__(self, trainer: Any) -> dict[str, float]:
        """Keep the answers of one evaluation; there is nothing to log as a number."""
        step = trainer.state.global_step
        earlier = [sample for sample in read_samples(self.folder) if sample.step < step]
        now = self._answers(trainer, step)
        if trainer.is_first:
            _write_samples(self.folder, earlier + now)
        _log_samples(self.tracker, trainer.stage, step, now)
        return {}

    def _answers(self, trainer: Any, step: int) -> list[TrainingSample]:
        if self.reference is None and self.reference_of is not None:
            with self.reference_of(trainer) as frozen:
                self.reference = None if frozen is None else self._ask(frozen)
        policy = self._ask(trainer.model)
        beside: Sequence[str | None] = self.reference or [None] * len(policy)
        prompts = [json.loads(question.prompt)[-1]["content"] for question in self.questions]
        return [
            TrainingSample(step=step, prompt=prompt, policy=own, reference=reference)
            for prompt, own, reference in zip(prompts, policy, beside, strict=True)
        ]

    def _ask(self, model: "PreTrainedModel") -> list[str]:
        answers = ask(model, self.tokenizer, self.questions, None, **how_to_ask(self.evaluation)).answers
        return [answer.text for answer in answers]


def read_samples(folder: Path) -> list[TrainingSample]:
    """Return the answers that a training has kept in its work folder."""
    path = folder / SAMPLES
    return TypeAdapter(list[TrainingSample]).validate_json(path.read_bytes()) if path.is_file() else []


def replay_samples(folder: Path, stage: StageName, until: int, tracker: Tracker) -> None:
    """Hand the answers that an interrupted training had kept until a step to the tracker again."""
    kept = (sample for sample in read_samples(folder) if sample.step <= until)
    for step, samples in groupby(kept, key=lambda sample: sample.step):
        _log_samples(tracker, stage, step, samples)


def _log_samples(tracker: Tracker, stage: StageName, step: int, samples: Iterable[TrainingSample]) -> None:
    tracker.log_text(f"{stage}-samples-step-{step}.txt", "\n\n".join(map(_as_text, samples)), step=step)


def _write_samples(folder: Path, samples: list[TrainingSample]) -> None:
    """Replace the file at once, so that a kill leaves the one before or this one."""
    fresh = folder / f".{SAMPLES}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(TypeAdapter(list[TrainingSample]).dump_json(samples))
        fresh.replace(folder / SAMPLES)


def _as_text(sample: TrainingSample) -> str:
    reference = "" if sample.reference is None else f"\nReference: {sample.reference}"
    return f"Question: {sample.prompt}\nPolicy: {sample.policy}{reference}"


def how_to_ask(evaluation: EvaluationConfig) -> dict[str, int]:
    """Return how a model is asked while it trains."""
    return {"max_new_tokens": evaluation.max_new_tokens, "batch_size": evaluation.batch_size}
