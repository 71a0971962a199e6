"""Measure a model that another run made: on the same rows, or in its own vocabulary where it has another."""

from dataclasses import replace
from typing import TYPE_CHECKING

from llm_engineering.errors import ModelError
from llm_engineering.evaluation.evaluator import Evaluator
from llm_engineering.evaluation.lineup import speak_alike
from llm_engineering.models.auto_classes import read_tokenizer
from llm_engineering.reports.evaluation import ModelScores
from llm_engineering.reports.folders import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def measure_incumbent(evaluator: Evaluator, checkpoint: Checkpoint) -> tuple[ModelScores, str]:
    """Return the scores of an earlier model, and a sentence where it could not be measured like the others.

    Held-out rows are token ids: a model with another vocabulary, EOS or template would read another text in them. Such
    a model is asked the questions as it would be served, with its own tokenizer, and its answers are judged; rows are
    not scored. Without a checker nothing that is left would tell a good model from a bad one: it gets no scores.
    """
    own = saved_tokenizer(checkpoint)
    if speak_alike(own, evaluator.tokenizer):
        return evaluator.evaluate({"incumbent": checkpoint}).models["incumbent"], ""
    nothing = ModelScores(checkpoint_sha256=checkpoint.weights_sha256, metrics={})
    if evaluator.checker is None or not evaluator.held_out.questions:
        return nothing, (
            "The incumbent has another vocabulary or chat template, and without evaluation.checker and held-out "
            "questions its answers cannot be compared: configure them, or decide with tools/promote.py --force."
        )
    try:
        scores = replace(evaluator, tokenizers={"incumbent": own}).evaluate({"incumbent": checkpoint})
    except ModelError as error:
        return nothing, f"The incumbent has another vocabulary or chat template: {error}"
    return scores.models["incumbent"], (
        "The incumbent has another vocabulary or chat template: it was asked the questions with its own, and only "
        "answers are compared."
    )


def saved_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """Return the tokenizer that a merged model was saved with: its template, EOS and padding were settled then."""
    tokenizer = read_tokenizer(checkpoint.path)
    tokenizer.padding_side = "left"
    return tokenizer
