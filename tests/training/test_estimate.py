"""The estimate against arithmetic, against a published guide, and against what a training took."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from llm_engineering.config.data import DataConfig, FileSource, SampledSource, SampleSettings
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.model import DoraAdapter, FullFineTuning, LoraAdapter, ModelConfig, QloraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.models.checkpoints import EMBEDDED_FOLDER
from llm_engineering.planning.estimate import (
    Estimate,
    Machine,
    Range,
    StageRows,
    estimate,
    rows_of,
    stage_flops,
    stage_memory,
    trained_parameters,
)
from llm_engineering.planning.estimate_text import estimate_facts, span_of_bytes, span_of_seconds
from llm_engineering.planning.shape import LinearLayers, ModelShape, read_shape
from llm_engineering.reports.data import DatasetReport, Histogram
from llm_engineering.reports.folders import StageName

GPU = Machine("a GPU", on_gpu=True, speed=1e14, measured=False)
CPU = Machine("a CPU", on_gpu=False, speed=1e11, measured=True)
# One layer with one linear layer of 10 inputs and 20 outputs, and embeddings of 100 tokens that are the head, too.
SMALL = ModelShape(
    model_type="llama",
    parameters=1200,
    hidden=10,
    layers=1,
    vocabulary=100,
    key_value_width=10,
    tied=True,
    linear=(LinearLayers("up_proj", 10, 20, 1),),
)
LLAMA = {"vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}
LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
PLAIN = {"batch_size": 2, "max_steps": 3}


def config(**changes: Any) -> RunConfig:
    return RunConfig(**{"adapter": LoraAdapter(r=4), "model": ModelConfig(dtype="float32")} | changes)


def shape_of(folder: Path, tied: bool, **sizes: Any) -> ModelShape:
    LlamaConfig(**LLAMA, **sizes, tie_word_embeddings=tied, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    return read_shape(folder)


def test_shapes_are_those_of_the_real_model(tmp_path: Path) -> None:
    embedded = read_shape(EMBEDDED_FOLDER)
    assert (embedded.parameters, embedded.layers, embedded.vocabulary) == (902272, 4, 1152)
    assert shape_of(tmp_path, True, **LLAMA_1B).parameters == 1_235_814_400
    GPT2Config(architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    gpt2 = read_shape(tmp_path)
    assert gpt2.parameters == 124_439_808
    assert LinearLayers("c_attn", 768, 2304, 12) in gpt2.linear  # transformers' Conv1D keeps (inputs, outputs)


@pytest.mark.parametrize(
    ("strategy", "weights", "state", "more"),
    [
        ("ddp", 1, 1, {"gradients on their way": 4 * 1200}),
        ("deepspeed_zero2", 1, 1 / 4, {}),
        # two layers of 10 x 20, and embeddings of 100 x 10, in four bytes
        ("fsdp", 1 / 4, 1 / 4, {"gathered layers": 4 * (2 * 200 + 1000)}),
        ("deepspeed_zero3", 1 / 4, 1 / 4, {"gathered layers": 4 * (2 * 200 + 1000)}),
    ],
)
def test_four_processes_share_what_their_strategy_shares(
    strategy: Any, weights: float, state: float, more: dict[str, float]
) -> None:
    asked = {"batch_size": 8, "max_steps": 3, "optimizer": "adamw_torch"}
    run = config(adapter=FullFineTuning(), hardware=TorchrunHardware(processes=4, strategy=strategy))
    found = stage_memory(run, SFTStageConfig(**asked), "sft", SMALL, StageRows(10, 5.0, 7), on_gpu=False)
    alone = stage_memory(
        config(adapter=FullFineTuning()), SFTStageConfig(**asked), "sft", SMALL, StageRows(10, 5.0, 7), on_gpu=False
    )
    assert found == {
        **alone,
        "weights": weights * 4 * 1200,
        "gradients": state * 4 * 1200,
        "optimizer": state * 8 * 1200,
        "activations": alone["activations"] / 4,
        "logits": alone["logits"] / 4,  # 8 x 7 tokens, and 2 x 7 in each process: fewer than a chunk
        **more,
    }


def test_gpus_share_the_time_and_load_the_model_once_each() -> None:
    rows: dict[StageName, StageRows] = {"sft": StageRows(10, 5.0, 7)}
    run = config(adapter=FullFineTuning(), hardware=TorchrunHardware(processes=4, strategy="fsdp"))
    shared, alone = (estimate(each, SMALL, rows, GPU) for each in (run, config(adapter=FullFineTuning())))
    assert shared.stages["sft"].seconds.high == pytest.approx(alone.stages["sft"].seconds.high / 4)
    assert (shared.loading, alone.loading) == (4 * 4 * 1200, 0)
    assert "in each of 4 processes" in estimate_facts(shared)["sft memory"]


def test_trained_parameters_are_pefts_own() -> None:
    import torch
    from peft import get_peft_model

    from llm_engineering.models.adapters import adapter_config
    from llm_engineering.models.checkpoints import load_model

    for adapter in (LoraAdapter(r=4), DoraAdapter(r=3, targets=["q_proj", "down_proj"])):
        model = load_model(EMBEDDED_FOLDER, torch.float32)
        wrapped = get_peft_model(model, adapter_config(adapter, model))
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        assert trained_parameters(config(adapter=adapter), read_shape(EMBEDDED_FOLDER)) == trained


def test_memory_is_the_sum_of_its_parts() -> None:
    settings = SFTStageConfig(**PLAIN)
    # trained: 4 * (10 + 20) = 120; a layer keeps 2 * 20 + 5 * 10 = 90 numbers of each of 2 * 7 tokens
    assert stage_memory(config(), settings, "sft", SMALL, StageRows(10, 5.0, 7), on_gpu=False) == {
        "weights": 4 * 1200,
        "adapter": 4 * 120,
        "gradients": 4 * 120,
        "optimizer": 8 * 120,
        "activations": 2 * 7 * 90 * 4,
        "logits": 2 * 4 * 14 * 100,
        "reference": 0,
    }


def test_checkpointing_keeps_the_inputs_of_the_layers_and_one_layer() -> None:
    settings = SFTStageConfig(**PLAIN, gradient_checkpointing=True)
    memory = stage_memory(config(), settings, "sft", SMALL, StageRows(10, 5.0, 7), on_gpu=False)
    assert memory["activations"] == 2 * 7 * (10 + 90) * 4


def test_dpo_sees_two_answers_and_its_reference_costs_no_weights() -> None:
    settings, rows = DPOStageConfig(**PLAIN), StageRows(10, 5.0, 7)
    memory = stage_memory(config(), settings, "dpo", SMALL, rows, on_gpu=False)
    assert memory["activations"] == 2 * 2 * 7 * 90 * 4
    assert memory["reference"] == 0


def test_trls_own_path_of_dpo_holds_all_logits() -> None:
    rows = StageRows(10, 5.0, 700)
    own, fast = (
        stage_memory(config(), DPOStageConfig(**PLAIN, fast_path=path), "dpo", SMALL, rows, on_gpu=False)["logits"]
        for path in ("off", "auto")
    )
    assert (own, fast) == (2 * 4 * 2 * 2 * 700 * 100, 2 * 4 * 256 * 100)


def test_half_precision_halves_frozen_weights_and_activations_only() -> None:
    settings, rows = SFTStageConfig(**PLAIN), StageRows(10, 5.0, 7)
    half = stage_memory(config(model=ModelConfig()), settings, "sft", SMALL, rows, on_gpu=True)
    assert (half["weights"], half["activations"]) == (2 * 1200, 2 * 7 * 90 * 2)
    assert (half["adapter"], half["optimizer"]) == (4 * 120, 8 * 120)


def test_operations_are_those_of_frozen_weights_and_an_adapter() -> None:
    rows = StageRows(10, 5.0, 7)
    # 3 steps of 2 rows of 5 tokens; forward and backward through 1200 frozen parameters, and 120 trained ones
    assert stage_flops(config(), SFTStageConfig(**PLAIN), "sft", SMALL, rows) == 6 * 5 * (4 * 1200 + 6 * 120)
    again = stage_flops(config(), SFTStageConfig(**PLAIN, gradient_checkpointing=True), "sft", SMALL, rows)
    assert again == 6 * 5 * (6 * 1200 + 6 * 120)
    # the reference's forward pass over the same 6 rows
    assert stage_flops(config(), DPOStageConfig(**PLAIN), "dpo", SMALL, rows) == 6 * 5 * (6 * 1200 + 6 * 120)


def test_a_stored_reference_is_computed_once_a_row() -> None:
    rows, settings = StageRows(10, 5.0, 7), DPOStageConfig(epochs=3, batch_size=10)
    assert stage_flops(config(), settings, "dpo", SMALL, rows) == 5 * (30 * (4 * 1200 + 6 * 120) + 10 * 2 * 1200)
    for change in ({"reference_free": True}, {"loss": "simpo"}):
        free = settings.model_copy(update=change)
        assert stage_flops(config(), free, "dpo", SMALL, rows) == 5 * 30 * (4 * 1200 + 6 * 120)


def guide(shape: ModelShape, longest: int, **changes: Any) -> Estimate:
    """Return the estimate of the Axolotl guide's own setting: r 32, two rows a pass, DPO one pair, TRL's trainers."""
    sizes = {"gradient_checkpointing": True, "fast_path": "off"}
    settings = RunConfig(
        **{"adapter": LoraAdapter(r=32, alpha=64)} | changes,
        model=ModelConfig(dtype="bfloat16"),
        sft=SFTStageConfig(batch_size=2, accumulation=4, **sizes),
        dpo=DPOStageConfig(batch_size=1, accumulation=8, **sizes),
        evaluation=EvaluationConfig(batch_size=8),
    )
    rows = StageRows(1000, 400.0, longest)
    return estimate(settings, shape, {"sft": rows, "dpo": rows}, GPU)


@pytest.mark.parametrize(
    ("sizes", "sft", "dpo"), [(LLAMA_1B, (4e9, 6e9), (8e9, 10e9)), (LLAMA_8B, (16e9, 20e9), (24e9, 32e9))]
)
def test_memory_overlaps_the_axolotl_guides(
    sizes: dict[str, int], sft: tuple[float, float], dpo: tuple[float, float], tmp_path: Path
) -> None:
    shape = shape_of(tmp_path, sizes is LLAMA_1B, **sizes)
    assert overlap(guide(shape, 1024).stages["sft"].peak, sft)
    # The guide's numbers for DPO fit rows of its longest length, all of whose logits are held.
    assert overlap(guide(shape, 2048).stages["dpo"].peak, dpo)


def test_eight_billion_parameters_in_four_bits_take_about_ten_gigabytes(tmp_path: Path) -> None:
    peak = guide(shape_of(tmp_path, False, **LLAMA_8B), 1024, adapter=QloraAdapter(r=32)).stages["sft"].peak
    assert overlap(peak, (9e9, 11e9))


def test_full_fine_tuning_holds_sixteen_bytes_a_parameter_and_a_reference() -> None:
    rows = StageRows(10, 5.0, 7)
    memory = stage_memory(config(adapter=FullFineTuning()), DPOStageConfig(**PLAIN), "dpo", SMALL, rows, on_gpu=False)
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * 1200
    assert memory["reference"] == 4 * 1200
    without = DPOStageConfig(loss="orpo", **PLAIN)
    assert stage_memory(config(adapter=FullFineTuning()), without, "dpo", SMALL, rows, False)["reference"] == 0


@pytest.mark.parametrize(("optimizer", "each"), [("adamw_torch", 8), ("adamw_8bit", 2), ("rmsprop", 4), ("sgd", 0)])
def test_an_optimizers_state_is_counted_by_its_kind(optimizer: Any, each: int) -> None:
    settings = SFTStageConfig(**PLAIN, optimizer=optimizer)
    memory = stage_memory(config(), settings, "sft", SMALL, StageRows(10, 5.0, 7), on_gpu=True)
    assert memory["optimizer"] == each * 120


def overlap(span: Range, other: tuple[float, float]) -> bool:
    return span.low <= other[1] and other[0] <= span.high


MEASURED = """
import sys
from pathlib import Path

