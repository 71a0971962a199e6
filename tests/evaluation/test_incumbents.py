"""An incumbent that reads the same token ids as other text must not be scored on them."""

import json
from collections.abc import Callable

import pytest
import torch

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.evaluation.evaluator import Evaluator, HeldOut
from llm_engineering.evaluation.incumbents import measure_incumbent, saved_tokenizer
from llm_engineering.evaluation.lineup import speak_alike
from llm_engineering.models.checkpoints import describe_checkpoint, save_model
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.answers import Question

QUESTION = json.dumps([{"role": "user", "content": "Hello!"}])


@pytest.fixture(scope="module")
def own(embedded, embedded_model, embedded_tokenizer, tmp_path_factory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("own")
    save_model(embedded_model, embedded_tokenizer, folder)
    return describe_checkpoint(folder, "model", embedded)


@pytest.fixture(scope="module")
def foreign(model_checkpoints: Callable[[str], Checkpoint]) -> Checkpoint:
    return model_checkpoints("qwen2")


@pytest.fixture
def evaluator(embedded_tokenizer) -> Callable[[str | None], Evaluator]:
    ids = embedded_tokenizer.apply_chat_template(json.loads(QUESTION), add_generation_prompt=True)["input_ids"]
    pair = {"prompt_ids": ids, "chosen_ids": [5, 2], "rejected_ids": [6, 2]}
    held_out = HeldOut(
        split="test",
        conversations=[([*ids, 5, 2], [-100] * len(ids) + [5, 2])],
        pairs=[pair],
        questions=[Question("u", QUESTION, ids, "x")],
        fingerprint="",
        conversation_units=["u"],
        pair_units=["u"],
        pair_places=[(0, 0)],
    )

    def make(checker: str | None) -> Evaluator:
        config = EvaluationConfig(checker=checker, max_new_tokens=4, sampled_answers=0, shown=0)
        return Evaluator(held_out, config, embedded_tokenizer, 0.1, 0, torch.float32)

    return make


def test_a_model_of_this_project_speaks_like_the_base_that_it_was_made_from(own, embedded_tokenizer) -> None:
    assert speak_alike(saved_tokenizer(own), embedded_tokenizer)


def test_an_incumbent_of_the_same_vocabulary_is_measured_on_everything(own, evaluator) -> None:
    scores, remark = measure_incumbent(evaluator("exact"), own)
    assert remark == ""
    assert {"answer_accuracy", "held_out_loss", "ranking_accuracy"} <= set(scores.metrics)


def test_an_incumbent_of_another_vocabulary_is_asked_in_its_own_and_its_answers_alone_are_judged(
    foreign, evaluator
) -> None:
    scores, remark = measure_incumbent(evaluator("exact"), foreign)
    assert "another vocabulary or chat template" in remark
    assert "answer_accuracy" in scores.metrics
    assert not {"held_out_loss", "perplexity", "ranking_accuracy"} & set(scores.metrics)


def test_without_a_checker_another_vocabulary_gives_no_scores_and_says_what_to_do(foreign, evaluator) -> None:
    scores, remark = measure_incumbent(evaluator(None), foreign)
    assert scores.metrics == {}
    assert "evaluation.checker" in remark
    assert "--force" in remark
