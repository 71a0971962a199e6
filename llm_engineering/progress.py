"""How far long work has come: facts for whoever draws them, and a line in the log now and then.

The library never draws. A terminal that draws takes the facts by :func:`listening`, and leaves out the lines, which all
come from this module's logger.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

_log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Progress:
    """How far one piece of work has come."""

    what: str
    """Its name, such as ``SFT`` or ``tokenised``."""
    done: int
    total: int | None = None
    """None where nobody knows it."""
    unit: str = "rows"
    """What is counted; ``steps`` are a training's."""
    loss: float | None = None
    reward_accuracy: float | None = None
    """Between 0 and 1."""
    speed: float | None = None
    """Per second."""
    speed_unit: str = ""
    seconds_left: float | None = None
    ended: bool = False
    """Nothing more will be said of it."""

    @property
    def count(self) -> str:
        """How much is done, in words."""
        if self.unit == "steps":
            return f"step {self.done}/{self.total}"
        of = "" if self.total is None else f"/{self.total:,}"
        return f"{self.done:,}{of} {self.unit}"

    @property
    def left(self) -> str | None:
        """The time left, in words."""
        return None if self.seconds_left is None else f"{time_text(self.seconds_left)} left"

    @property
    def measures(self) -> list[str]:
        """What is measured, in words, the most telling first."""
        found = []
        if self.loss is not None:
            found.append(f"loss {self.loss:.3f}")
        if self.reward_accuracy is not None:
            found.append(f"reward accuracy {self.reward_accuracy:.0%}")
        if self.speed is not None:
            found.append(f"{self.speed:,.0f} {self.speed_unit}/s")
        return found

    @property
    def line(self) -> str:
        """All of it in one line."""
        parts = [f"{self.what} {self.count}", *self.measures, self.left]
        return " · ".join(part for part in parts if part)


Listener = Callable[[Progress], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hand every progress of this process to ``listener``, for the time of the block; it has to be quick."""
    listen(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def listen(listener: Listener) -> None:
    """Hand every progress of this process to ``listener`` from now on."""
    _listeners.append(listener)


def tell(progress: Progress) -> None:
    """Hand progress to those who listen."""
    for listener in list(_listeners):
        listener(progress)


def log(progress: Progress) -> None:
    """Say progress in a line of the log."""
    _log.info("%s", progress.line)


def time_text(seconds: float) -> str:
    """Return a span of time in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Work:
    """Work that is counted: a line every few seconds with speed and, where the total is known, the time left.

    As a context manager it says at the end of its block that the work has ended.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "rows") -> None:
        """Start the clock; ``unit`` is what is counted, where that is not rows."""
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.began = self.last_line = time.perf_counter()

    def __enter__(self) -> "Work":
        """Say that the work begins."""
        tell(self._progress(self.began))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say that the work has ended, well or not."""
        tell(Progress(self.what, self.done, self.total, self.unit, ended=True))

    def __call__(self, more: int) -> None:
        """Count some more."""
        self.done += more
        now = time.perf_counter()
        progress = self._progress(now)
        tell(progress)
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            log(progress)

    def _progress(self, now: float) -> Progress:
        seconds = now - self.began
        if not (self.done and seconds > 0):
            return Progress(self.what, self.done, self.total, self.unit)
        speed = self.done / seconds
        left = None if self.total is None else (self.total - self.done) / speed
        return Progress(
            self.what, self.done, self.total, self.unit, speed=speed, speed_unit=self.unit, seconds_left=left
        )
