"""How processes share batches, what is refused before any of them starts, and what they are told."""

import pytest
import torch
from torch.utils.data import SequentialSampler

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.errors import ConfigError, ProofError
from llm_engineering.models import hardware
from llm_engineering.models.hardware import require_devices
from llm_engineering.reports.folders import RowSet
from llm_engineering.tracking import Account, Origin
from llm_engineering.training.arguments import require_shares
from llm_engineering.training.processes.batches import STAND_IN, RowsWithStandIn, SharedBatches, share_of
from llm_engineering.training.processes.strategy import prove_strategy
from llm_engineering.training.processes.task import Task, read_task, write_task
from llm_engineering.training.sft import sft_arguments

TORCHRUN = "hardware={type: torchrun, processes: 2, strategy: "


def test_a_batch_is_cut_into_shares_that_differ_by_one_row_at_most():
    assert [share_of([7, 8, 9, 10], p, 2) for p in range(2)] == [[7, 8], [9, 10]]
    assert [share_of([7, 8, 9, 10, 11], p, 3) for p in range(3)] == [[7, 8], [9, 10], [11]]
    assert [share_of([7], p, 3) for p in range(3)] == [[7], [], []]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 5, 12, 13])
def test_every_row_is_taken_once_and_every_process_computes_as_often(rows, processes):
    shares = [list(SharedBatches(SequentialSampler(range(rows)), 12, p, processes)) for p in range(processes)]
    assert {len(batches) for batches in shares} == {-(-rows // 12)}
    taken = [row for batches in shares for batch in batches for row in batch if row != STAND_IN]
    assert sorted(taken) == list(range(rows))


def test_a_process_without_a_row_gets_the_stand_in():
    (batch,) = SharedBatches(SequentialSampler(range(1)), 4, 1, 2)
    rows = RowsWithStandIn([{"input_ids": [5]}], {"input_ids": [2, 2]})
    assert [rows[index] for index in batch] == [{"input_ids": [2, 2]}]
    assert len(rows) == 1


def test_batches_that_do_not_divide_are_refused_with_key_and_values():
    four = TorchrunHardware(processes=4)
    assert require_shares("sft", SFTStageConfig(batch_size=8), four) == 2
    with pytest.raises(ConfigError, match=r"dpo\.batch_size 6 .* hardware\.processes 4\. Make it a multiple\."):
        require_shares("dpo", DPOStageConfig(batch_size=6), four)


def test_each_process_takes_its_part_of_the_batch(tmp_path):
    model = load_config(["training"]).model
    config = SFTStageConfig(batch_size=8, accumulation=3)
    arguments = sft_arguments(config, model, tmp_path, 1, True, 100, hardware=TorchrunHardware(processes=4))
    found = arguments.per_device_train_batch_size, arguments.per_device_eval_batch_size
    assert found == (2, 8)
    assert arguments.gradient_accumulation_steps == 3


@pytest.mark.parametrize(
    ("gpus", "cores", "processes", "words"),
    [
        (2, 64, 3, "hardware.processes 3 is more than this machine has GPUs (2)"),
        (0, 2, 3, "hardware.processes 3 is more than this machine has CPU cores, without a GPU (2)"),
    ],
)
def test_more_processes_than_devices_are_refused(gpus, cores, processes, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    with pytest.raises(ConfigError) as caught:
        require_devices(TorchrunHardware(processes=processes))
    assert str(caught.value).startswith(words)
    require_devices(TorchrunHardware(processes=2))


def test_sharding_needs_gpus(monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    with pytest.raises(ConfigError, match=r"hardware\.strategy fsdp shares weights out among GPUs and there is none"):
        require_devices(TorchrunHardware(processes=2, strategy="fsdp"))


def test_missing_deepspeed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs DeepSpeed\. Install the extra: pip install .*\[deepspeed\]"):
        require_devices(TorchrunHardware(processes=2, strategy="deepspeed_zero2"))


@pytest.mark.parametrize(
    ("strategy", "settings", "words"),
    [
        ("ddp", ["model.backend={type: unsloth}"], "hardware.type torchrun needs model.backend {type: peft}"),
        ("ddp", ["dpo.loss=aot"], "dpo.loss aot sorts the pairs of a batch"),
        ("fsdp", ["adapter={type: dora}"], "adapter.type dora needs whole weights"),
        ("fsdp", ["adapter={type: qlora, bits: 8}"], "adapter.type qlora with 8 bits does not go with"),
        ("deepspeed_zero3", ["adapter={type: qlora}"], "adapter.type qlora with 4 bits does not go with"),
        ("fsdp", ["sft.optimizer=adamw_8bit"], "sft.optimizer adamw_8bit needs whole weights"),
        ("fsdp", ["sft.best_metric=loss", "sft.evaluation_steps=5"], "sft.best_metric does not go with"),
        ("fsdp", ["dpo.compile=true"], "dpo.compile does not go with"),
    ],
)
def test_what_a_strategy_cannot_do_is_refused_with_the_configuration(strategy, settings, words):
    with pytest.raises(ConfigError) as caught:
        load_config(["8b-lora-ddp"], [f"{TORCHRUN}{strategy}}}", *settings])
    assert words in str(caught.value)


def test_noise_that_each_process_draws_alone_is_warned_of():
    config = load_config(["8b-lora-ddp"], ["adapter.dropout=0.1"])
    assert [warning.split(" is drawn")[0] for warning in config.warnings] == ["adapter.dropout"]
    assert not load_config(["8b-lora-ddp"]).warnings


def test_checkpoints_of_one_process_and_of_ddp_are_of_one_kind():
    kinds = {s: TorchrunHardware(processes=2, strategy=s).sharding for s in ("ddp", "fsdp", "deepspeed_zero2")}
    assert kinds == {"ddp": "none", "fsdp": "fsdp", "deepspeed_zero2": "deepspeed_zero2"}


def test_a_task_comes_back_from_its_file_which_holds_no_key(preference_rows: RowSet, make_inputs, tmp_path):
    origin = Origin(run="towns", account=Account(api_key="a-secret", workspace="me"))
    hardware = TorchrunHardware(processes=2)
    inputs = make_inputs(preference_rows, origin=origin, hardware=hardware)
    task = Task("dpo", "llm_engineering.training.dpo:train_dpo", DPOStageConfig(beta=0.3), inputs)
    environment = write_task(task, tmp_path / "task.json")
    assert environment == {"COMET_API_KEY": "a-secret"}
    assert "a-secret" not in (tmp_path / "task.json").read_text()
    found = read_task(tmp_path / "task.json")
    assert (found.stage, found.train, found.config) == (task.stage, task.train, DPOStageConfig(beta=0.3))
    assert (found.inputs.base, found.inputs.rows, found.inputs.hardware) == (
        task.inputs.base,
        task.inputs.rows,
        hardware,
    )
    assert found.inputs.origin.account == Account(api_key=None, workspace="me")


class OneProcess:
    """What a trainer says that accelerate runs in one process."""

    class accelerator:
        num_processes = 1

        class distributed_type:
            value = "NO"


def test_a_training_that_is_not_shared_out_as_asked_does_not_start():
    asked = TorchrunHardware(processes=2, strategy="fsdp")
    words = "hardware asks for 2 processes with the strategy fsdp, and 1 process with the strategy none would train"
    with pytest.raises(ProofError, match=words):
        prove_strategy(OneProcess, torch.nn.Linear(1, 1), asked)
