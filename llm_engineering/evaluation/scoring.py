"""Measure the models of a run on the same held-out rows and questions."""

import hashlib
import json
import math
import time
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from llm_engineering.artifacts import (
    Checkpoint,
    EvaluationReport,
    GreedyAnswers,
    Metric,
    ModelScores,
    RowSet,
    SampleAnswers,
)
from llm_engineering.config.schema import EvaluationConfig
from llm_engineering.data.rendering import ChatRenderer
from llm_engineering.data.rowsets import read_rows
from llm_engineering.evaluation.answers import JudgedAnswers, Question, ask, read_questions, summarise
from llm_engineering.evaluation.checkers import Checker, load_checker
from llm_engineering.evaluation.likelihood import divergences, labelled, score_rows
from llm_engineering.evaluation.metrics import divergence, mean, proportion, rate
from llm_engineering.models.checkpoints import load_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def parent_of(name: str, models: Container[str]) -> str | None:
    """Return the model that ``name`` was trained from: what its rewards and its KL are measured against."""
    parents = {"sft": ("base",), "dpo": ("sft", "base")}.get(name, ())
    return next((parent for parent in parents if parent in models), None)


@dataclass(frozen=True)
class HeldOut:
    """The rows and questions that models are measured on."""

    split: str
    conversations: list[tuple[list[int], list[int]]]
    pairs: list[dict[str, list[int]]]
    questions: list[Question]
    fingerprint: str


def read_held_out(sft: RowSet, preference: RowSet, questions: RowSet, config: EvaluationConfig, seed: int) -> HeldOut:
    """Return the test split, or the eval split where there is no test split.

    Rows that are trained on are no part of the fingerprint: runs that train on other rows compare.
    """
    held = any(rows.rows.get("test") for rows in (sft, preference, questions))
    split = "test" if held else "eval"
    conversations = [(row["input_ids"], row["labels"]) for row in read_rows(sft, split)]
    pairs = [{side: row[side] for side in PAIR_IDS} for row in read_rows(preference, split)]
    asked = read_questions(questions, split, config.max_questions, seed)
    parts = [conversations, pairs, [asdict(question) for question in asked]]
    settings = json.dumps([split, seed, config.model_dump(mode="json"), parts], sort_keys=True)
    return HeldOut(
        split=split,
        conversations=conversations,
        pairs=pairs,
        questions=asked,
        fingerprint=hashlib.sha256(settings.encode()).hexdigest(),
    )


