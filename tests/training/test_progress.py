import logging
import math
from types import SimpleNamespace

import pytest

from llm_engineering.data.progress import time_text
from llm_engineering.errors import TrainingError
from llm_engineering.training.progress import FiniteLoss, Progress, TrackSeries

FP32 = SimpleNamespace(fp16=False)


def state(step, max_steps=100):
    return SimpleNamespace(global_step=step, max_steps=max_steps)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("llm_engineering.training.progress.time.perf_counter", lambda: now.seconds)
    return now


def test_line_tells_step_loss_speed_and_time_left(clock, caplog):
    progress = Progress("SFT", "tokens", units_per_step=3000)
    progress.on_train_begin(FP32, state(0), None)
    clock.seconds += 20
    with caplog.at_level(logging.INFO):
        progress.on_log(FP32, state(10), None, {"loss": 1.23456})
    # 2 s a step: 3000 / 2 tokens a second, (100 - 10) * 2 s = 180 s left
    assert caplog.messages == ["SFT step 10/100 · loss 1.235 · 1,500 tokens/s · 3 min 00 s left"]


def test_line_of_dpo_tells_the_reward_accuracy(clock, caplog):
    progress = Progress("DPO", "pairs", units_per_step=8)
    progress.on_train_begin(FP32, state(0), None)
    clock.seconds += 10
    with caplog.at_level(logging.INFO):
        progress.on_log(FP32, state(20, 40), None, {"loss": 0.5, "rewards/accuracies": 0.75})
    assert caplog.messages == ["DPO step 20/40 · loss 0.500 · reward accuracy 75% · 16 pairs/s · 10 s left"]


def test_resumed_training_counts_its_own_steps_only(clock, caplog):
    progress = Progress("SFT", "tokens", units_per_step=10)
    progress.on_train_begin(FP32, state(50), None)
    clock.seconds += 10
    with caplog.at_level(logging.INFO):
        progress.on_log(FP32, state(60), None, {"loss": 1.0})
    # 10 steps in 10 s, not 60
    assert caplog.messages == ["SFT step 60/100 · loss 1.000 · 10 tokens/s · 40 s left"]


def test_lines_are_five_seconds_apart_and_leave_out_evaluations(clock, caplog):
    progress = Progress("SFT", "tokens", units_per_step=10)
    progress.on_train_begin(FP32, state(0), None)
    with caplog.at_level(logging.INFO):
        for step, name in [(1, "loss"), (3, "loss"), (4, "loss"), (6, "eval_loss"), (7, "loss")]:
            clock.seconds += 3
            progress.on_log(FP32, state(step), None, {name: 1.0})
    # step 1 tells no speed yet, step 4 comes 3 s after step 3, an evaluation is no step
    assert [message.split(" ·")[0] for message in caplog.messages] == ["SFT step 3/100", "SFT step 7/100"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3600, "60 min 00 s")]
)
def test_duration(seconds, said):
    assert time_text(seconds) == said


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_no_number_stops_training(name, value):
    with pytest.raises(TrainingError, match=f"{name} is {value} at step 12. Lower the learning rate"):
        FiniteLoss().on_log(FP32, state(12), None, {"loss": 1.0, "grad_norm": 1.0} | {name: value})


def test_gradient_overflow_in_float16_is_left_to_the_loss_scaler():
    FiniteLoss().on_log(SimpleNamespace(fp16=True), state(1), None, {"loss": 1.0, "grad_norm": math.inf})
    with pytest.raises(TrainingError):
        FiniteLoss().on_log(SimpleNamespace(fp16=True), state(1), None, {"loss": math.nan})


def test_other_series_may_be_anything():
    FiniteLoss().on_log(FP32, state(1), None, {"loss": 1.0, "eval_loss": math.nan})


def test_every_series_reaches_the_tracker_with_its_step():
    seen = []
    tracker = SimpleNamespace(log_metrics=lambda metrics, step: seen.append((metrics, step)))
    TrackSeries(tracker).on_log(FP32, state(7), None, {"loss": 1.0, "eval_loss": 2.0})
    assert seen == [({"loss": 1.0, "eval_loss": 2.0}, 7)]
