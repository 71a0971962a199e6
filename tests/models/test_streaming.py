from collections.abc import Callable
from threading import Event

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_engineering.errors import ModelError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.models.generation import generate_answers
from llm_engineering.models.streaming import Sampling, stream_answer
from llm_engineering.reports.folders import Checkpoint

PROMPT = [40, 41, 42, 43]


@pytest.fixture
def model(model_checkpoints: Callable[[str], Checkpoint]) -> PreTrainedModel:
    return load_model(model_checkpoints("qwen2").path, torch.float32)


@pytest.fixture
def tokenizer(chats: Callable[[str], ChatTokenizer]) -> PreTrainedTokenizerBase:
    return chats("qwen2").tokenizer


def streamed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **how: object) -> str:
    return "".join(stream_answer(model, tokenizer, PROMPT, Sampling(**how), Event()))


def test_a_greedy_answer_is_the_one_that_is_evaluated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    [answer] = generate_answers(model, tokenizer, [PROMPT], max_new_tokens=20, batch_size=1)
    assert streamed(model, tokenizer, max_new_tokens=20).strip() == answer.text
    assert answer.text


def test_a_seed_gives_the_same_answer_again_and_another_seed_another_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    before = torch.random.get_rng_state()
    one, again, other = (
        streamed(model, tokenizer, max_new_tokens=20, temperature=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_smallest_nucleus_is_greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    greedy = streamed(model, tokenizer, max_new_tokens=20)
    assert streamed(model, tokenizer, max_new_tokens=20, temperature=1.0, top_p=1e-6) == greedy


def test_a_stopped_answer_ends_after_the_next_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    stop = Event()
    stop.set()
    pieces = list(stream_answer(model, tokenizer, PROMPT, Sampling(max_new_tokens=50), stop))
    [answer] = generate_answers(model, tokenizer, [PROMPT], max_new_tokens=1, batch_size=1)
    assert "".join(pieces).strip() == answer.text


def test_a_conversation_that_fills_the_model_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ModelError, match="has 256 tokens and the model 256 positions: no answer fits"):
        list(stream_answer(model, tokenizer, [40] * 256, Sampling(), Event()))


def test_what_fails_while_it_generates_is_raised_and_not_waited_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(IndexError):
        list(stream_answer(model, tokenizer, [10**6], Sampling(), Event()))
