import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_engineering.config.model import DoraAdapter, LoraAdapter, ModelConfig
from llm_engineering.errors import ModelError
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import (
    EMBEDDED_FOLDER,
    describe_checkpoint,
    hash_frozen,
    hash_tensors,
    hash_weights,
    load_model,
    locate_base,
    max_positions,
    save_model,
)
from llm_engineering.reports.folders import Checkpoint, hash_files

Folders = Callable[[str], Path]
Checkpoints = Callable[[str], Checkpoint]
Chats = Callable[[str], ChatTokenizer]


@pytest.fixture
def model_copy(model_folders: Folders, tmp_path: Path) -> Path:
    """A llama folder that may be damaged."""
    return Path(shutil.copytree(model_folders("llama"), tmp_path / "model"))


def test_embedded_base_is_found_and_hashed() -> None:
    found = locate_base(ModelConfig())
    assert (found.path, found.kind, found.base) == (EMBEDDED_FOLDER, "model", "embedded")
    assert found.base_sha256 == found.weights_sha256 == hash_weights(EMBEDDED_FOLDER)


def test_relative_folder_becomes_absolute(model_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_copy.parent)
    found = locate_base(ModelConfig(base="model"))
    assert (found.path, found.base) == (model_copy.resolve(), "model")


def test_hub_id_without_a_network_is_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing' is neither a folder here nor a model at revision 'v1'"):
        locate_base(ModelConfig(base="nobody/nothing", revision="v1"))


def test_name_that_is_no_hub_id_either_is_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"'no/such/folder' is neither a folder here nor a model that the hub gives"):
        locate_base(ModelConfig(base="no/such/folder"))


def test_file_instead_of_a_folder_is_refused(model_copy: Path) -> None:
    with pytest.raises(ModelError, match=r"is a file\. Name the folder"):
        locate_base(ModelConfig(base=str(model_copy / "config.json")))


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        locate_base(ModelConfig(base=str(tmp_path)))


def test_adapter_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an adapter\. Merge it into its base first"):
        locate_base(ModelConfig(base=str(tmp_path)))


def test_weights_that_are_pickles_are_refused_unread(model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    (model_copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match=r"has no safetensors weights.*other formats can run code"):
        locate_base(ModelConfig(base=str(model_copy)))


def test_folder_without_tokenizer_is_refused(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\. Save the model's tokenizer"):
        locate_base(ModelConfig(base=str(model_copy)))


@pytest.mark.parametrize(("config", "reason"), [('{"model_type": "lla', "is damaged"), ("[1]", "is no JSON object")])
def test_damaged_config_is_refused(config: str, reason: str, model_copy: Path) -> None:
    (model_copy / "config.json").write_text(config)
    with pytest.raises(ModelError, match=rf"config\.json {reason}.*Fetch or save the model again"):
        locate_base(ModelConfig(base=str(model_copy)))


@pytest.mark.parametrize("size", [0, 5, 2000])
def test_weights_cut_short_are_refused(size: int, model_copy: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"A weights file in .* is missing or damaged"):
        locate_base(ModelConfig(base=str(model_copy)))


def test_missing_shard_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "model-00001-of-00002.safetensors")
    names = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match=r"A weights file in .* is missing or damaged"):
        locate_base(ModelConfig(base=str(model_copy)))


def test_model_that_lacks_a_weight_is_not_filled_up_with_random_numbers(model_copy: Path) -> None:
    weights = load_file(model_copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights, model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(model_copy, torch.float32)


def test_weights_of_other_shapes_than_the_config_says_are_refused(model_copy: Path) -> None:
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ModelError, match="is no causal language model that transformers can load"):
        load_model(model_copy, torch.float32)


def test_unknown_architecture_is_refused(model_copy: Path) -> None:
    (model_copy / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(ModelError, match=r"is no causal language model that transformers can load.*abacus"):
        load_model(model_copy, torch.float32)


def test_weights_hash_ignores_order_and_sees_names_shapes_types_and_values() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])
    same = hash_tensors([("a", a), ("b", b)])
    assert hash_tensors([("b", b), ("a", a)]) == same
    others = [
        [("a", b), ("b", a)],
        [("a", a.reshape(2, 1)), ("b", b)],
        [("a", a.half()), ("b", b)],
        [("a", torch.tensor([1.0, 2.0000002])), ("b", b)],
        [("a", a)],
    ]
    assert len({same, *(hash_tensors(other) for other in others)}) == 6


