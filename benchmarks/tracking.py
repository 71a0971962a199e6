"""What tracking with Comet costs a training: SFT of the embedded default, tracked and untracked in turns.

Both train the same rows from the same weights in one process. Time is the training thread's CPU time, from the first
update to the last; the whole process's CPU time stands beside it, with Comet's own threads in it. The calls to the
tracker are timed on their own, too, since they are a small part of a noisy whole. Starting and ending an experiment is
done once a stage, not per update; it is timed in wall-clock seconds.
"""

import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console
from rich.table import Table

from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import CometTracking, NoTracking
from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from tools.environment import set_environment


@dataclass
class Cost:
    """CPU seconds of one training."""

    thread: float = 0.0
    process: float = 0.0
    calls: float = 0.0
    """Of ``thread``, those in calls to the tracker."""
    around: float = 0.0
    """Wall-clock seconds of the stage's start and end at the tracker."""


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Trainings with and without tracking, each.")
@click.option("--steps", default=100, show_default=True, help="Updates of a training.")
@click.option("--logging-steps", default=None, type=int, help="Updates between two logs; the default's if not given.")
def main(rounds: int, steps: int, logging_steps: int | None) -> None:
    """Measure and print a table."""
    overrides = [f"sft.max_steps={steps}", *([f"sft.logging_steps={logging_steps}"] if logging_steps else [])]
    config = load_config([DEFAULT_CONFIG], overrides)
    os.environ.pop("COMET_API_KEY", None)  # offline archives: nothing is sent
    set_environment(config)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        train = prepared(config, Path(folder))
        train(False)  # warms up
        costs: dict[bool, list[Cost]] = {True: [], False: []}
        for number in range(rounds):
            for tracked in (True, False) if number % 2 else (False, True):
                costs[tracked].append(train(tracked))
    Console(highlight=False).print(table(config, costs))


def prepared(config: RunConfig, folder: Path) -> Callable[[bool], Cost]:
    """Return a function that trains, tracked or not, and returns what it cost."""
    from llm_engineering.data.loading import load_raw_rows
    from llm_engineering.data.preparation import prepare_rows
    from llm_engineering.models.chat import load_chat_tokenizer
    from llm_engineering.models.checkpoints import locate_base
    from llm_engineering.training.inputs import StageInputs
    from llm_engineering.training.sft import train_sft

    base = locate_base(config.model)
    chat = load_chat_tokenizer(base, config.model)
    raw = load_raw_rows(config.data, config.seed, folder / "raw")
    rows = prepare_rows(raw, config.data, chat, config.seed, folder / "rows")

    def train(tracked: bool) -> Cost:
        with tempfile.TemporaryDirectory(dir=folder) as work, timed() as cost:
            inputs = StageInputs(
                base=base,
                rows=rows.sft,
                questions=rows.questions,
                model=config.model,
                adapter=config.adapter,
                evaluation=config.evaluation,
                tracking=CometTracking() if tracked else NoTracking(),
                seed=config.seed,
                run="benchmark",
                work_dir=Path(work) / "work",
                archive_dir=Path(work) / "comet",
            )
            train_sft(config.sft, inputs)
        return cost

    return train


@contextmanager
def timed() -> Iterator[Cost]:
    """Time the training loop and, within it, the calls to the tracker; and the experiment's start and end."""
    from llm_engineering.tracking import comet
    from llm_engineering.tracking.tracker import Tracker
    from llm_engineering.training.sft_trainer import PreparedSFTTrainer

    cost = Cost()

    def clocked(action: Callable[..., Any], clocks: dict[str, Callable[[], float]]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            before = {name: clock() for name, clock in clocks.items()}
            try:
                return action(*args, **kwargs)
            finally:
                for name, clock in clocks.items():
                    setattr(cost, name, getattr(cost, name) + clock() - before[name])

        return run

    places: list[tuple[Any, str, dict[str, Callable[[], float]]]] = [
        (PreparedSFTTrainer, "train", {"thread": time.thread_time, "process": time.process_time}),
        (Tracker, "log_metrics", {"calls": time.thread_time}),
        (comet, "_start", {"around": time.perf_counter}),
        (comet, "_end", {"around": time.perf_counter}),
    ]
    own = [getattr(holder, name) for holder, name, _ in places]
    for holder, name, clocks in places:
        setattr(holder, name, clocked(getattr(holder, name), clocks))
    try:
        yield cost
    finally:
        for (holder, name, _), action in zip(places, own, strict=True):
            setattr(holder, name, action)


def table(config: RunConfig, costs: dict[bool, list[Cost]]) -> Table:
    """Return medians over the rounds."""

    def median(tracked: bool, name: str) -> float:
        return statistics.median(getattr(cost, name) for cost in costs[tracked])

    steps = config.sft.max_steps or 0
    found = Table(title=f"SFT, {steps} updates, a log every {config.sft.logging_steps}, median of {len(costs[True])}")
    for column in ("", "untracked", "tracked", "more"):
        found.add_column(column, justify="right" if column else "left")
    for label, name in (
        ("training thread, ms CPU an update", "thread"),
        ("whole process, ms CPU an update", "process"),
    ):
        without, with_it = median(False, name), median(True, name)
        more = f"{100 * (with_it / without - 1):+.1f} %"
        found.add_row(label, f"{1000 * without / steps:.2f}", f"{1000 * with_it / steps:.2f}", more)
    share = statistics.median(cost.calls / cost.thread for cost in costs[True])
    found.add_row("calls to the tracker, share of the thread", "-", f"{100 * share:.2f} %", "")
    found.add_row("start and end of the stage, seconds", "-", f"{median(True, 'around'):.1f}", "")
    return found


if __name__ == "__main__":
    main()
