"""Every field of a stage's configuration reaches a trainer, an adapter or a callback: no knob turns nothing."""

from pathlib import Path

import pytest
import torch

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, FullFineTuning, LoraAdapter, ModelConfig, QloraAdapter
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.models.adapters import adapter_config, quantization
from llm_engineering.models.checkpoints import load_model
from llm_engineering.training.arguments import planned_steps
from llm_engineering.training.dpo_arguments import dpo_arguments, dpo_losses
from llm_engineering.training.sft import sft_arguments
from llm_engineering.training.stage import early_stopping

EVALUATED = {"evaluation_steps": 5}
# field, its value, what else has to be set, TRL's argument, its value
STAGE = [
    ("epochs", 2.5, {}, "num_train_epochs", 2.5),
    ("max_steps", 7, {}, "max_steps", 7),
    ("max_steps", None, {}, "max_steps", -1),
    ("batch_size", 3, {}, "per_device_train_batch_size", 3),
    ("accumulation", 5, {}, "gradient_accumulation_steps", 5),
    ("learning_rate", 1.5e-3, {}, "learning_rate", 1.5e-3),
    ("optimizer", "rmsprop", {}, "optim", "rmsprop"),
    ("optimizer", "adamw_8bit", {}, "optim", "adamw_torch_fused"),  # no CUDA GPU here
    ("optimizer", "paged_adamw_32bit", {}, "optim", "adamw_torch_fused"),
    ("adam_beta1", 0.8, {}, "adam_beta1", 0.8),
    ("adam_beta2", 0.95, {}, "adam_beta2", 0.95),
    ("adam_epsilon", 1e-6, {}, "adam_epsilon", 1e-6),
    ("schedule", "constant", {}, "lr_scheduler_type", "constant_with_warmup"),
    ("schedule", "inverse_sqrt", {}, "lr_scheduler_type", "inverse_sqrt"),
    ("min_rate", 0.1, {}, "lr_scheduler_type", "cosine_with_min_lr"),
    ("min_rate", 0.1, {}, "lr_scheduler_kwargs", {"min_lr_rate": 0.1}),
    ("warmup", 0.25, {}, "warmup_steps", 4),  # of 13 steps
    ("warmup", 0.99, {}, "warmup_steps", 12),
    ("warmup", 0.05, {"max_steps": 1}, "warmup_steps", 0),  # the only step would have the rate 0
    ("warmup", 12.0, {}, "warmup_steps", 12),
    ("weight_decay", 0.3, {}, "weight_decay", 0.3),
    ("max_grad_norm", 0.4, {}, "max_grad_norm", 0.4),
    ("gradient_checkpointing", True, {}, "gradient_checkpointing", True),
    ("compile", True, {}, "torch_compile", True),
    ("liger_kernel", False, {}, "use_liger_kernel", False),
    ("logging_steps", 4, {}, "logging_steps", 4),
    ("save_steps", 6, {}, "save_steps", 6),
    ("save_total_limit", 4, {}, "save_total_limit", 4),
    ("evaluation_steps", 5, {}, "eval_steps", 5),
    ("evaluation_examples", 100, {"batch_size": 4, "accumulation": 5}, "eval_steps", 5),
    ("evaluation_examples", 1, {}, "eval_steps", 1),
    ("evaluate_first", True, {}, "eval_on_start", True),
    ("evaluation_steps", 5, {}, "eval_strategy", "steps"),
    ("evaluation_steps", None, {}, "eval_strategy", "no"),
    ("best_metric", "loss", EVALUATED, "metric_for_best_model", "loss"),
    ("best_metric", "loss", EVALUATED, "greater_is_better", False),
    ("best_metric", "answer_accuracy", EVALUATED, "greater_is_better", True),
    ("best_metric", "loss", EVALUATED, "load_best_model_at_end", True),
    ("best_metric", "loss", EVALUATED, "save_steps", 5),
]
SFT = [("neftune_alpha", 5.0, {}, "neftune_noise_alpha", 5.0)]
DPO = [
    ("beta", 0.3, {}, "beta", 0.3),
    ("loss", "ipo", {}, "loss_type", ["ipo"]),
    ("nll_weight", 0.5, {}, "loss_type", ["sigmoid", "sft"]),
    ("nll_weight", 0.5, {}, "loss_weights", [1.0, 0.5]),
    ("label_smoothing", 0.2, {"loss": "robust"}, "label_smoothing", 0.2),
    ("f_divergence", "js_divergence", {}, "f_divergence_type", "js_divergence"),
    ("alpha_divergence", 0.3, {"f_divergence": "alpha_divergence"}, "f_alpha_divergence_coef", 0.3),
    ("ld_alpha", 0.4, {}, "ld_alpha", 0.4),
    ("discopop_tau", 0.1, {"loss": "discopop"}, "discopop_tau", 0.1),
    ("simpo_gamma", 0.1, {"loss": "simpo"}, "loss_type", ["simpo"]),  # its value: test_losses.py
    ("reference_free", True, {}, "precompute_ref_log_probs", True),
    ("reference", "stored", {}, "precompute_ref_log_probs", True),
    ("reference", "on_the_fly", {"epochs": 9}, "precompute_ref_log_probs", False),
]


