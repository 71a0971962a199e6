import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_engineering.config.model import DoraAdapter, LoraAdapter
from llm_engineering.errors import ModelError, ProofError
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import describe_checkpoint, hash_weights, load_model
from llm_engineering.models.merging import merge_adapter
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.training import MergeReport

Checkpoints = Callable[[str], Checkpoint]
Chats = Callable[[str], ChatTokenizer]
PROBES = [[40, 41, 42, 43], [60, 61], [80, 81, 82, 83, 84, 85]]


def train_by_chance(base: Checkpoint, config: LoraAdapter, folder: Path, fill: float | None = None) -> Checkpoint:
    """Write an adapter whose weights are random, or all ``fill``."""
    from peft import get_peft_model

    model = load_model(base.path, torch.float32)
    attached: Any = get_peft_model(model, adapter_config(config, model))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for name, parameter in attached.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(std=0.1) if fill is None else parameter.fill_(fill)
            elif "lora_magnitude" in name:
                parameter *= 1.1
    attached.save_pretrained(folder)
    return describe_checkpoint(folder, "adapter", base)


def adapted_logits(base: Checkpoint, adapter: Checkpoint, ids: list[int]) -> torch.Tensor:
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_model(base.path, torch.float32), adapter.path).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("adapter", [LoraAdapter(r=4), DoraAdapter(r=4)], ids=["lora", "dora"])
def test_merged_folder_gives_the_adapters_logits_and_not_the_bases(
    adapter: LoraAdapter, family: str, model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    base = model_checkpoints(family)
    trained = train_by_chance(base, adapter, tmp_path / "adapter")
    merged, report = merge_adapter(
        base, trained, chats(family).tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "merged"
    )
    ids = [90, 91, 92, 93, 94]  # no probe
    with torch.no_grad():
        logits = load_model(merged.path, torch.float32)(torch.tensor([ids])).logits[0]
        untrained = load_model(base.path, torch.float32)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits, adapted_logits(base, trained, ids), rtol=1e-4, atol=1e-4)
    assert (logits - untrained).abs().max() > 0.1
    assert report.max_logit_difference < 1e-4
    assert report.reload_logit_difference == 0
    assert 0 < report.greedy_tokens <= 3 * 24
    assert (merged.kind, merged.base, merged.base_sha256) == ("model", base.base, base.weights_sha256)
    assert merged.weights_sha256 == hash_weights(merged.path) != base.weights_sha256


def test_tied_embeddings_stay_tied_in_the_merged_folder(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    from safetensors import safe_open

    base = model_checkpoints("llama")
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter")
    merged, _ = merge_adapter(
        base, trained, chats("llama").tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "merged"
    )
    model = load_model(merged.path, torch.float32)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with safe_open(merged.path / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in list(file.keys())


def test_merging_is_done_in_fp32_and_cast_last(model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path) -> None:
    base, tokenizer = model_checkpoints("qwen2"), chats("qwen2").tokenizer
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter")
    folders = {dtype: tmp_path / str(dtype) for dtype in (torch.float32, torch.bfloat16)}
    for dtype, folder in folders.items():
        _, report = merge_adapter(base, trained, tokenizer, PROBES, stage="dpo", dtype=dtype, folder=folder)
        assert report.dtype == str(dtype).removeprefix("torch.")
        assert report.reload_logit_difference == 0
    full, half = (dict(load_model(folder, dtype).named_parameters()) for dtype, folder in folders.items())
    assert all(torch.equal(full[name].bfloat16(), half[name]) for name in full)


def test_adapter_of_another_base_is_refused_before_anything_is_written(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    base, other = model_checkpoints("llama"), model_checkpoints("qwen2")
    trained = train_by_chance(other, LoraAdapter(r=4), tmp_path / "adapter")
    with pytest.raises(ModelError, match=rf"adapter was trained on weights {other.weights_sha256[:12]}"):
        merge_adapter(
            base, trained, chats("llama").tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "new"
        )
    assert not (tmp_path / "new").exists()


def test_merge_that_loses_the_adapter_is_caught(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    base = model_checkpoints("llama")
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter")
    monkeypatch.setattr(Linear, "merge", lambda self, safe_merge=False, adapter_names=None: None)
    with pytest.raises(ProofError, match=r"The merged sft model is not the adapted one: logits differ by"):
        merge_adapter(
            base, trained, chats("llama").tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "new"
        )


def test_merge_that_shifts_one_weight_a_little_is_caught(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraModel

    base = model_checkpoints("llama")
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter")
    merge = LoraModel.merge_and_unload

    def shift(self: LoraModel, *args: Any, **kwargs: Any) -> Any:
        merged = merge(self, *args, **kwargs)
        with torch.no_grad():
            merged.model.norm.weight[0] += 0.1
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", shift)
    with pytest.raises(ProofError, match="is not the adapted one"):
        merge_adapter(
            base, trained, chats("llama").tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "new"
        )


def test_folder_that_does_not_hold_the_merged_weights_is_caught(
    model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    base = model_checkpoints("llama")
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter")
    save = LlamaForCausalLM.save_pretrained

    def save_wrongly(self: LlamaForCausalLM, folder: Path, **_: object) -> None:
        save(self, folder, state_dict={name: tensor * 1.5 for name, tensor in self.state_dict().items()})

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_wrongly)
    with pytest.raises(ProofError, match="The saved dpo model does not reload to the same logits"):
        merge_adapter(
            base, trained, chats("llama").tokenizer, PROBES, stage="dpo", dtype=torch.float32, folder=tmp_path / "new"
        )


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_adapter_whose_weights_are_no_numbers_is_caught(
    broken: float, model_checkpoints: Checkpoints, chats: Chats, tmp_path: Path
) -> None:
    base = model_checkpoints("llama")
    trained = train_by_chance(base, LoraAdapter(r=4), tmp_path / "adapter", fill=broken)
    with pytest.raises(ProofError, match="cannot be merged"):
        merge_adapter(
            base, trained, chats("llama").tokenizer, PROBES, stage="sft", dtype=torch.float32, folder=tmp_path / "new"
        )


def test_difference_that_is_no_number_is_no_agreement() -> None:
    from llm_engineering.models.merging import _largest_difference, _require_parity

    one = [torch.tensor([1.0, 2.0]), torch.tensor([1.0])]
    assert _largest_difference(one, [torch.tensor([1.0, 2.5]), torch.tensor([1.25])]) == 0.5
    assert math.isnan(_largest_difference(one, [torch.tensor([1.0, math.nan]), torch.tensor([1.0])]))
    good = MergeReport(
        stage="sft",
        max_logit_difference=0.0,
        reload_logit_difference=0.0,
        tolerance=1e-3,
        greedy_tokens=1,
        dtype="float32",
        parameters=1,
    )
    _require_parity(good, same_tokens=True)
    for broken in ("max_logit_difference", "reload_logit_difference"):
        with pytest.raises(ProofError):
            _require_parity(good.model_copy(update={broken: math.nan}), same_tokens=True)
    with pytest.raises(ProofError, match="greedy tokens differ"):
        _require_parity(good, same_tokens=False)
