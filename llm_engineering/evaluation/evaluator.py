"""Measure models on the same held-out rows and questions."""

import json
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.metrics import SAMPLED
from llm_engineering.data.rendering import ChatRenderer
from llm_engineering.evaluation.changes import Change, answer_changes, count_outcomes, pair_changes
from llm_engineering.evaluation.held_out import HeldOut, pair_texts
from llm_engineering.evaluation.held_out import read_held_out as read_held_out  # what an Evaluator is made with
from llm_engineering.evaluation.lineup import asked_anew
from llm_engineering.models.checkpoints import broken_weight, load_model
from llm_engineering.reports.evaluation import EvaluationReport, GreedyAnswers, Metric, ModelScores, SampleAnswers
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.answers import JudgedAnswers, Question, ask
from llm_engineering.scoring.checkers import Checker, load_checker
from llm_engineering.scoring.likelihood import divergences, labelled, score_rows
from llm_engineering.scoring.measures import (
    answer_outcomes,
    length_baselines,
    mean_of_rounds,
    pair_outcomes,
    sum_metrics,
    summarise,
    variety,
)
from llm_engineering.scoring.pairs import ScoredPair, length_note

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def parent_of(name: str, models: Container[str]) -> str | None:
    """Return the model that ``name`` was trained from: what its rewards and its KL are measured against."""
    parents = {"sft": ("base",), "dpo": ("sft", "base")}.get(name, ())
    return next((parent for parent in parents if parent in models), None)


