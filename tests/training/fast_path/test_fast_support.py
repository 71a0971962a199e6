"""Where the fast path does not hold, TRL's own runs, and the log and the report say why."""

import logging
import types

import pytest
import torch
from counterparts import TRAINERS, OurDPO, OurSFT, make_model

from llm_engineering.models.flat import support

SAVED_HEAD = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
LOGGER = "llm_engineering.training.fast_path"


@pytest.mark.parametrize(
    ("task", "settings", "reason"),
    [
        ("sft", {"loss_type": "nll"}, "the loss nll"),
        ("sft", {"neftune_noise_alpha": 5.0}, "NEFTune"),
        ("dpo", {"use_weighting": True}, "WPO weights"),
        ("sft", {"model": {"attention_dropout": 0.1}}, "attention dropout"),
        ("dpo", {"model": {"attn_implementation": "eager"}}, "the attention implementation eager"),
        ("sft", {"architecture": "mistral", "model": {"sliding_window": 31}}, "a sliding window of 31 tokens"),
        ("dpo", {"architecture": "mistral", "model": {"sliding_window": 33}}, "a sliding window of 33 tokens"),
        ("dpo", {"architecture": "qwen2", "lora": SAVED_HEAD}, "a head that is no plain linear layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_run_on_flat_rows_takes_trls_path_and_says_why(task, settings, reason, make_trainer, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        trainer = make_trainer(TRAINERS[task][1], max_steps=1, **settings)
    assert trainer.path.startswith(f"TRL's own: {reason}")
    assert trainer.fast is None
    messages = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert len(messages) == 1
    assert messages[0].startswith(f"{task.upper()} takes TRL's own path, which is slower: {reason}")
    trainer.train()


@pytest.mark.parametrize("window", [32, 34])
def test_window_as_long_as_the_longest_row_is_none(window, make_trainer):
    # the longest SFT row has 32 tokens, the longest preference row 34
    trainer = make_trainer(OurSFT if window == 32 else OurDPO, "mistral", model={"sliding_window": window})
    assert trainer.path == "fast"


def test_model_that_is_not_on_the_list(make_trainer, monkeypatch):
    monkeypatch.setattr(support, "ARCHITECTURES", frozenset({"qwen2"}))
    assert make_trainer(OurSFT).path == "TRL's own: the architecture llama, which is not on the list"


def test_layers_that_a_backend_has_replaced(make_trainer):
    trainer = make_trainer(OurSFT, fast_path="off")
    layer = trainer.model.get_base_model().model.layers[1].mlp

    def forward(self, x):
        return x

    forward.__module__ = "unsloth.kernels.fast_lora"
    layer.forward = types.MethodType(forward, layer)
    assert support.reason_against(trainer, "sft") == "Unsloth's forward pass"
    del layer.forward
    assert support.reason_against(trainer, "sft") is None
    layer._compiled_call_impl = forward  # what Module.compile sets
    assert support.reason_against(trainer, "sft") == "layers compiled by torch.compile"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("final_logit_softcapping", 30.0, "scaled logits (final_logit_softcapping)"),
        ("attn_logit_softcapping", 50.0, "scaled logits (attn_logit_softcapping)"),
        ("logit_scale", 0.5, "scaled logits (logit_scale)"),
        ("use_bidirectional_attention", True, "attention in both directions"),
        ("layer_types", ["full_attention", "linear_attention"], "layers other than attention"),
    ],
)
def test_model_whose_configuration_says_that_rows_would_mix(name, value, reason, make_trainer):
    trainer = make_trainer(OurSFT)
    trainer.fast.model.config.__dict__[name] = value
    assert support.reason_against(trainer, "sft") == reason


def test_ways_of_training(make_trainer):
    trainer = make_trainer(OurDPO)
    assert support.reason_against(trainer, "dpo") is None

    def reason(**changes):
        fields = ("accelerator", "args", "is_fsdp_enabled", "is_deepspeed_enabled", "compute_metrics")
        fields += ("preprocess_logits_for_metrics", "aux_loss_enabled", "_is_vision_dataset", "use_weighting")
        fields += ("ref_model", "model", "train_dataset", "eval_dataset", "use_liger_kernel")
        seen = {name: getattr(trainer, name) for name in fields} | changes
        return support.reason_against(types.SimpleNamespace(**seen), "dpo")

    def with_args(**changes):
        names = ("n_gpu", "torch_compile", "neftune_noise_alpha", "activation_offloading", "use_liger_kernel")
        names += ("bf16", "fp16")
        return types.SimpleNamespace(**{name: getattr(trainer.args, name, None) for name in names} | changes)

    def accelerator(processes=1, distributed="NO", device="cpu"):
        kind = types.SimpleNamespace(value=distributed)
        return types.SimpleNamespace(
            num_processes=processes, distributed_type=kind, device=types.SimpleNamespace(type=device)
        )

    assert reason() is None
    assert reason(accelerator=accelerator(processes=2, distributed="MULTI_CPU")) is None
    assert reason(args=with_args(n_gpu=2)) == "several devices in one process"
    assert reason(accelerator=accelerator(device="mps")) == "the device mps"
    assert reason(is_fsdp_enabled=True) == reason(is_deepspeed_enabled=True) == "sharded weights"
    assert reason(args=with_args(torch_compile=True)) == "torch.compile"
    assert reason(args=with_args(activation_offloading=True)) == "activation offloading"
    assert reason(args=with_args(use_liger_kernel=True)) == "Liger kernels"
    assert reason(compute_metrics=print) == "metrics that need all logits"
    assert reason(aux_loss_enabled=True) == "an auxiliary loss of experts"
    assert reason(_is_vision_dataset=True) == "images"
    assert reason(ref_model=trainer.model) == "a reference that is a model of its own"


def test_weights(make_trainer):
    trainer = make_trainer(OurSFT)
    trainer.fast.model.get_output_embeddings().weight.requires_grad_(True)
    assert support.reason_against(trainer, "sft") == "a head that is trained"
    trainer = make_trainer(OurSFT)
    trainer.fast.model.is_quantized = True
    assert support.reason_against(trainer, "sft") == "quantised weights"


@pytest.mark.parametrize("outcome", [1.0, RuntimeError("no such operator")])
def test_attention_that_gives_other_numbers_or_none(outcome, make_trainer, monkeypatch):
    def measured(device, dtype):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(support, "worst_difference", measured)
    expected = "1 from a masked softmax" if outcome == 1.0 else "cannot run here (no such operator)"
    assert expected in make_trainer(OurSFT).path


def test_path_is_off_by_configuration_without_a_warning(make_trainer, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        trainer = make_trainer(OurSFT, fast_path="off")
    assert trainer.path == "TRL's own: off by configuration"
    assert not [record for record in caplog.records if record.name == LOGGER]


def test_architectures_are_trls_where_the_path_is_off(make_trainer):
    trainer = make_trainer(OurDPO, fast_path="off")
    trainer.train()
    assert trainer.model.config._attn_implementation == "sdpa"
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
    assert make_model("llama").config._attn_implementation == "sdpa"
