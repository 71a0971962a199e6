"""A real pseudo-terminal for a command, and what a person would see in it."""

import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte

ROWS = 24
SECONDS = 300


@dataclass(frozen=True)
class Seen:
    """Everything that a command wrote to its terminal."""

    written: bytes
    returncode: int
    columns: int

    def screen(self, upto: int | None = None) -> pyte.Screen:
        """Return the terminal after so many bytes; it is long enough that nothing scrolls away."""
        screen = pyte.Screen(self.columns, 400)
        pyte.ByteStream(screen).feed(self.written[:upto])
        return screen

    @property
    def lines(self) -> list[str]:
        """What stands there at the end, without the empty lines below."""
        return shown(self.screen())

    def frames(self) -> list[list[str]]:
        """What stood there whenever the bars had been drawn anew."""
        screen = pyte.Screen(self.columns, 400)
        stream = pyte.ByteStream(screen)
        found = []
        for part in self.written.split(b"\x1b[2K"):
            stream.feed(part)
            found.append(shown(screen))
            stream.feed(b"\x1b[2K")
        return found


def shown(screen: pyte.Screen) -> list[str]:
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def watch(
    command: Sequence[str],
    *,
    columns: int = 80,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
    interrupt_at: bytes | None = None,
) -> Seen:
    """Run a command in a terminal of its own, and send it what Ctrl-C sends once a text has been written."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, columns))
    variables = {
        name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES", "NO_COLOR")
    }
    variables |= {"TERM": "xterm-256color", **(environment or {})}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, cwd=folder, start_new_session=True
    )
    os.close(theirs)
    written, until = b"", time.monotonic() + SECONDS
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that nobody holds the other end any more
                break
            written += part
            if interrupt_at and interrupt_at in written:
                interrupt_at = None
                process.send_signal(signal.SIGINT)
    else:
        process.kill()
    os.close(ours)
    return Seen(written, process.wait(timeout=SECONDS), columns)