def sft_of(config, rows=100):
    return sft_arguments(config, ModelConfig(), Path("work"), 3, evaluates=True, rows=rows)


def dpo_of(config, rows=100):
    return dpo_arguments(config, ModelConfig(), Path("work"), 3, evaluates=True, rows=rows)


def plain(value):
    return value.value if hasattr(value, "value") else value


@pytest.mark.parametrize(("field", "value", "others", "argument", "expected"), STAGE)
def test_field_of_a_stage_reaches_both_trainers(field, value, others, argument, expected):
    assert plain(getattr(sft_of(SFTStageConfig(**{field: value}, **others)), argument)) == expected
    assert plain(getattr(dpo_of(DPOStageConfig(**{field: value}, **others)), argument)) == expected


@pytest.mark.parametrize(("field", "value", "others", "argument", "expected"), SFT)
def test_field_of_sft_reaches_its_trainer(field, value, others, argument, expected):
    assert plain(getattr(sft_of(SFTStageConfig(**{field: value}, **others)), argument)) == expected


@pytest.mark.parametrize(("field", "value", "others", "argument", "expected"), DPO)
def test_field_of_dpo_reaches_its_trainer(field, value, others, argument, expected):
    assert plain(getattr(dpo_of(DPOStageConfig(**{field: value}, **others)), argument)) == expected


def test_no_field_is_forgotten():
    elsewhere = {"patience", "fast_path", "samples"}  # a callback's, the trainers' own, a probe's
    assert {case[0] for case in STAGE + SFT} | elsewhere | {"disable_dropout"} == set(SFTStageConfig.model_fields)
    assert {case[0] for case in STAGE + DPO} | elsewhere | {"kl_answers"} == set(DPOStageConfig.model_fields)


def test_patience_reaches_the_callback():
    (callback,) = early_stopping(SFTStageConfig(patience=4, best_metric="loss", **EVALUATED))
    assert callback.early_stopping_patience == 4
    assert early_stopping(SFTStageConfig()) == []


@pytest.mark.parametrize(
    ("adapter", "argument", "expected"),
    [
        (LoraAdapter(r=3), "r", 3),
        (LoraAdapter(alpha=5), "lora_alpha", 5),
        (LoraAdapter(dropout=0.25), "lora_dropout", 0.25),
        (LoraAdapter(targets=["q_proj", "up_proj"]), "target_modules", {"q_proj", "up_proj"}),
        (LoraAdapter(), "use_dora", False),
        (DoraAdapter(), "use_dora", True),
        (LoraAdapter(rank_stabilized=True), "use_rslora", True),
        (QloraAdapter(r=3), "r", 3),
    ],
)
def test_field_of_the_adapter_reaches_peft(adapter, argument, expected, tiny_base):
    assert getattr(adapter_config(adapter, load_model(tiny_base.path, torch.float32)), argument) == expected


def test_no_field_of_the_adapter_is_forgotten():
    fields = {"type", "r", "alpha", "dropout", "targets", "rank_stabilized"}
    assert set(LoraAdapter.model_fields) == fields == set(DoraAdapter.model_fields)
    assert set(QloraAdapter.model_fields) == fields | {"bits"}


@pytest.mark.parametrize(("bits", "argument", "expected"), [(4, "load_in_4bit", True), (8, "load_in_8bit", True)])
def test_bits_of_qlora_reach_the_quantisation(bits, argument, expected):
    assert getattr(quantization(bits, torch.bfloat16), argument) is expected
    assert quantization(4, torch.bfloat16).bnb_4bit_compute_dtype == torch.bfloat16