import datasets, peft, torch, transformers
from transformers import Trainer  # loaded now, not while memory is measured

from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.training import dpo_trainer, sft_trainer
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.sft import train_sft
from llm_engineering.training.inputs import StageInputs

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
base = locate_base(ModelConfig(base=str(folder)))
ids = [[10 + (7 * row + position) % 1000 for position in range(256)] for row in range(16)]
index = [{"source": 0, "row": i} for i in range(16)]
rows = {
    "sft": ([row | {"input_ids": x, "labels": x} for row, x in zip(index, ids)], SFT),
    "dpo": ([row | {"prompt_ids": x[:4], "chosen_ids": x[4:128], "rejected_ids": x[132:]}
             for row, x in zip(index, ids)], PREFERENCE),
}

def resident(name):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(name + ":")[2].split()[0]) * 1024

(torch.randn(512, 512) @ torch.randn(512, 512)).sum()
before = resident("VmRSS")
for stage, train, settings in (("sft", train_sft, SFTStageConfig), ("dpo", train_dpo, DPOStageConfig)):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    stage_rows, schema = rows[stage]
    train(settings(max_steps=1, batch_size=8), StageInputs(
        base=base, rows=write_rows(work / f"{stage}-rows", {"train": stage_rows}, schema),
        questions=write_rows(work / f"{stage}-questions", {"train": []}, QUESTIONS), model=ModelConfig(),
        adapter=LoraAdapter(r=8), evaluation=EvaluationConfig(), tracking=NoTracking(), seed=1, run="memory",
        work_dir=work / stage, archive_dir=work / "comet"))
    print("measured", stage, resident("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 7 million parameters, whose activations outweigh what a process takes anyway."""
    import shutil

    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("memory")
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1152,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=3,
        )
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(EMBEDDED_FOLDER / name, folder / name)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
def test_memory_is_within_a_factor_of_two_of_what_a_training_takes(wide_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(wide_base), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("measured")]
    measured = {stage: int(size) for _, stage, size in lines}
    settings = config(
        adapter=LoraAdapter(r=8),
        sft=SFTStageConfig(max_steps=2, batch_size=8),
        dpo=DPOStageConfig(max_steps=2, batch_size=8),
    )
    rows: dict[StageName, StageRows] = {"sft": StageRows(16, 256.0, 256), "dpo": StageRows(16, 256.0, 128)}
    found = estimate(settings, read_shape(wide_base), rows, CPU).stages
    for stage in rows:
        peak = found[stage].peak
        assert peak.low / 2 < measured[stage] < peak.high * 2, (stage, found[stage].memory, measured)


def report(**lengths: list[int]) -> DatasetReport:
    """Return a report of training rows of such lengths, by kind."""
    names = {f"{kind}/train": values for kind, values in lengths.items()}
    return DatasetReport(
        sources=[],
        template="",
        eos_token="",
        tokens={name: sum(values) for name, values in names.items()},
        trained_tokens={},
        longest={name: max(values) for name, values in names.items()},
        lengths={name: Histogram(edges=[0, 100], counts=[len(values)]) for name, values in names.items()},
        fingerprints={},
        mask_proof="",
        split_proof="",
        examples=[],
    )


def test_rows_are_scaled_to_those_that_were_not_read() -> None:
    found = rows_of(report(sft=[4, 6], preference=[10, 20]), config(), {"sft": 0.1, "preference": 1.0})
    assert found == {"sft": StageRows(20, 5.0, 6), "dpo": StageRows(2, 15.0, 20)}


def test_a_source_with_a_count_gives_no_more_than_it() -> None:
    data = DataConfig(sft=[FileSource(path="rows.jsonl", count=7)])
    assert rows_of(report(sft=[4, 6]), config(data=data), {"sft": 0.1})["sft"].rows == 7


def test_sampled_pairs_are_an_upper_bound() -> None:
    sample = SampledSource(sample=SampleSettings(checker="exact", num_samples=6, pairing="disjoint", max_prompts=3))
    found = rows_of(report(sft=[4, 6, 5, 5]), config(data=DataConfig(preference=[sample])))
    assert found["dpo"] == StageRows(9, 10.0, 6, at_most=True)


def test_an_estimate_is_shown_rounded_and_as_a_range() -> None:
    assert span_of_bytes(Range(3.84e9, 5.47e9)) == "3.8 to 5.5 GB"
    assert span_of_bytes(Range(8.2e8, 1.24e9)) == "820 MB to 1.2 GB"
    assert span_of_seconds(Range(7_000, 25_000)) == "1.9 to 6.9 h"
    assert span_of_seconds(Range(0.2, 0.9)) == "0.2 to 0.9 s"
    facts = estimate_facts(estimate(config(sft=SFTStageConfig(**PLAIN)), SMALL, {"sft": StageRows(10, 5.0, 7)}, CPU))
    assert facts["parameters"] == "1,200, 120 trained (10.0%)"
    assert facts["sft"].startswith("3 updates, ")
    assert "measured here" in facts["speed"]
