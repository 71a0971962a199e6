from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llm_engineering.config.export import Likeness
from llm_engineering.errors import ProofError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.models.parity import Predictions, compare, predictions_of
from llm_engineering.reports.folders import Checkpoint

PROMPTS = [[40, 41, 42, 43], [50, 51], [60, 61, 62]]
ANY = Likeness(agreement=0.0, kl=1e9)


@pytest.fixture
def merged(model_checkpoints: Callable[[str], Checkpoint]) -> torch.nn.Module:
    return load_model(model_checkpoints("qwen2").path, torch.float32)


@pytest.fixture
def reference(merged: torch.nn.Module, chats: Callable[[str], ChatTokenizer]) -> Predictions:
    return predictions_of(merged, chats("qwen2").tokenizer, PROMPTS)


def test_a_model_is_like_itself(merged: torch.nn.Module, reference: Predictions) -> None:
    found = compare(merged, reference, ANY)
    assert (found.agreement, found.max_logit_difference, found.prompts) == (1.0, 0.0, 3)
    assert found.kl_per_token == pytest.approx(0.0, abs=1e-6)
    assert found.positions == sum(len(answer) for answer in reference.answers)


def test_logits_that_are_all_shifted_alike_predict_the_same(merged: torch.nn.Module, reference: Predictions) -> None:
    found = compare(merged, replace(reference, logits_TV=reference.logits_TV + 3), ANY)
    assert found.max_logit_difference == pytest.approx(3, abs=1e-4)
    assert found.mean_logit_difference == pytest.approx(3, abs=1e-4)
    assert (found.agreement, found.kl_per_token) == (1.0, pytest.approx(0.0, abs=1e-5))


def test_kl_and_agreement_are_means_over_the_positions(merged: torch.nn.Module, reference: Predictions) -> None:
    # the merged model is made uniform at the first position: there it finds token 0 likeliest, and the KL is
    # -ln V - mean(log q); everywhere else both are alike
    logits_TV = reference.logits_TV.clone()
    logits_TV[0] = 0
    positions, vocabulary = logits_TV.shape
    log_q = reference.logits_TV[0].log_softmax(-1)
    kl = float(-torch.tensor(float(vocabulary)).log() - log_q.mean())
    found = compare(merged, replace(reference, logits_TV=logits_TV), ANY)
    assert found.kl_per_token == pytest.approx(kl / positions, rel=1e-4)
    assert found.agreement == pytest.approx(1 - 1 / positions)


def test_prompts_that_leave_no_room_for_an_answer_prove_nothing(
    merged: torch.nn.Module, chats: Callable[[str], ChatTokenizer]
) -> None:
    with pytest.raises(ProofError, match="no room for an answer"):
        predictions_of(merged, chats("qwen2").tokenizer, [[40] * 256])
