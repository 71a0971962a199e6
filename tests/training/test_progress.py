import logging
from types import SimpleNamespace

import pytest

from llm_engineering.config.watch import WatchActions, WatchConfig
from llm_engineering.progress import time_text
from llm_engineering.training.progress import Progress, TrackSeries, Watch
from llm_engineering.training.watch import judge_sft

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


def test_every_series_reaches_the_tracker_with_its_step():
    seen = []
    tracker = SimpleNamespace(log_metrics=lambda metrics, step: seen.append((metrics, step)))
    TrackSeries(tracker).on_log(FP32, state(7), None, {"loss": 1.0, "eval_loss": 2.0})
    assert seen == [({"loss": 1.0, "eval_loss": 2.0}, 7)]


EXPLODING = [{"loss": 1.0, "grad_norm": 50.0, "step": step} for step in range(1, 8)]
STOPS = WatchConfig(on=WatchActions(exploding_gradients="stop"))


def watched(entries, watch, callback=None, should_evaluate=False):
    """Log entries one by one, as a trainer does, and return the callback and what it asked for after each."""
    callback, history, asked = callback or Watch("sft", watch, judge_sft), [], []
    for entry in entries:
        control = SimpleNamespace(should_training_stop=False, should_save=False, should_evaluate=should_evaluate)
        history.append(entry)
        seen = SimpleNamespace(global_step=entry["step"], max_steps=100, log_history=history)
        callback.on_log(FP32, seen, control, entry)
        asked.append((control.should_training_stop, control.should_save))
    return callback, asked


def test_new_verdict_is_said_once_and_a_warning_stops_nothing(caplog):
    _, asked = watched(EXPLODING, WatchConfig())
    (said,) = caplog.messages
    assert said.startswith("SFT step 5: exploding gradients. From step 1 to 5 the median of the gradient norm")
    assert set(asked) == {(False, False)}


def test_verdict_that_stops_ends_the_stage_with_a_checkpoint(caplog):
    _, asked = watched(EXPLODING[:5], STOPS)
    assert asked == [(False, False)] * 4 + [(True, True)]
    assert "SFT step 5: exploding gradients; the stage ends here." in caplog.messages[0]


def test_step_is_judged_once_its_evaluation_is_in():
    callback, asked = watched(EXPLODING[:5], STOPS, should_evaluate=True)
    assert set(asked) == {(False, False)}
    _, asked = watched([*EXPLODING[:5], {"eval_loss": 1.0, "step": 5}], STOPS, callback, should_evaluate=True)
    assert asked[-1] == (True, True)


def test_resumed_training_does_not_repeat_what_was_said_but_stops_all_the_same(caplog):
    callback = Watch("sft", STOPS, judge_sft)
    callback.on_train_begin(FP32, SimpleNamespace(log_history=EXPLODING[:5], max_steps=100), None)
    _, asked = watched(EXPLODING, STOPS, callback)
    assert not caplog.messages
    assert asked[-1] == (True, True)


def test_last_step_is_no_stop():
    seen = SimpleNamespace(global_step=7, max_steps=7, log_history=EXPLODING)
    control = SimpleNamespace(should_training_stop=True, should_save=False, should_evaluate=False)
    Watch("sft", STOPS, judge_sft).on_log(FP32, seen, control, EXPLODING[-1])
    assert not control.should_save


@pytest.mark.parametrize(("step", "saves", "logs"), [(3, True, True), (3, False, False), (100, False, True)])
def test_checkpoint_is_written_after_a_log_and_the_last_step_is_logged(step, saves, logs):
    control = SimpleNamespace(should_save=saves, should_log=False)
    Watch("sft", WatchConfig(), judge_sft).on_step_end(FP32, state(step), control)
    assert control.should_log is logs
