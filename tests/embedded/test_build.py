"""The base model's build is reproducible, and the shipped one is what its record says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from llm_engineering.embedded.build import (
    BASE_DIR,
    SPECIAL_TOKENS,
    BaseModelRecipe,
    BuildProgress,
    build_base_model,
    read_record,
    sha256_of,
)

SMALL = BaseModelRecipe(
    steps=3,
    num_documents=200,
    tokenizer_documents=200,
    vocab_size=300,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
)


def test_two_builds_from_one_seed_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first = build_base_model(tmp_path / "first", SMALL)
    torch.rand(7)
    second = build_base_model(tmp_path / "second", SMALL)
    other = build_base_model(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    assert first == second
    assert first.sha256 == sha256_of(tmp_path / "first" / "model.safetensors")
    assert first.sha256 != other.sha256
    for name in ("tokenizer.json", "build.json", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_build_reports_every_step_and_leaves_torch_as_it_found_it(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    seen: list[BuildProgress] = []
    build_base_model(tmp_path, SMALL, seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_shipped_base_is_the_one_its_record_describes() -> None:
    record = read_record(BASE_DIR)
    weights = BASE_DIR / "model.safetensors"
    assert sha256_of(weights) == record.sha256
    assert record.recipe == BaseModelRecipe()
    assert weights.stat().st_size <= 12 * 1024**2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE_DIR)


def test_the_shipped_tokenizer_speaks_chatml_in_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert all(len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|pad|>", None)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What colour is the fox?"}, {"role": "assistant", "content": "The fox is red."}],
        tokenize=False,
    )
    assert rendered == (
        "<|im_start|>user\nWhat colour is the fox?<|im_end|>\n<|im_start|>assistant\nThe fox is red.<|im_end|>\n"
    )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"


def test_the_shipped_base_ends_its_turns_and_has_read_prose(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE_DIR)
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings == 512
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    inputs = tokenizer("Every morning the otter", return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        next_token = model(**inputs).logits[0, -1].argmax()
    assert tokenizer.decode([int(next_token)]) == " gets"