def test_full_fine_tuning_has_no_adapter(tiny_base):
    assert adapter_config(FullFineTuning(), load_model(tiny_base.path, torch.float32)) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_liger_kernels_are_refused_without_a_gpu():
    with pytest.raises(ConfigError, match=r"sft\.liger_kernel needs a CUDA GPU"):
        sft_of(SFTStageConfig(liger_kernel=True))


@pytest.mark.parametrize("config", [{"epochs": 1, "warmup": 13}, {"epochs": 2, "warmup": 26}])
def test_warmup_that_fills_the_training_is_refused(config):
    with pytest.raises(ConfigError, match=r"sft\.warmup .* is no shorter than the training"):
        sft_of(SFTStageConfig(**config))


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"),
    [("auto", False, False), ("float32", False, False), ("bfloat16", True, False)],
)
def test_precision_of_the_weights_decides_autocast(dtype, bf16, fp16):
    arguments = sft_arguments(SFTStageConfig(), ModelConfig(dtype=dtype), Path("work"), 3, evaluates=True, rows=100)
    assert (arguments.bf16, arguments.fp16) == (bf16, fp16)


def test_rows_are_neither_cut_nor_dropped_nor_prepared_again():
    for arguments in (sft_of(SFTStageConfig()), dpo_of(DPOStageConfig())):
        assert arguments.max_length is None
        assert arguments.seed == 3
        assert arguments.report_to == []
        assert not arguments.dataloader_drop_last
    assert sft_of(SFTStageConfig()).dataset_kwargs == {"skip_prepare_dataset": True}
    assert not sft_of(SFTStageConfig()).packing


def test_stage_without_held_out_rows_does_not_evaluate():
    config = SFTStageConfig(evaluation_steps=5)
    arguments = sft_arguments(config, ModelConfig(), Path("work"), 3, evaluates=False, rows=100)
    assert plain(arguments.eval_strategy) == "no"


def test_conservative_dpo_is_a_sum_of_two_losses():
    # 2 (1 - 0.2) sigmoid - (1 - 0.4) robust
    losses = dpo_losses(DPOStageConfig(label_smoothing=0.2, nll_weight=0.3))
    assert losses == pytest.approx({"sigmoid": 1.6, "robust": -0.6, "sft": 0.3})


@pytest.mark.parametrize(
    ("config", "rows", "steps"),
    [
        ({"batch_size": 8}, 80, 10),
        ({"batch_size": 8}, 81, 11),
        ({"batch_size": 8, "accumulation": 4}, 81, 3),  # 11 batches in 3 updates, the last of 3
        ({"batch_size": 8, "accumulation": 4, "epochs": 2}, 81, 6),  # the rest of an epoch is an update of its own
        ({"batch_size": 8, "accumulation": 16}, 81, 1),
        ({"batch_size": 100}, 3, 1),
        ({"batch_size": 1, "epochs": 0.25}, 10, 3),
        ({"batch_size": 1, "epochs": 1.05}, 10, 11),
        ({"batch_size": 8, "epochs": 3, "max_steps": 4}, 80, 4),
    ],
)
def test_planned_steps(config, rows, steps):
    assert planned_steps(SFTStageConfig(**config), rows) == steps


@pytest.mark.parametrize(
    ("config", "precomputes"),
    [
        ({"epochs": 1}, False),
        ({"epochs": 2}, True),
        ({"max_steps": 10, "batch_size": 10}, False),  # 100 of 100 rows
        ({"max_steps": 16, "batch_size": 10}, True),  # 160 of 100 rows
        ({"max_steps": 4, "batch_size": 10, "accumulation": 4}, True),
    ],
)
def test_reference_is_computed_once_where_pairs_are_seen_again(config, precomputes):
    assert dpo_of(DPOStageConfig(**config)).precompute_ref_log_probs is precomputes


def test_arguments_that_a_patched_trl_changes_are_refused(monkeypatch):
    from trl import SFTConfig

    as_made = SFTConfig.__post_init__

    def without_bf16(self):
        as_made(self)
        self.bf16 = False

    monkeypatch.setattr(SFTConfig, "__post_init__", without_bf16)
    with pytest.raises(ConfigError, match="trains with bf16 False where the configuration asks for True"):
        sft_arguments(SFTStageConfig(), ModelConfig(dtype="bfloat16"), Path("work"), 3, evaluates=True, rows=100)
    sft_of(SFTStageConfig())
