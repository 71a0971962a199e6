"""What a person sees while a run goes on: a header, one line a step, progress, and no noise of libraries."""

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering import progress
from llm_engineering.plain_text import plain
from pipelines.launching.step_facts import StepFact, fact_of
from tools.console.progress_bars import Bars

_OURS = ("llm_engineering", "pipelines", "steps", "tools")
REFRESHES_PER_SECOND = 5


class RunConsole(Console):
    """The console of a run: quiet where that is asked for, with live bars where a person looks on."""

    def __init__(self, stream: TextIO, *, quiet: bool, bars: bool) -> None:
        super().__init__(file=stream, highlight=False, quiet=quiet)
        self.asked_quiet = quiet
        self._wants_bars = bars and not quiet
        self.bars: Bars | None = None
        """Those that are drawn now."""
        self._alone: AbstractContextManager[object] = nullcontext()

    @contextmanager
    def progress(self, count_steps: Callable[[], int | None] | None = None) -> Iterator[None]:
        """Draw bars for the time of the block, where there are to be any; nothing of them stays behind.

        Args:
            count_steps: Gives the number of steps, once the first one has begun.
        """
        if not self._wants_bars:
            yield
            return
        self.bars = Bars(count_steps)
        live = _Live(
            self.bars,
            console=self,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,  # open_console has done so, below ZenML's own
            redirect_stderr=False,
        )
        self._alone = live.alone
        try:
            with progress.listening(self.bars.show):
                with undisturbed():
                    live.start(refresh=True)
                yield
        finally:
            with undisturbed():
                live.stop()
                self.bars, self._alone = None, nullcontext()

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does; an interrupt waits for the end of the line and of the bars below it."""
        with undisturbed(), self._alone:
            super().print(*objects, **how)

    def speak(self) -> None:
        """Show from now on what has to be seen, quiet or not: what was decided, and where things lie."""
        self.quiet = False


class _Live(Live):
    @property
    def alone(self) -> AbstractContextManager[object]:
        """Hold back the thread that draws the bars anew (rich's issue 1530).

        It moves the cursor by what it drew last; a line rendered by another thread and not yet written is overwritten.
        """
        return self._lock


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM for the time of a short block: half a drawing would stay on the screen."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread alone
        return
    arrived: list[int] = []
    handlers = {
        int(number): signal.signal(number, lambda arriving, frame: arrived.append(arriving))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not None  # None: not set by Python, and cannot be set again
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in arrived:
        signal.raise_signal(number)


@contextmanager
def open_console(*, quiet: bool = False, verbose: bool = False) -> Iterator[RunConsole]:
    """Give the console of a run, and take over stdout and stderr for the time of the block.

    It has to be opened before ZenML is imported: ZenML then copies into its step logs what libraries print, and
    nothing of what this console draws.

    Args:
        quiet: Show nothing before :meth:`RunConsole.speak`, and nothing that libraries print.
        verbose: Draw no bars: the lines of all libraries are shown as they come.
    """
    stdout, stderr = sys.stdout, sys.stderr
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="replace")  # a stream that knows no ✓ stops no run
    console = RunConsole(
        cast("TextIO", Outlet(stdout)), quiet=quiet, bars=not verbose and draws_bars(stdout, os.environ)
    )
    sys.stdout = cast("TextIO", Printed(stdout, console, muted=quiet))
    sys.stderr = cast("TextIO", Printed(stderr, console))
    try:
        yield console
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = stdout, stderr


def draws_bars(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether a person looks at a stream that can move its cursor; a CI's log, a pipe and a file cannot."""
    in_ci = environment.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not in_ci and environment.get("TERM", "").lower() not in ("", "dumb", "unknown")


class Outlet(io.TextIOBase):
    """Writes to a stream until its reader leaves, and then to nowhere: a run piped to ``head`` goes on to its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._write = stream.write  # as it is now: ZenML replaces the attribute

    def write(self, text: str) -> int:
        """Write text."""
        with self._until_the_reader_leaves():
            self._write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        with self._until_the_reader_leaves():
            self._stream.flush()

    @contextmanager
    def _until_the_reader_leaves(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal was closed
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

    @property
    def buffer(self) -> Any:
        """The stream's bytes, for who writes bytes."""
        return getattr(self._stream, "buffer", None)

    def fileno(self) -> int:
        """Return the stream's."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()


class Printed(Outlet):
    """Stands in for stdout or stderr: while bars are drawn, whole lines go above them."""

    def __init__(self, stream: TextIO, console: RunConsole, *, muted: bool = False) -> None:
        super().__init__(stream)
        self._console, self._muted = console, muted
        self._begun = ""
        """A line without its end."""

    def write(self, text: str) -> int:
        """Write text."""
        if self._muted:
            return len(text)
        if self._console.bars is None or not self.isatty():
            return super().write(text)
        *lines, rest = (self._begun + text).split("\n")
        self._begun = rest.rpartition("\r")[2]
        for line in lines:
            # what a bar of another kind has overwritten itself
            self._console.print(Text.from_ansi(line.rstrip("\r").rpartition("\r")[2]))
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered, and a line that was begun above bars that are gone."""
        if self._console.bars is None and self._begun:
            begun, self._begun = self._begun, ""
            super().write(f"{begun}\n")
        super().flush()


class Lines(logging.Handler):
    """Shows the project's own messages, and of ZenML's only which step has finished or was cached."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, if it is one to show."""
        bars = getattr(self.console, "bars", None)
        if fact := fact_of(record):
            self._show_step(fact, bars)
        elif bars is not None and record.name == progress.__name__:
            return  # it is drawn
        elif record.name.split(".")[0] in _OURS:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            text = Text(plain(record.getMessage()), style=style)
            self.console.print(Padding(text, (0, 0, 0, 2), expand=False))

    def _show_step(self, fact: StepFact, bars: Bars | None) -> None:
        if bars is not None:
            bars.take(fact)
        if fact.state != "begun":
            self.console.print(Text.assemble(("✓ ", "green"), f"{fact.name:<19} ", (fact.took or fact.state, "dim")))


def take_over_logging(console: Console) -> None:
    """Replace ZenML's console output by :class:`Lines`; ZenML's own step logs stay whole."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.StreamHandler | Lines):
            root.removeHandler(handler)
    root.addHandler(Lines(console))


def facts_table(facts: dict[str, str]) -> Table:
    """Return names and values in two columns, as text that is shown as it is."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table
