"""What a training decides while it runs, it decides in two processes as in one; and it tells one tracker."""

import re
from pathlib import Path

import pytest
from token_rows import CHOSEN, NEARLY, PROMPTS

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import CometTracking
from llm_engineering.config.watch import GradientWatch, WatchActions, WatchConfig
from llm_engineering.data.rowsets import PREFERENCE, write_rows
from llm_engineering.errors import TrainingError
from llm_engineering.tracking.archives import read_archive
from llm_engineering.training.dpo import launch_dpo
from llm_engineering.training.sft import launch_sft

pytestmark = pytest.mark.slow
TWO = TorchrunHardware(processes=2)
JUDGED = EvaluationConfig(checker="exact", max_new_tokens=4)


def both(train, config, make_inputs, rows, **changes):
    """Return the reports of a training in this process and in two."""
    return [
        train(config, make_inputs(rows, work, **changes, **hardware))[1]
        for work, hardware in (("one", {}), ("two", {"hardware": TWO}))
    ]


def test_the_best_weights_are_kept_when_patience_ends(ragged_rows, make_inputs, differing):
    config = SFTStageConfig(
        epochs=40, batch_size=2, learning_rate=0.05, evaluation_steps=2, best_metric="loss", patience=2, samples=2
    )
    one, two = both(launch_sft, config, make_inputs, ragged_rows["sft"], evaluation=JUDGED)
    assert one.stopped_early
    assert 0 < one.best_step < one.steps
    assert (two.best_step, two.steps, two.stopped_early) == (one.best_step, one.steps, True)
    assert differing(one, two) == {}
    assert len(two.samples) == 2 * one.steps // 2
    assert two.samples == one.samples


def test_the_watch_stops_at_the_same_step(ragged_rows, make_inputs):
    config = SFTStageConfig(
        max_steps=30, logging_steps=1, learning_rate=0.1, schedule="constant", warmup=0, max_grad_norm=1e9
    )
    watch = WatchConfig(exploding_gradients=GradientWatch(high=1.5), on=WatchActions(exploding_gradients="stop"))
    one, two = both(launch_sft, config, make_inputs, ragged_rows["sft"], watch=watch)
    assert one.stopped_by.name == two.stopped_by.name == "exploding_gradients"
    assert one.steps == two.steps < 30


def test_a_displaced_dpo_starts_anew(knowing, make_inputs, tmp_path):
    sides = enumerate(zip(PROMPTS, CHOSEN, NEARLY, strict=True))
    rows = [{"source": 0, "row": i, "prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for i, (p, c, r) in sides]
    pairs = write_rows(tmp_path / "nearly", {"train": rows}, PREFERENCE)
    config = DPOStageConfig(max_steps=24, logging_steps=2, warmup=6, beta=0.01, learning_rate=3e-2)
    watch = WatchConfig(on=WatchActions(displaced="restart_with_nll"))
    one, two = both(launch_dpo, config, make_inputs, pairs, base=knowing, watch=watch)
    assert one.restarted_with_nll == two.restarted_with_nll == 1.0
    assert two.first_attempt.verdicts == one.first_attempt.verdicts


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_row_that_breaks_the_loss_is_named(stage, poisoned_base, make_inputs, sft_rows, preference_rows):
    settings = {"epochs": 3, "batch_size": 4, "save_steps": 1, "logging_steps": 100}
    train, config = (launch_sft, SFTStageConfig) if stage == "sft" else (launch_dpo, DPOStageConfig)
    rows = sft_rows if stage == "sft" else preference_rows
    with pytest.raises(TrainingError) as caught:
        train(config(**settings), make_inputs(rows, base=poisoned_base, sources=["my.jsonl"], hardware=TWO))
    said = rf"{stage.upper()}: the loss is nan at step \d+, on rows [\d, ]+ and \d of my\.jsonl; alone, row 5 of my"
    assert re.match(said, str(caught.value)), str(caught.value)


def test_the_first_process_alone_tells_comet(ragged_rows, make_inputs, monkeypatch, tmp_path):
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = SFTStageConfig(max_steps=6, batch_size=2, logging_steps=1, evaluation_steps=3)
    inputs = make_inputs(ragged_rows["sft"], hardware=TWO, tracking=CometTracking())
    _, report = launch_sft(config, inputs)
    (archive,) = inputs.archive_dir.glob("*.zip")
    assert archive == Path(report.tracker.offline_archive)
    found = read_archive(archive)
    for name in ("loss", "grad_norm", "eval_loss"):
        assert found.metrics[name] == report.series(name), name
    assert {"adapter_model.safetensors", "sft-samples-step-3.txt"} <= set(found.assets)