@dataclass
class _Subject:
    """One model while it is measured."""

    name: str
    checkpoint: Checkpoint
    model: "PreTrainedModel"
    parent: Checkpoint | None
    tokenizer: "PreTrainedTokenizerBase"
    questions: list[Question]
    """As its tokenizer and template render them."""
    reads_rows: bool
    """The rows have its tokens, so that it can be scored on them."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    outcomes: dict[str, list[float]] = field(default_factory=dict)
    broken: bool = False
    """It gives numbers that are none."""

    def add(self, outcomes: Mapping[str, list[float]]) -> None:
        """Take in per-unit values and the metrics that they make."""
        self.outcomes |= outcomes
        self.metrics |= summarise(outcomes)


@dataclass
class Evaluator:
    """Measures models on the same rows, questions and seeds.

    Rewards, margins and KL of a model are measured against its parent, the model that it was trained from.
    """

    held_out: HeldOut
    config: EvaluationConfig
    tokenizer: "PreTrainedTokenizerBase"
    """The one that the rows were tokenised with."""
    beta: float
    """DPO's beta; scales rewards and margins."""
    seed: int
    """Seeds the sampled answers."""
    dtype: "torch.dtype"
    tokenizers: Mapping[str, "PreTrainedTokenizerBase"] = field(default_factory=dict)
    """Of models, by name, whose tokens or template are not the rows': they are asked with their own, and not scored on
    rows, since numbers a token do not compare between tokenizers."""
    changes: list[Change] = field(default_factory=list)
    """What became of pairs and answers between every model and its parent, once they were measured."""
    _logps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Log-probabilities of the pairs' chosen and rejected answers, by the weights of the model."""
    _greedy: dict[str, JudgedAnswers] = field(default_factory=dict)
    """Greedy answers to the held-out questions, likewise."""
    _notes: list[str] = field(default_factory=list)

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
        self._notes = self._first_notes(checkpoints, parents)
        if parents is None:
            named = {name: parent_of(name, checkpoints) for name in checkpoints}
            parents = {name: checkpoints[parent] for name, parent in named.items() if parent}
        scores: dict[str, ModelScores] = {}
        answers: dict[str, list[str]] = {}
        for name, checkpoint in checkpoints.items():
            subject = self._subject(name, checkpoint, parents.get(name))
            self._measure(subject)
            scores[name] = ModelScores(
                checkpoint_sha256=checkpoint.weights_sha256,
                metrics=subject.metrics,
                outcomes=subject.outcomes,
                parent=_name_of(parents.get(name), checkpoints),
            )
            if not subject.broken:
                shown = self._shown_questions(subject)
                answers[name] = [answer.text for answer in self._ask(subject, shown).answers]
        self.changes = self._changes(checkpoints, parents)
        return EvaluationReport(
            fingerprint=self.held_out.fingerprint,
            split=self.held_out.split,
            questions=len(self.held_out.questions),
            pairs=len(self.held_out.pairs),
            models=scores,
            samples=self._samples(answers),
            answers=self._greedy_answers(checkpoints),
            changes=count_outcomes(self.changes),
            notes=self._notes,
            seconds=time.perf_counter() - started,
        )

    def _greedy_answers(self, checkpoints: Mapping[str, Checkpoint]) -> list[GreedyAnswers]:
        """Return the greedy answers to all held-out questions; a model that is broken has none."""
        asked = {name: self._greedy.get(checkpoint.weights_sha256) for name, checkpoint in checkpoints.items()}
        return [
            GreedyAnswers(
                unit=question.unit,
                prompt=question.prompt,
                reference=question.reference,
                answers={name: each.answers[i].text for name, each in asked.items() if each is not None},
            )
            for i, question in enumerate(self.held_out.questions)
        ]

    def _subject(self, name: str, checkpoint: Checkpoint, parent: Checkpoint | None) -> _Subject:
        own = self.tokenizers.get(name)
        return _Subject(
            name=name,
            checkpoint=checkpoint,
            model=load_model(checkpoint.path, self.dtype),
            parent=parent,
            tokenizer=own or self.tokenizer,
            questions=asked_anew(self.held_out.questions, self.tokenizer, own, name)
            if own
            else self.held_out.questions,
            reads_rows=own is None,
        )

    def _measure(self, subject: _Subject) -> None:
        """Measure one model; one that gives numbers that are none is not asked anything."""
        if subject.reads_rows:
            self._score_rows(subject)
        broken = broken_weight(subject.model.named_parameters())
        subject.broken = broken is not None or any(isnan(m.value) for m in subject.metrics.values())
        if subject.reads_rows and self.held_out.pairs and subject.parent is not None:
            logps = self._pair_logps(subject.checkpoint, subject.model), self._pair_logps(subject.parent)
            each = zip(*logps, self.held_out.pair_lengths, strict=True)
            pairs = [ScoredPair(own, lengths, parent, self.beta) for own, parent, lengths in each]
            subject.add(pair_outcomes("rewarded pair", pairs, self.held_out.pair_units))
        if subject.questions and not subject.broken:
            self._judge_answers(subject)
        self._note_numbers(subject)

    def _score_rows(self, subject: _Subject) -> None:
        """Measure the loss on held-out conversations, and how the pairs are ranked."""
        held_out = self.held_out
        if held_out.conversations:
            scored = score_rows(subject.model, held_out.conversations)
            nats, tokens = [-row.logp for row in scored], [row.tokens for row in scored]
            metrics, outcomes = sum_metrics("row sums", nats, tokens, held_out.conversation_units)
            subject.metrics |= metrics
            subject.outcomes |= outcomes
        if held_out.pairs:
            logps = self._pair_logps(subject.checkpoint, subject.model)
            pairs = [ScoredPair(*each) for each in zip(logps, held_out.pair_lengths, strict=True)]
            subject.add(pair_outcomes("pair", pairs, held_out.pair_units))
            subject.metrics |= length_baselines(held_out.pair_lengths, held_out.pair_units)

    def _judge_answers(self, subject: _Subject) -> None:
        """Measure greedy and sampled answers to the held-out questions, and the KL on the sampled ones."""
        greedy = self._ask(subject, subject.questions)
        self._greedy[subject.checkpoint.weights_sha256] = greedy
        subject.add(answer_outcomes(greedy))
        subject.metrics |= variety([greedy])
        sampled = [
            self._ask(subject, subject.questions, temperature=self.config.temperature, seed=self.seed + i)
            for i in range(self.config.sampled_answers)
        ]
        subject.add(mean_of_rounds(sampled))
        subject.metrics |= {SAMPLED + name: metric for name, metric in variety(sampled).items()}
        if subject.parent is not None and subject.reads_rows and sampled and self.config.samples_are_the_models_own:
            subject.metrics |= self._divergence(subject.model, subject.parent, sampled)

    def _ask(
        self, subject: _Subject, questions: list[Question], temperature: float = 0.0, seed: int = 0
    ) -> JudgedAnswers:
        return ask(
            subject.model,
            subject.tokenizer,
            questions,
            self.checker,
            max_new_tokens=self.config.max_new_tokens,
            batch_size=self.config.batch_size,
            temperature=temperature,
            top_p=self.config.top_p,
            seed=seed,
        )

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

    def _divergence(
        self, model: "PreTrainedModel", parent: Checkpoint, sampled: list[JudgedAnswers]
    ) -> dict[str, Metric]:
        """Return the KL of the model from its parent, on answers sampled from the model; unfinished ones count."""
        pairs = [pair for answers in sampled for pair in zip(answers.questions, answers.answers, strict=True)]
        rows = [labelled(question.prompt_ids, answer.token_ids) for question, answer in pairs]
        found = divergences(model, load_model(parent.path, self.dtype), rows)
        units = [question.unit for question, _ in pairs]
        return sum_metrics("sample sums", [row.nats for row in found], [row.tokens for row in found], units)[0]

    def _changes(self, checkpoints: Mapping[str, Checkpoint], parents: Mapping[str, Checkpoint]) -> list[Change]:
        """Return what became of pairs and answers between models that were both measured, or scored."""
        if not parents:
            return []
        names: dict[str, str] = {}
        for name, checkpoint in checkpoints.items():
            names.setdefault(checkpoint.weights_sha256, name)
        base = checkpoints.get("base")
        texts = pair_texts(self.held_out, self.tokenizer)
        found: list[Change] = []
        for name, parent in parents.items():
            own, before = checkpoints[name].weights_sha256, parent.weights_sha256
            called = (name, names.get(before, "parent"))
            if own in self._logps and before in self._logps:
                first = (
                    self._logps.get(base.weights_sha256) if base and base.weights_sha256 not in (own, before) else None
                )
                found += pair_changes(called, texts, (self._logps[own], self._logps[before], first), self.beta)
            if own in self._greedy and before in self._greedy:
                found += answer_changes(called, self._greedy[own], self._greedy[before])
        return found

    def _shown_questions(self, subject: _Subject) -> list[Question]:
        """Return the fixed prompts, or the first held-out questions."""
        if not self.config.prompts:
            return subject.questions[: self.config.shown]
        renderer = ChatRenderer(subject.tokenizer)
        prompts = [[{"role": "user", "content": prompt}] for prompt in self.config.prompts]
        return [Question("", json.dumps(prompt), renderer.prompt_ids(prompt), "") for prompt in prompts]

    def _samples(self, answers: Mapping[str, list[str]]) -> list[SampleAnswers]:
        """Return the answers that are shown, side by side."""
        shown = [(question.shown, question.reference or None) for question in self.held_out.questions]
        shown = [(prompt, None) for prompt in self.config.prompts] or shown[: self.config.shown]
        return [
            SampleAnswers(
                prompt=prompt, reference=reference, answers={name: texts[i] for name, texts in answers.items()}
            )
            for i, (prompt, reference) in enumerate(shown)
        ]

    def _first_notes(
        self, checkpoints: Mapping[str, Checkpoint], parents: Mapping[str, Checkpoint] | None
    ) -> list[str]:
        """Return what can be said before anything is measured."""
        notes = [f"Measured on the {self.held_out.split} split.", *self.held_out.notes]
        if not self.held_out.questions and not self.held_out.pairs:
            notes.append("There are no held-out rows: nothing was measured, and nothing will be promoted.")
        if self.checker is None:
            notes.append("No evaluation.checker is configured: answers are shown, not judged.")
        if note := length_note(self.held_out.pair_lengths):
            notes.append(note)
        if self.config.sampled_answers and not self.config.samples_are_the_models_own:
            notes.append("The KL from the parent is defined on samples at temperature 1 and top_p 1: it is left out.")
        known = {parent.weights_sha256 for parent in (parents or {}).values()}
        alone = [n for n, c in checkpoints.items() if parents is not None and n not in parents]
        if orphans := [name for name in alone if checkpoints[name].weights_sha256 not in known]:
            notes.append(
                f"No parent is known of {', '.join(orphans)}: rewards, margins and KL are left out "
                "(evaluation.parents names it)."
            )
        if others := [name for name in checkpoints if name in self.tokenizers]:
            notes.append(
                f"{', '.join(others)}: tokens or chat template are not those of model.base. They are asked with their "
                "own; loss, preferences and KL are left out, since numbers a token do not compare. Repetition, loops "
                "and answer length count each model's own tokens."
            )
        return notes

    def _note_numbers(self, subject: _Subject) -> None:
        """Say what came out as no number: it is never averaged away."""
        lost = [name for name, metric in subject.metrics.items() if isnan(metric.value)]
        if lost:
            self._notes.append(f"{subject.name}: not a number (NaN): {', '.join(lost)}. Nothing of it can be promoted.")
        if subject.broken:
            self._notes.append(f"{subject.name} gives numbers that are none (NaN): it was not asked any question.")


def _name_of(parent: Checkpoint | None, checkpoints: Mapping[str, Checkpoint]) -> str | None:
    """Return the name under which a parent is measured, if it is."""
    named = (name for name, each in checkpoints.items() if parent and each.weights_sha256 == parent.weights_sha256)
    return next(named, None)
