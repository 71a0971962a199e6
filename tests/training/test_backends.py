"""What every backend has to do alike: load, attach, train, merge, resume, with every proof.

Unsloth's half runs where Unsloth was imported before all else: ``tests/e2e/test_unsloth.py`` starts pytest that way.
"""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, LoraAdapter, ModelConfig, PeftBackend, UnslothBackend
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import ModelError
from llm_engineering.models.backends import pick_backend
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import hash_frozen
from llm_engineering.models.merging import merge_adapter
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.sft import train_sft

ADAPTERS = {
    "lora": LoraAdapter(r=4, alpha=8),
    "dora": DoraAdapter(r=4, alpha=8),
    "named": LoraAdapter(r=4, targets=["q_proj", "v_proj"]),
}
SFT = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
DPO = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "nll_weight": 0.2, "logging_steps": 1}
PROBES = [[5, 6, 7], [9, 10, 11, 12]]


@pytest.fixture(params=["peft", "unsloth"])
def backend(request):
    if request.param == "unsloth" and "unsloth" not in sys.modules:
        pytest.skip("Unsloth was not imported first; tests/e2e/test_unsloth.py does that")
    return PeftBackend() if request.param == "peft" else UnslothBackend()


@pytest.fixture
def merge(tiny_base, tmp_path):
    def merged(base, adapter, stage, name):
        tokenizer = load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer
        folder = tmp_path / name
        return merge_adapter(base, adapter, tokenizer, PROBES, stage=stage, dtype=torch.float32, folder=folder)

    return merged


def test_loaded_model_has_the_weights_of_its_folder(backend, family, model_checkpoints):
    checkpoint = model_checkpoints(family)
    model = pick_backend(backend).load(checkpoint.path, torch.float32)
    assert model.dtype == torch.float32
    assert hasattr(model, "for_inference") == isinstance(backend, UnslothBackend)  # Unsloth's mark on a model
    assert hash_frozen(model) == checkpoint.weights_sha256


def test_folder_that_lacks_a_weight_is_refused(backend, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base.path, tmp_path / "incomplete", copy_function=shutil.copyfile)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights, model\.layers\.1\.mlp\.up_proj"):
        pick_backend(backend).load(folder, torch.float32)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_sft_then_dpo_each_trained_merged_and_proven(
    adapter, backend, make_inputs, sft_rows, preference_rows, tiny_base, merge
):
    settings = {"adapter": adapter, "model": ModelConfig(backend=backend)}
    trained, report = train_sft(SFTStageConfig(**SFT), make_inputs(sft_rows, "sft", **settings))
    assert report.path == "fast"
    assert report.series("loss")[-1][1] < report.series("loss")[0][1]
    sft, proof = merge(tiny_base, trained, "sft", "sft-model")
    assert proof.max_logit_difference < 1e-3

    inputs = make_inputs(preference_rows, "dpo", base=sft, **settings)
    trained, report = train_dpo(DPOStageConfig(**DPO), inputs)
    reference = report.reference
    assert report.path == "fast"
    assert reference.max_logp_difference == 0.0
    assert reference.step0_loss == pytest.approx(reference.expected_loss, abs=1e-4)
    hashes = (reference.sft_sha256, reference.reference_sha256_before, reference.reference_sha256_after)
    assert hashes == (sft.weights_sha256,) * 3
    assert merge(sft, trained, "dpo", "dpo-model")[1].max_logit_difference < 1e-3


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("backend", ["unsloth"], indirect=True)
def test_losses_and_adapter_are_the_peft_backends(
    fast_path, checkpointing, backend, make_inputs, sft_rows, preference_rows, weights_of
):
    how = {"fast_path": fast_path, "gradient_checkpointing": checkpointing}
    for train, config, rows in (
        (train_sft, SFTStageConfig(**SFT, **how), sft_rows),
        (train_dpo, DPOStageConfig(**DPO, **how), preference_rows),
    ):
        ours, expected = (
            train(config, make_inputs(rows, f"{train.__name__}-{one.type}", model=ModelConfig(backend=one)))
            for one in (backend, PeftBackend())
        )
        for name in ("loss", "grad_norm"):
            assert list(zip(*ours[1].series(name), strict=True)) == [
                pytest.approx(values, abs=1e-5) for values in zip(*expected[1].series(name), strict=True)
            ]
        for name, values in weights_of(expected[0]).items():
            assert torch.allclose(weights_of(ours[0])[name], values, rtol=0, atol=1e-5), name
        configs = [json.loads((one.path / "adapter_config.json").read_text()) for one in (ours[0], expected[0])]
        assert configs[0] == configs[1]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_killed_training_resumes_to_the_same_weights(
    stage, backend, make_inputs, sft_rows, preference_rows, killed_at, weights_of
):
    train, settings, rows = {"sft": (train_sft, SFT, sft_rows), "dpo": (train_dpo, DPO, preference_rows)}[stage]
    config = {"sft": SFTStageConfig, "dpo": DPOStageConfig}[stage](**settings, save_steps=2)
    model = ModelConfig(backend=backend)
    straight, _ = train(config, make_inputs(rows, "straight", model=model))
    inputs = make_inputs(rows, "killed", model=model)
    with killed_at(3):
        train(config, inputs)
    resumed, report = train(config, inputs)
    assert (report.resumed_from, report.steps) == (2, 4)
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())