def test_weights_hash_takes_scalars_empty_half_and_strided_tensors() -> None:
    strided = torch.arange(6.0).reshape(2, 3).T
    assert hash_tensors([("a", strided)]) == hash_tensors([("a", strided.contiguous())])
    odd = [("scalar", torch.tensor(1)), ("empty", torch.zeros(0, 3)), ("half", torch.ones(2, dtype=torch.bfloat16))]
    assert hash_tensors(odd) == hash_tensors(reversed(odd))


def test_weights_hash_reads_what_transformers_reads(model_copy: Path) -> None:
    before = hash_weights(model_copy)
    save_file({"a": torch.ones(3)}, model_copy / "consolidated.safetensors")
    assert hash_weights(model_copy) == before


@pytest.mark.parametrize("adapter", [LoraAdapter(r=2), DoraAdapter(r=2)], ids=["lora", "dora"])
def test_hash_of_the_frozen_weights_is_the_folders_with_and_without_an_adapter(
    adapter: LoraAdapter, family: str, model_checkpoints: Checkpoints
) -> None:
    from peft import get_peft_model

    base = model_checkpoints(family)
    model = load_model(base.path, torch.float32)
    assert hash_frozen(model) == base.weights_sha256
    attached = get_peft_model(model, adapter_config(adapter, model))
    assert hash_frozen(attached) == base.weights_sha256
    with torch.no_grad():
        for name, parameter in attached.named_parameters():
            if ".lora_" in name:
                parameter += 1.0
    assert hash_frozen(attached) == base.weights_sha256


def test_hash_of_the_frozen_weights_sees_one_changed_value_below_an_adapter(
    family: str, model_checkpoints: Checkpoints
) -> None:
    from peft import get_peft_model

    base = model_checkpoints(family)
    model = load_model(base.path, torch.float32)
    attached = get_peft_model(model, adapter_config(LoraAdapter(r=2), model))
    frozen = [p for name, p in attached.named_parameters() if ".base_layer.weight" in name]
    with torch.no_grad():
        frozen[-1].view(-1)[-1] += 1e-6
    assert hash_frozen(attached) != base.weights_sha256


def test_saved_model_loads_with_the_same_logits_hash_template_and_ends(
    family: str, model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, tokenizer = model_checkpoints(family), chats(family).tokenizer
    model = load_model(base.path, torch.float32)
    ids = torch.tensor([[40, 41, 42, 43, 44]])
    logits = model(ids).logits
    save_model(model, tokenizer, tmp_path / "saved")

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(ids).logits, logits)
    assert hash_weights(tmp_path / "saved") == base.weights_sha256
    served = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert served.chat_template == tokenizer.chat_template
    assert (served.eos_token, served.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert again.generation_config.eos_token_id[0] == tokenizer.eos_token_id
    assert again.generation_config.pad_token_id == tokenizer.pad_token_id
    assert again.config.eos_token_id == tokenizer.eos_token_id


def test_saved_generation_config_keeps_further_end_tokens_after_the_tokenizers_own(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    # gpt_neox was made with <|endoftext|> (0) as its end; ChatML answers end with <|im_end|> (2)
    model = load_model(model_checkpoints("gpt_neox").path, torch.float32)
    assert model.generation_config.eos_token_id == 0
    save_model(model, chats("gpt_neox").tokenizer, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_checkpoint_of_a_written_folder_names_its_base(model_checkpoints: Checkpoints, model_copy: Path) -> None:
    base = model_checkpoints("qwen2")
    written = describe_checkpoint(model_copy, "model", base)
    assert (written.base, written.base_sha256) == (base.base, base.weights_sha256)
    assert (written.sha256, written.weights_sha256) == (hash_files(model_copy), hash_weights(model_copy))


def test_longest_sequence_is_read_from_the_config_under_either_name(model_folders: Folders, model_copy: Path) -> None:
    assert max_positions(model_folders("llama")) == 256
    assert max_positions(model_folders("gpt2")) == 256
    (model_copy / "config.json").write_text("{}")
    assert max_positions(model_copy) is None
