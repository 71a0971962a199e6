"""A rehearsal is the user's run, but small, published nowhere, and without what needs a GPU."""

from typing import Any

import pytest

from llm_engineering.config.data import (
    DataConfig,
    EmbeddedSource,
    FileSource,
    HubSource,
    RulesConfig,
    SampledSource,
    SampleSettings,
)
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.export import ExportConfig
from llm_engineering.config.hardware import LocalHardware, TorchrunHardware
from llm_engineering.config.model import LoraAdapter, ModelConfig, PeftBackend, QloraAdapter, UnslothBackend
from llm_engineering.config.run import RunConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.config.watch import WatchActions, WatchConfig
from llm_engineering.config.yaml.loader import CONFIGS_DIR, load_config
from llm_engineering.planning.rehearsal import ORDERED_BY, STEPS, Rehearsal, judge, rehearsal_of
from llm_engineering.scoring.checkers import load_checker


def rehearsed(**changes: Any) -> Rehearsal:
    return rehearsal_of(RunConfig(**changes), "/tiny", "0123456789abcdef")


def test_it_has_a_name_of_its_own_and_publishes_nothing() -> None:
    config = rehearsed(name="towns", export=ExportConfig(dir="aligned")).config
    assert config.name == "towns-rehearsal-012345"
    assert config.export.dir is None
    assert config.tracking == NoTracking()
    assert len(rehearsed(name="t" * 80).config.name) <= 80


@pytest.mark.parametrize(
    ("devices", "instead", "words"),
    [
        (2, TorchrunHardware(processes=2), "2 processes (ddp) stand in."),
        (1, LocalHardware(), "one process stands in."),
    ],
)
def test_many_gpus_are_rehearsed_in_as_many_processes_as_there_are_devices(
    devices: int, instead: object, words: str
) -> None:
    config = RunConfig(hardware=TorchrunHardware(processes=8, strategy="fsdp"), sft=SFTStageConfig(batch_size=16))
    found = rehearsal_of(config, "/tiny", "0123456789abcdef", devices)
    assert found.config.hardware == instead
    assert found.config.sft.batch_size == 2
    assert f"hardware (8 processes, fsdp) is not rehearsed; {words}" in found.changes


def test_rows_steps_and_answers_are_few() -> None:
    config = rehearsed(
        data=DataConfig(
            sft=[FileSource(path="a.jsonl"), FileSource(path="b.jsonl", first=7), EmbeddedSource(embedded=True)],
            preference=[HubSource(hub="org/name")],
        ),
        sft=SFTStageConfig(epochs=3, batch_size=64, accumulation=8, warmup=100, save_steps=500),
        dpo=DPOStageConfig(max_steps=2, batch_size=1, warmup=0.1),
        evaluation=EvaluationConfig(max_new_tokens=200, sampled_answers=4),
    ).config
    assert [source.first for _, source in config.data.row_sources] == [500, 7, None, 500]
    assert (config.sft.max_steps, config.sft.batch_size, config.sft.accumulation, config.sft.warmup) == (6, 2, 2, 3)
    assert (config.dpo.max_steps, config.dpo.batch_size, config.dpo.accumulation, config.dpo.warmup) == (2, 1, 1, 0.1)
    assert (config.evaluation.max_new_tokens, config.evaluation.max_questions) == (16, 8)
    assert config.evaluation.sampled_answers == 1


def test_what_shapes_the_data_stays_the_users() -> None:
    data = DataConfig(
        sft=[FileSource(path="a.jsonl", first=3, weight=2.0, columns={"instruction": "q"})],
        max_length=77,
        evaluation_share=0.3,
        rules=RulesConfig(exact_duplicate="error"),
    )
    assert rehearsed(data=data).config.data == data


def test_settings_that_shape_the_training_stay_the_users() -> None:
    dpo = DPOStageConfig(beta=0.3, loss="ipo", learning_rate=3e-6, nll_weight=0.5, schedule="linear", max_grad_norm=2)
    config = rehearsed(dpo=dpo).config.dpo
    limits = {"max_steps": None, "batch_size": 8, "logging_steps": 10, "save_steps": 50}
    assert config.model_copy(update=limits | {"kl_answers": 16, "reference": "auto"}) == dpo


def test_half_precision_is_replaced_and_said() -> None:
    found = rehearsed(model=ModelConfig(dtype="float16"))
    assert found.config.model.dtype == "float32"
    assert "model.dtype float16 is not rehearsed; float32 stands in." in found.changes


def test_settings_that_need_a_gpu_are_replaced_and_said() -> None:
    found = rehearsed(
        adapter=QloraAdapter(r=7, bits=4),
        model=ModelConfig(dtype="bfloat16", attention="flash_attention_2"),
        sft=SFTStageConfig(optimizer="paged_adamw_8bit", evaluation_examples=1000),
    )
    assert found.config.adapter == LoraAdapter(r=7)
    assert found.config.sft.optimizer == "adamw_torch_fused"
    assert found.config.sft.evaluation_steps == 3
    said = " ".join(found.changes)
    assert all(name in said for name in ("qlora (4 bits)", "attention flash_attention_2", "optimizer paged_adamw_8bit"))


def test_sampled_pairs_are_ordered_at_random_and_the_checker_judges_the_evaluation() -> None:
    sample = SampledSource(sample=SampleSettings(checker="exact", num_samples=4, max_new_tokens=72))
    found = rehearsed(data=DataConfig(sft=[EmbeddedSource(embedded=True)], preference=[sample]))
    assert found.config.data.sampling == SampleSettings(
        checker=ORDERED_BY, num_samples=4, max_new_tokens=16, max_prompts=24, batch_size=16
    )
    assert found.config.evaluation.checker == "exact"
    assert any("exact judges the evaluation" in sentence for sentence in found.changes)
    assert load_checker(ORDERED_BY)("a", "b") == judge("a", "c") != judge("b", "c")


@pytest.mark.parametrize(
    ("dpo", "reference"),
    [
        (DPOStageConfig(epochs=1), "on_the_fly"),
        (DPOStageConfig(epochs=3), "stored"),
        (DPOStageConfig(reference="stored"), "stored"),
        (DPOStageConfig(loss="simpo"), "auto"),
        (DPOStageConfig(reference_free=True), "auto"),
    ],
)
def test_the_reference_is_scored_as_the_real_run_would(dpo: DPOStageConfig, reference: str) -> None:
    assert rehearsed(dpo=dpo).config.dpo.reference == reference


def test_another_backend_is_replaced_and_said() -> None:
    found = rehearsed(model=ModelConfig(backend=UnslothBackend()))
    assert found.config.model.backend == PeftBackend()
    assert "model.backend unsloth is not rehearsed; peft stands in." in found.changes


def test_the_watch_neither_speaks_nor_acts_in_a_rehearsal() -> None:
    watch = rehearsed(watch=WatchConfig(on=WatchActions(unstable="stop", displaced="restart_with_nll"))).config.watch
    assert watch.on == WatchActions()
    assert watch.min_points > STEPS


RUNS = sorted(path for path in CONFIGS_DIR.rglob("*.yaml") if path.parent.name != "stacks")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_configuration_can_be_rehearsed(path: Any) -> None:
    config = load_config([path])
    assert rehearsal_of(config, "/tiny", "0123456789").config.name == f"{config.name}-rehearsal-012345"
