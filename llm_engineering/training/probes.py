"""What is measured at every evaluation while a stage trains, beside the loss on the held-out rows.

All of it is read off answers to held-out questions. Nothing here touches the training's random state or its weights.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import TrainingSample
from llm_engineering.scoring.answers import Question, ask, preferred, read_questions, right, score
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.intervals import by_unit
from llm_engineering.scoring.likelihood import divergences, labelled
from llm_engineering.tracking import Tracker
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.losses import uses_reference
from llm_engineering.training.recovery import writing
from llm_engineering.training.reference import has_adapter, reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llm_engineering.training.part import Probe

GENERATED = {"answer_accuracy": right, "preferred_rate": preferred, "answer_score": score}
"""Metrics of generated answers; not from the table of all, since another metric trains nothing anew."""
SAMPLES = "samples.json"
"""What a work folder calls the answers that were kept."""


def probes(
    inputs: StageInputs, config: StageConfig, tokenizer: "PreTrainedTokenizerBase", tracker: Tracker
) -> "list[Probe]":
    """Return what a stage measures at each of its ``evaluation_steps``.

    Raises:
        ConfigError: ``best_metric`` names a metric that needs a checker, or held-out rows, and there is none.
    """
    if config.best_metric and not inputs.rows.rows.get("eval"):
        raise ConfigError(f"best_metric {config.best_metric} needs held-out rows (data.evaluation_share).")
    evaluation, found = inputs.evaluation, []
    questions = read_questions(inputs.questions, "eval", evaluation.max_questions, inputs.seed)
    if config.best_metric in GENERATED and not (evaluation.checker and questions):
        raise ConfigError(
            f"best_metric {config.best_metric} needs evaluation.checker and held-out questions (data.evaluation_share)."
        )
    if not (config.evaluation_interval and questions):
        return []
    if evaluation.checker:
        found.append(judged_answers(questions, evaluation, tokenizer))
    if isinstance(config, DPOStageConfig) and config.kl_answers and uses_reference(config):
        found.append(kl_of_samples(questions[: config.kl_answers], evaluation, tokenizer, inputs.seed))
    if config.samples:
        shown = questions[: config.samples]
        found.append(SampleKeeper(shown, evaluation, tokenizer, inputs.work_dir, tracker))
    return found


def judged_answers(
    questions: Sequence[Question], evaluation: EvaluationConfig, tokenizer: "PreTrainedTokenizerBase"
) -> "Probe":
    """Return a probe that judges greedy answers."""
    assert evaluation.checker is not None
    checker = load_checker(evaluation.checker)

    def measure(trainer: Any) -> dict[str, float]:
        judgements = ask(trainer.model, tokenizer, questions, checker, **_how(evaluation)).judgements or []
        units = [question.unit for question in questions]
        return {name: fmean(by_unit([of(each) for each in judgements], units)) for name, of in GENERATED.items()}

    return measure


def kl_of_samples(
    questions: Sequence[Question], evaluation: EvaluationConfig, tokenizer: "PreTrainedTokenizerBase", seed: int
) -> "Probe":
    """Return a probe that measures the KL from the reference on answers sampled from the policy at temperature 1.

    They are drawn with the same seed every time, so that two evaluations differ by their weights. Nothing is measured
    where no reference is in memory: with stored log-probabilities and a policy that is trained whole.
    """

    def measure(trainer: Any) -> dict[str, float]:
        reference = None if has_adapter(trainer.model) else trainer.ref_model
        if reference is None and not has_adapter(trainer.model):
            return {}
        answers = ask(trainer.model, tokenizer, questions, None, temperature=1.0, seed=seed, **_how(evaluation)).answers
        rows = [labelled(q.prompt_ids, answer.token_ids) for q, answer in zip(questions, answers, strict=True)]
        found = divergences(trainer.model, reference, rows)
        nats, tokens = sum(row.nats for row in found), sum(row.tokens for row in found)
        unfinished = sum(not answer.finished for answer in answers) / len(answers)
        of_tokens = {"kl_per_token": nats / tokens} if tokens else {}
        return {**of_tokens, "kl_per_answer": nats / len(found), "sampled_unfinished": unfinished}

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
    ) -> None:
        """Keep answers to ``questions`` in ``folder``."""
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
        if self.reference is None and trainer.stage == "dpo" and not trainer.reference_free:
            self.reference = self._of_reference(trainer)
        policy = self._ask(trainer.model)
        frozen: Sequence[str | None] = self.reference or [None] * len(policy)
        prompts = [json.loads(question.prompt)[-1]["content"] for question in self.questions]
        return [
            TrainingSample(step=step, prompt=prompt, policy=own, reference=reference)
            for prompt, own, reference in zip(prompts, policy, frozen, strict=True)
        ]

    def _of_reference(self, trainer: Any) -> list[str] | None:
        with reference_of(trainer) as reference:
            return None if reference is None else self._ask(reference)

    def _ask(self, model: "PreTrainedModel") -> list[str]:
        answers = ask(model, self.tokenizer, self.questions, None, **_how(self.evaluation)).answers
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


def _how(evaluation: EvaluationConfig) -> dict[str, int]:
    return {"max_new_tokens": evaluation.max_new_tokens, "batch_size": evaluation.batch_size}
