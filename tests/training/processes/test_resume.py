"""An interrupted training goes on in another number of processes."""

from pathlib import Path

import psutil
import pytest
import torch

from llm_engineering import progress
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import TrainingError
from llm_engineering.training.dpo import launch_dpo
from llm_engineering.training.recovery import last_checkpoint, step_of
from llm_engineering.training.sft import launch_sft

pytestmark = pytest.mark.slow
TWO = TorchrunHardware(processes=2)
COMMON = {"batch_size": 2, "max_steps": 10, "save_steps": 4, "logging_steps": 1, "learning_rate": 1e-2}
STAGES = {"sft": (launch_sft, SFTStageConfig(**COMMON)), "dpo": (launch_dpo, DPOStageConfig(**COMMON))}


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_goes_on_from_a_checkpoint_of_two(stage, ragged_rows, make_inputs, weights_of, workers_of):
    train, config = STAGES[stage]
    whole, _ = train(config, make_inputs(ragged_rows[stage], "whole"))
    interrupted = make_inputs(ragged_rows[stage], "interrupted", hardware=TWO)

    def kill(found):
        if found.unit == "steps" and found.done >= 6:
            for worker in workers_of(psutil.Process().pid).values():
                worker.kill()

    with progress.listening(kill), pytest.raises(TrainingError):
        train(config, interrupted)
    checkpoint = last_checkpoint(interrupted.work_dir)
    assert checkpoint is not None
    taken_up, report = train(config, make_inputs(ragged_rows[stage], "interrupted"))
    assert report.resumed_from == step_of(checkpoint) >= 4
    require_same(weights_of(whole), weights_of(taken_up))


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_go_on_from_a_checkpoint_of_one(stage, ragged_rows, make_inputs, weights_of, killed_at):
    train, config = STAGES[stage]
    whole, _ = train(config, make_inputs(ragged_rows[stage], "whole"))
    with killed_at(6):
        train(config, make_inputs(ragged_rows[stage], "interrupted"))
    inputs = make_inputs(ragged_rows[stage], "interrupted", hardware=TWO)
    taken_up, report = train(config, inputs)
    assert (report.resumed_from, report.steps) == (4, 10)
    require_same(weights_of(whole), weights_of(taken_up))
    written = {path.name for path in Path(inputs.work_dir).iterdir()}
    assert {"adapter", "checkpoint-8", "checkpoint-10", "processes"} <= written


def require_same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
