"""A tiny random model has the base's architecture and words, and nothing of its size."""

import json
from pathlib import Path

import pytest
import torch
from architectures import FAMILIES, write_family
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, LlamaConfig, MistralConfig

from llm_engineering.errors import ModelError
from llm_engineering.models.checkpoints import EMBEDDED_FOLDER
from llm_engineering.planning.tiny import tiny_config, write_tiny_model
from llm_engineering.reports.folders import hash_files


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_keeps_its_class_and_its_tokenizer(family: str, tmp_path: Path) -> None:
    source = write_family(family, tmp_path / "base")
    (source / "model.safetensors").unlink()  # no weights are asked for
    folder = write_tiny_model(source, tmp_path / "tiny", seed=1, eos_token_id=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    base = AutoConfig.from_pretrained(source)
    assert model.config.model_type == base.model_type
    assert model.config.vocab_size == base.vocab_size
    assert model.config.tie_word_embeddings == base.tie_word_embeddings
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(source).get_vocab()
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(source).chat_template
    assert model.dtype == torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) < 10**5


def test_sizes_are_cut_and_grouped_heads_stay_grouped(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256
    ).save_pretrained(tmp_path)
    tiny = tiny_config(tmp_path)
    assert (tiny.hidden_size, tiny.num_hidden_layers, tiny.vocab_size) == (32, 2, 128256)
    assert (tiny.num_attention_heads, tiny.num_key_value_heads) == (2, 1)
    assert tiny.max_position_embeddings == LlamaConfig().max_position_embeddings
    GPTNeoXConfig(hidden_size=2560, num_attention_heads=32, num_hidden_layers=32).save_pretrained(tmp_path)
    assert (tiny_config(tmp_path).hidden_size, tiny_config(tmp_path).num_attention_heads) == (32, 2)
    MistralConfig(sliding_window=4096).save_pretrained(tmp_path)
    assert tiny_config(tmp_path).sliding_window == 4096


def test_a_quantised_bases_tiny_model_is_not_quantised(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert getattr(tiny_config(tmp_path), "quantization_config", None) is None


def test_the_same_request_gives_the_same_folder_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (write_tiny_model(EMBEDDED_FOLDER, tmp_path, seed, 2) for seed in (1, 1, 2))
    assert first == again != other
    elsewhere = write_tiny_model(EMBEDDED_FOLDER, tmp_path / "elsewhere", 1, 2)
    assert (elsewhere.name, hash_files(elsewhere)) == (first.name, hash_files(first))


def test_sampled_answers_of_a_tiny_model_come_to_an_end(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(EMBEDDED_FOLDER, tmp_path, 1, tokenizer.eos_token_id))
    torch.manual_seed(1)
    prompt = torch.tensor([tokenizer("Where does the zebra live?").input_ids] * 64)
    answers = model.generate(prompt, do_sample=True, max_new_tokens=16, pad_token_id=0)[:, prompt.shape[1] :]
    ended = (answers == tokenizer.eos_token_id).any(1).float().mean()
    assert 0.3 < ended < 1.0


def test_model_whose_padding_is_eos_and_whose_embeddings_are_tied_has_numbers_alone(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    LlamaConfig(vocab_size=64, pad_token_id=2, eos_token_id=2, tie_word_embeddings=True).save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(base, tmp_path / "tiny", 1, 2))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.get_output_embeddings().weight[2].norm().item() == pytest.approx(4.158883, rel=1e-5)  # ln 64


def test_an_unknown_architecture_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ModelError, match="describes no model that transformers knows"):
        tiny_config(tmp_path)