@dataclass
class Evaluator:
    """Measures models on the same rows, questions and seeds.

    Rewards, margins and KL of a model are measured against its parent, the model that it was trained from.
    """

    held_out: HeldOut
    config: EvaluationConfig
    tokenizer: "PreTrainedTokenizerBase"
    beta: float
    """DPO's beta; scales rewards and margins."""
    seed: int
    """Seeds the sampled answers."""
    dtype: "torch.dtype"
    _logps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Log-probabilities of the pairs' chosen and rejected answers, by the weights of the model."""
    _greedy: dict[str, list[str]] = field(default_factory=dict)
    """Greedy answers to the held-out questions, by the weights of the model."""

    @cached_property
    def checker(self) -> Checker | None:
        """The program that judges answers, if one is configured."""
        return load_checker(self.config.checker) if self.config.checker else None

    def evaluate(
        self, checkpoints: Mapping[str, Checkpoint], parents: Mapping[str, Checkpoint] | None = None
    ) -> EvaluationReport:
        """Measure full models.

        Args:
            checkpoints: Models by name.
            parents: What each was trained from, where that is known; a parent need not be measured itself. None: SFT
                was trained from ``base``, DPO from ``sft`` or, where there is none, from ``base``.
        """
        started = time.perf_counter()
        shown = self._shown_questions()
        if parents is None:
            named = {name: parent_of(name, checkpoints) for name in checkpoints}
            parents = {name: checkpoints[parent] for name, parent in named.items() if parent}
        scores: dict[str, ModelScores] = {}
        answers: dict[str, list[str]] = {}
        for name, checkpoint in checkpoints.items():
            model = load_model(checkpoint.path, self.dtype)
            metrics, outcomes = self._measure(checkpoint, model, parents.get(name))
            scores[name] = ModelScores(
                checkpoint_sha256=checkpoint.weights_sha256,
                metrics=metrics,
                outcomes=outcomes,
                parent=_name_of(parents.get(name), checkpoints),
            )
            answers[name] = [answer.text for answer in self._ask(model, shown).answers]
        return EvaluationReport(
            fingerprint=self.held_out.fingerprint,
            split=self.held_out.split,
            questions=len(self.held_out.questions),
            pairs=len(self.held_out.pairs),
            models=scores,
            samples=[
                SampleAnswers(
                    prompt=json.loads(question.prompt)[-1]["content"],
                    reference=question.reference or None,
                    answers={name: texts[i] for name, texts in answers.items()},
                )
                for i, question in enumerate(shown)
            ],
            answers=self._greedy_answers(checkpoints),
            notes=self._notes(),
            seconds=time.perf_counter() - started,
        )

    def _greedy_answers(self, checkpoints: Mapping[str, Checkpoint]) -> list[GreedyAnswers]:
        """Return the greedy answers to all held-out questions, which :meth:`_measure` has kept."""
        texts = {name: self._greedy.get(checkpoint.weights_sha256, []) for name, checkpoint in checkpoints.items()}
        return [
            GreedyAnswers(
                unit=question.unit,
                prompt=question.prompt,
                reference=question.reference,
                answers={name: each[i] for name, each in texts.items()},
            )
            for i, question in enumerate(self.held_out.questions)
        ]

    def _measure(
        self, checkpoint: Checkpoint, model: "PreTrainedModel", parent: Checkpoint | None
    ) -> tuple[dict[str, Metric], dict[str, list[float]]]:
        """Return the metrics of one model, and per-unit outcomes of its answers."""
        metrics: dict[str, Metric] = {}
        outcomes: dict[str, list[float]] = {}
        sampled: list[JudgedAnswers] = []
        if self.held_out.questions:
            greedy = self._ask(model, self.held_out.questions)
            self._greedy[checkpoint.weights_sha256] = [answer.text for answer in greedy.answers]
            outcomes = greedy.outcomes()
            sampled = [
                self._ask(model, self.held_out.questions, temperature=1.0, seed=self.seed + i)
                for i in range(self.config.sampled_answers)
            ]
            metrics |= summarise(outcomes) | _sampled_metrics(sampled)
        if self.held_out.conversations:
            metrics |= self._likelihood_metrics(model)
        if self.held_out.pairs:
            logps = self._pair_logps(checkpoint, model)
            metrics["ranking_accuracy"] = self._ranking_accuracy(logps)
            if parent is not None:
                metrics |= self._preference_metrics(logps, self._pair_logps(parent))
        if parent is not None and sampled:
            metrics |= self._divergence(model, parent, sampled)
        return metrics, outcomes

    def _ask(
        self, model: "PreTrainedModel", questions: list[Question], temperature: float = 0.0, seed: int = 0
    ) -> JudgedAnswers:
        return ask(
            model,
            self.tokenizer,
            questions,
            self.checker,
            max_new_tokens=self.config.max_new_tokens,
            batch_size=self.config.batch_size,
            temperature=temperature,
            seed=seed,
        )

    def _likelihood_metrics(self, model: "PreTrainedModel") -> dict[str, Metric]:
        """Return loss per answer token and perplexity on the held-out conversations."""
        scores = score_rows(model, self.held_out.conversations)
        loss = -sum(score.logp for score in scores) / sum(score.tokens for score in scores)
        return {
            "held_out_loss": Metric(value=loss, units=len(scores)),
            "perplexity": Metric(value=math.exp(min(loss, 700.0)), units=len(scores)),
        }

    def _pair_logps(self, checkpoint: Checkpoint, model: "PreTrainedModel | None" = None) -> list[tuple[float, float]]:
        """Return log-probabilities of chosen and rejected answers; the model is loaded where it is not given."""
        if checkpoint.weights_sha256 not in self._logps:
            model = model or load_model(checkpoint.path, self.dtype)
            chosen, rejected = (
                score_rows(model, [labelled(pair["prompt_ids"], pair[side]) for pair in self.held_out.pairs])
                for side in ("chosen_ids", "rejected_ids")
            )
            found = [(c.logp, r.logp) for c, r in zip(chosen, rejected, strict=True)]
            self._logps[checkpoint.weights_sha256] = found
        return self._logps[checkpoint.weights_sha256]

    def _ranking_accuracy(self, logps: list[tuple[float, float]]) -> Metric:
        """Return how often the chosen answer has the higher log-probability per token; needs no reference."""
        wins = [
            chosen / len(pair["chosen_ids"]) > rejected / len(pair["rejected_ids"])
            for (chosen, rejected), pair in zip(logps, self.held_out.pairs, strict=True)
        ]
        return proportion([float(win) for win in wins])

    def _preference_metrics(
        self, policy: list[tuple[float, float]], reference: list[tuple[float, float]]
    ) -> dict[str, Metric]:
        """Return accuracy and margin of the implicit reward (Rafailov et al. 2023, section 4)."""
        margins = [self.beta * ((p[0] - r[0]) - (p[1] - r[1])) for p, r in zip(policy, reference, strict=True)]
        return {
            "preference_accuracy": proportion([float(margin > 0) for margin in margins]),
            "preference_margin": mean(margins),
        }

    def _divergence(
        self, model: "PreTrainedModel", parent: Checkpoint, sampled: list[JudgedAnswers]
    ) -> dict[str, Metric]:
        """Return the KL of the model from its parent, on answers sampled from the model; unfinished ones count."""
        pairs = [pair for answers in sampled for pair in zip(answers.questions, answers.answers, strict=True)]
        rows = [labelled(question.prompt_ids, answer.token_ids) for question, answer in pairs]
        found = divergences(model, load_model(parent.path, self.dtype), rows)
        units = [question.unit for question, _ in pairs]
        return divergence([row.nats for row in found], [row.tokens for row in found], units)

    def _shown_questions(self) -> list[Question]:
        """Return the fixed prompts, or the first held-out questions."""
        if not self.config.prompts:
            return self.held_out.questions[: self.config.shown]
        renderer = ChatRenderer(self.tokenizer)
        prompts = [[{"role": "user", "content": prompt}] for prompt in self.config.prompts]
        return [Question("", json.dumps(prompt), renderer.prompt_ids(prompt), "") for prompt in prompts]

    def _notes(self) -> list[str]:
        notes = [f"Measured on the {self.held_out.split} split."]
        if not self.held_out.questions and not self.held_out.pairs:
            notes.append("There are no held-out rows: nothing was measured, and nothing will be promoted.")
        if self.checker is None:
            notes.append("No evaluation.checker is configured: answers are shown, not judged.")
        return notes


def _name_of(parent: Checkpoint | None, checkpoints: Mapping[str, Checkpoint]) -> str | None:
    """Return the name under which a parent is measured, if it is."""
    named = (name for name, each in checkpoints.items() if parent and each.weights_sha256 == parent.weights_sha256)
    return next(named, None)


def _sampled_metrics(rounds: list[JudgedAnswers]) -> dict[str, Metric]:
    """Return what is said of answers sampled at temperature 1, averaged over the rounds for every unit."""
    outcomes = [answers.outcomes() for answers in rounds]
    metrics = {}
    for name in ("answer_accuracy", "preferred_rate", "flaws_per_answer", "unfinished"):
        if outcomes and name in outcomes[0]:
            values = [sum(each) / len(rounds) for each in zip(*(one[name] for one in outcomes), strict=True)]
            metrics[f"sampled_{name}"] = rate(values) if name != "flaws_per_answer" else mean(values)
    return metrics
