"""Two processes train what one does: curves, gradient norms, held-out metrics and weights, in every strategy.

Rows are ragged, updates accumulate, and the last batch of the epoch has a row for one process alone. On a CPU sharding
needs a patch of accelerate (``sharding_on_cpu``), which is no part of the product; nccl and GPUs are not in this.
"""

import os
from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.model import FullFineTuning, LoraAdapter
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import ProofError
from llm_engineering.training.dpo import launch_dpo
from llm_engineering.training.sft import launch_sft

pytestmark = pytest.mark.slow
COMMON = {
    "batch_size": 2,
    "accumulation": 3,
    "epochs": 2,
    "logging_steps": 1,
    "save_steps": 3,
    "evaluation_steps": 2,
    "learning_rate": 1e-2,
}
STAGES = {
    "sft": (launch_sft, SFTStageConfig(**COMMON)),
    "dpo": (launch_dpo, DPOStageConfig(**COMMON, nll_weight=0.5, reference="on_the_fly")),
}
LORA, FULL = LoraAdapter(r=4, alpha=8), FullFineTuning()
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or os.environ.get("DS_ACCELERATOR") != "cpu",
    reason="needs the extra deepspeed, and DS_ACCELERATOR=cpu",
)


def both(stage, adapter, strategy, rows, make_inputs, **changes):
    """Train in this process and in two; return the checkpoints and the reports."""
    train, config = STAGES[stage]
    config = config.model_copy(update=changes)
    hardware = TorchrunHardware(processes=2, strategy=strategy)
    return (
        train(config, make_inputs(rows[stage], "one", adapter=adapter)),
        train(config, make_inputs(rows[stage], "two", adapter=adapter, hardware=hardware)),
    )


def require_same(one, two, differing):
    assert len([entry for entry in one.history if "grad_norm" in entry]) == 4
    assert differing(one, two) == {}
    assert (one.rows, one.steps, one.effective_batch) == (two.rows, two.steps, two.effective_batch)
    assert (one.trainable_parameters, one.parameters) == (two.trainable_parameters, two.parameters)


@pytest.mark.parametrize("stage", STAGES)
def test_ddp_trains_the_same_adapter_on_the_fast_path(stage, ragged_rows, make_inputs, differing, weights_of):
    (alone, one), (shared, two) = both(stage, LORA, "ddp", ragged_rows, make_inputs)
    require_same(one, two, differing)
    assert (one.path, two.path) == ("fast", "fast")
    assert (two.processes, two.strategy) == (2, "ddp")
    assert two.hardware.startswith("2 processes (ddp), each on CPU")
    require_same_adapter(weights_of(alone), weights_of(shared))


def test_ddp_trains_all_weights(ragged_rows, make_inputs, differing):
    (alone, one), (shared, two) = both("sft", FULL, "ddp", ragged_rows, make_inputs)
    require_same(one, two, differing)
    require_same_model(alone, shared)
    assert alone.path.joinpath("config.json").read_bytes() == shared.path.joinpath("config.json").read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_fsdp2_trains_the_same_adapter_and_gives_it_whole(
    stage, ragged_rows, make_inputs, differing, weights_of, sharding_on_cpu
):
    (alone, one), (shared, two) = both(stage, LORA, "fsdp", ragged_rows, make_inputs)
    require_same(one, two, differing)
    assert two.path == "TRL's own: sharded weights"
    require_same_adapter(weights_of(alone), weights_of(shared))


@pytest.mark.parametrize("stage", STAGES)
def test_fsdp2_trains_all_weights_and_gives_a_model_that_loads(
    stage, ragged_rows, make_inputs, differing, sharding_on_cpu
):
    (alone, one), (shared, two) = both(stage, FULL, "fsdp", ragged_rows, make_inputs)
    require_same(one, two, differing)
    require_same_model(alone, shared)
    if stage == "dpo":
        assert two.reference.reference_sha256_after == two.reference.reference_sha256_before == two.reference.sft_sha256


@needs_deepspeed
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.parametrize("stage", STAGES)
def test_deepspeed_trains_the_same_adapter(
    stage, strategy, ragged_rows, make_inputs, differing, weights_of, sharding_on_cpu
):
    (alone, one), (shared, two) = both(stage, LORA, strategy, ragged_rows, make_inputs)
    require_same(one, two, differing)
    require_same_adapter(weights_of(alone), weights_of(shared))


@needs_deepspeed
@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.parametrize("stage", STAGES)
def test_deepspeed_trains_all_weights(stage, strategy, ragged_rows, make_inputs, differing, sharding_on_cpu):
    changes = {"reference": "stored"} if stage == "dpo" else {}
    (alone, one), (shared, two) = both(stage, FULL, strategy, ragged_rows, make_inputs, **changes)
    require_same(one, two, differing)
    require_same_model(alone, shared)


def require_same_model(one, two):
    first, second = (AutoModelForCausalLM.from_pretrained(folder.path).state_dict() for folder in (one, two))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def require_same_adapter(one, two):
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_what_falls_back_to_another_strategy_does_not_start(ragged_rows, make_inputs, monkeypatch):
    # accelerate shards nothing on a CPU, and says nothing of it
    monkeypatch.setattr("llm_engineering.training.launcher.require_devices", lambda hardware: None)
    inputs = make_inputs(ragged_rows["sft"], hardware=TorchrunHardware(processes=2, strategy="fsdp"))
    with pytest.raises(ProofError) as caught:
        launch_sft(STAGES["sft"][1], inputs)
    words = "hardware asks for 2 processes with the strategy fsdp, and 2 processes with the strategy ddp would train"
    assert str(caught.value).startswith(words)
