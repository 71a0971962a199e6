"""Lines that say how far long work has come."""

import logging
import time

_log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 5.0


def time_text(seconds: float) -> str:
    """Return a span of time in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class RowProgress:
    """Logs a line every few seconds: rows done, speed and, where the number of rows is known, time left."""

    def __init__(self, what: str, rows: int | None = None, unit: str = "rows") -> None:
        """Start the clock; ``unit`` is what is counted, where that is not rows."""
        self.what, self.rows, self.unit = what, rows, unit
        self.done = 0
        self.began = self.last_line = time.perf_counter()

    def __call__(self, rows: int) -> None:
        """Count some more rows."""
        self.done += rows
        now = time.perf_counter()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        speed = self.done / (now - self.began)
        of, left = "", ""
        if self.rows is not None:
            of, left = f"/{self.rows:,}", f" · {time_text((self.rows - self.done) / speed)} left"
        words = (self.what, f"{self.done:,}", of, self.unit, f"{speed:,.0f}", self.unit, left)
        _log.info("%s %s%s %s · %s %s/s%s", *words)
