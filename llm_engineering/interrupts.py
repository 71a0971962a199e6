"""What ends a command from outside: Ctrl-C, SIGTERM, and SIGHUP, which a terminal that is closed sends."""

import os
import signal
from pathlib import Path
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hear_interrupts() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does; SIGHUP stays ignored where nohup says so."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    terminals = [number for number in (1, 2) if os.isatty(number)]  # once they are closed, they are none

    def hang_up(number: int, frame: FrameType | None) -> None:
        with Path(os.devnull).open("wb") as nowhere:  # what is still said would fail
            for terminal in terminals:
                os.dup2(nowhere.fileno(), terminal)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGHUP, hang_up)


def ignore_interrupts() -> None:
    """Let nothing of these end what a process has to do before it ends."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
