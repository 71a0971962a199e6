"""Callbacks that every training has: progress lines, the tracker's series, the watch."""

import logging
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llm_engineering import progress
from llm_engineering.config.watch import WatchConfig
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import Verdict
from llm_engineering.tracking import Tracker
from llm_engineering.training.watch import Judge, acting, history_of

_log = logging.getLogger(__name__)


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Tells after every step how far a training has come, and logs a line now and then."""

    def __init__(self, stage: str, unit: str, units_per_step: float) -> None:
        self.stage = stage
        self.unit = unit
        self.units_per_step = units_per_step
        self.began, self.first_step, self.last_line = 0.0, 0, 0.0
        self.loss: float | None = None
        self.reward_accuracy: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.began, self.first_step = time.perf_counter(), state.global_step
        progress.tell(self._progress(state, self.began))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell the step."""
        progress.tell(self._progress(state, time.perf_counter()))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Tell what was measured, and log a line, unless the last one was a moment ago."""
        if "loss" not in logs:
            return
        now = time.perf_counter()
        self.loss, self.reward_accuracy = logs["loss"], logs.get("rewards/accuracies")
        found = self._progress(state, now)
        progress.tell(found)
        if found.speed is not None and now - self.last_line >= progress.SECONDS_BETWEEN_LINES:
            self.last_line = now
            progress.log(found)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell that the training has ended."""
        progress.tell(progress.Progress(self.stage, state.global_step, state.max_steps, "steps", ended=True))

    def _progress(self, state: TrainerState, now: float) -> progress.Progress:
        """Return the facts; speed and time left once two steps were timed."""
        speed = left = None
        if (done := state.global_step - self.first_step) >= 2:
            per_step = (now - self.began) / done
            speed, left = self.units_per_step / per_step, per_step * (state.max_steps - state.global_step)
        return progress.Progress(
            self.stage,
            state.global_step,
            state.max_steps,
            "steps",
            loss=self.loss,
            reward_accuracy=self.reward_accuracy,
            speed=speed,
            speed_unit=self.unit,
            seconds_left=left,
        )


class Watch(TrainerCallback):  # type: ignore[misc]
    """Says in a line what the curves newly show, and ends the stage where the configuration asks for it.

    It keeps nothing that decides: everything comes from the log, which a checkpoint holds, so that a training that was
    killed is judged, and stopped, at the step at which it would have been.
    """

    def __init__(self, stage: StageName, watch: WatchConfig, judge: Judge) -> None:
        self.stage, self.watch, self.judge = stage, watch, judge
        self.said: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note of what was said before an interruption."""
        found = self.judge(history_of(state.log_history), state.max_steps, self.watch)
        self.said |= {verdict.name for verdict in found}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log wherever a checkpoint is written, since Trainer forgets what it had not logged, and the last step."""
        control.should_log |= control.should_save or state.global_step >= state.max_steps

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Judge what is logged so far, once the step's evaluation is in."""
        evaluated = any(name.startswith("eval_") for name in logs)
        if "train_runtime" in logs or (control.should_evaluate and not evaluated):
            return
        found = self.judge(history_of(state.log_history), state.max_steps, self.watch)
        ends = acting(found, self.watch.on) if state.global_step < state.max_steps else []
        for verdict in found:
            if verdict.name not in self.said:
                self._say(verdict, state.global_step, "; the stage ends here" if verdict in ends else "")
        if ends:
            control.should_training_stop = control.should_save = True

    def _say(self, verdict: Verdict, step: int, consequence: str) -> None:
        self.said.add(verdict.name)
        name = verdict.name.replace("_", " ")
        words = (self.stage.upper(), step, name, consequence, verdict.evidence, verdict.remedy)
        _log.warning("%s step %d: %s%s. %s %s", *words)


class TrackSeries(TrainerCallback):  # type: ignore[misc]
    """Hands every logged number to the experiment tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Pass the numbers on."""
        self.tracker.log_metrics(logs, step=state.global_step)
