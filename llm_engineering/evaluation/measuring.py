"""Measure a line-up of models: what the steps that do so have in common."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llm_engineering.config.measuring import Lineup, Measuring
from llm_engineering.evaluation.evaluator import Evaluator
from llm_engineering.evaluation.held_out import read_held_out
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def evaluator_for(
    measuring: Measuring,
    held_out: Sequence[RowSet],
    tokenizer: "PreTrainedTokenizerBase",
    others: "Mapping[str, PreTrainedTokenizerBase] | None" = None,
) -> Evaluator:
    """Return what measures models on held-out rows.

    Args:
        measuring: The settings.
        held_out: Conversations, pairs and questions.
        tokenizer: The one that they were tokenised with.
        others: Of models, by name, that have tokens of their own.
    """
    sft, preference, questions = held_out
    config, seed = measuring.evaluation, measuring.seed
    rows = read_held_out(sft, preference, questions, config, seed, measuring.first, measuring.checker_sha256)
    return Evaluator(rows, config, tokenizer, measuring.beta, seed, pick_dtype(measuring.model.dtype), others or {})


def evaluator_of(
    lineup: Lineup, models: Mapping[str, Checkpoint], measuring: Measuring, held_out: Sequence[RowSet], base: Checkpoint
) -> Evaluator:
    """Return what measures a line-up on rows that were tokenised for ``base``."""
    tokenizer = load_chat_tokenizer(base, measuring.model).tokenizer
    others = own_tokenizers(models, measuring.model, tokenizer) if lineup.own_tokens else {}
    return evaluator_for(measuring, held_out, tokenizer, others)


def evaluate(evaluator: Evaluator, lineup: Lineup, models: Mapping[str, Checkpoint]) -> EvaluationReport:
    """Measure the models of a line-up; each is held against its parent, if that has the same tokens."""
    parents = {name: models[parent] for name, parent in lineup.parents.items() if parent not in evaluator.tokenizers}
    return evaluator.evaluate({name: models[name] for name in lineup.measured}, parents)
