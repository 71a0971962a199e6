"""All weights trained, no adapter: SFT, DPO against a frozen copy, and what is saved."""

import pytest
import torch
from token_rows import CHOSEN, PROMPTS
from transformers import AutoModelForCausalLM

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import FullFineTuning, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.models.merging import merge_adapter
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.sft import train_sft

FULL = FullFineTuning()


def merged(base, trained, stage, folder, dtype=torch.float32):
    tokenizer = load_chat_tokenizer(base, ModelConfig()).tokenizer
    return merge_adapter(base, trained, tokenizer, PROMPTS[:3], stage=stage, dtype=dtype, folder=folder)


def test_sft_and_dpo_train_all_weights_one_after_the_other(make_inputs, sft_rows, preference_rows, tiny_base, tmp_path):
    trained, report = train_sft(SFTStageConfig(epochs=4, learning_rate=1e-3), make_inputs(sft_rows, adapter=FULL))
    assert report.trainable_parameters == report.parameters
    assert trained.kind == "model"
    assert trained.base_sha256 == tiny_base.weights_sha256 != trained.weights_sha256
    sft_model, merge = merged(tiny_base, trained, "sft", tmp_path / "sft")
    assert merge.max_logit_difference == merge.reload_logit_difference == 0.0

    inputs = make_inputs(preference_rows, "dpo", adapter=FULL, base=sft_model)
    trained, report = train_dpo(DPOStageConfig(epochs=1, learning_rate=1e-3), inputs)
    assert "a reference that is a model of its own" in report.path
    proof = report.reference
    assert proof.step0_loss == pytest.approx(0.693147, abs=1e-5)
    assert proof.reference_sha256_before == proof.reference_sha256_after == sft_model.weights_sha256
    assert trained.weights_sha256 != sft_model.weights_sha256
    dpo_model, _ = merged(sft_model, trained, "dpo", tmp_path / "dpo")
    assert load_model(dpo_model.path, torch.float32).generation_config.eos_token_id == [2]


def test_stored_reference_is_that_of_a_frozen_copy(make_inputs, preference_rows):
    def losses(epochs, work):
        config = DPOStageConfig(epochs=epochs, max_steps=2, batch_size=8, warmup=0, learning_rate=1e-3, logging_steps=1)
        _, report = train_dpo(config, make_inputs(preference_rows, work, adapter=FULL))
        assert report.reference.sft_sha256 == report.reference.reference_sha256_after
        return [loss for _, loss in report.series("loss")]

    # two epochs are stored ahead, one is computed along the way
    config = DPOStageConfig(max_steps=1, batch_size=8, warmup=0, learning_rate=1e-3, logging_steps=1)
    _, on_the_fly = train_dpo(config, make_inputs(preference_rows, "fly", adapter=FULL))
    assert losses(2, "stored")[0] == pytest.approx(on_the_fly.series("loss")[0][1], abs=1e-6)


def test_gradient_of_sft_is_that_of_the_mean_cross_entropy_in_float64(make_inputs, sft_rows, tiny_base):
    # one plain SGD step of rate 1: the weights move by the gradient
    config = SFTStageConfig(
        max_steps=1, batch_size=8, warmup=0, learning_rate=1.0, optimizer="sgd", schedule="constant", max_grad_norm=1e6
    )
    trained, _ = train_sft(config, make_inputs(sft_rows, adapter=FULL))
    exact = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float64)
    nats = torch.zeros((), dtype=torch.float64)
    for prompt, answer in zip(PROMPTS, CHOSEN, strict=True):
        logits = exact(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        nats = nats + (logits.logsumexp(-1) - logits[torch.arange(len(answer)), torch.tensor(answer)]).sum()
    (nats / sum(map(len, CHOSEN))).backward()
    after = dict(load_model(trained.path, torch.float32).named_parameters())
    moved = {name: p.detach() - after[name].double() for name, p in exact.named_parameters()}
    size = sum((p.grad**2).sum() for p in exact.parameters()).sqrt()
    assert sum(((moved[n] - p.grad) ** 2).sum() for n, p in exact.named_parameters()).sqrt() <= 1e-4 * size


def test_half_precision_keeps_float32_weights_while_training(make_inputs, sft_rows, tiny_base, tmp_path):
    inputs = make_inputs(sft_rows, adapter=FULL, model=ModelConfig(dtype="bfloat16"))
    trained, report = train_sft(SFTStageConfig(epochs=1, learning_rate=1e-3), inputs)
    assert torch.isfinite(torch.tensor(report.metrics["loss"]))
    assert {p.dtype for p in load_model(trained.path, "auto").parameters()} == {torch.float32}
    saved, merge = merged(tiny_base, trained, "sft", tmp_path / "half", torch.bfloat16)
    assert merge.dtype == "bfloat16"
    assert {p.dtype for p in load_model(saved.path, "auto").parameters()} == {torch.bfloat16}
