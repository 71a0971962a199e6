"""The line between the processes of a training and the one that started them: JSON on a local socket.

It tells both sides that the other one is there. A worker whose line is cut has lost its parent and ends at once, even
in the middle of a collective operation; a parent that is killed leaves nobody behind.
"""

import logging
import os
import queue
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from llm_engineering.progress import Progress

ORPHANED = 113
"""Exit code of a worker that has lost its parent."""


class Told(BaseModel):
    """How far the work has come."""

    kind: Literal["told"] = "told"
    progress: Progress


class Logged(BaseModel):
    """A line of the log."""

    kind: Literal["logged"] = "logged"
    logger: str
    level: int
    text: str


class Failed(BaseModel):
    """An error that ended a process."""

    kind: Literal["failed"] = "failed"
    rank: int
    error: str
    """Name of its class."""
    text: str


class Died(BaseModel):
    """The end of a process that could say nothing any more."""

    kind: Literal["died"] = "died"
    rank: int
    signal: str
    """Its name, such as ``SIGKILL``."""


class Ended(BaseModel):
    """The end of the process that watches over the others; what it knew has been said before."""

    kind: Literal["ended"] = "ended"
    code: int


Message = Annotated[Told | Logged | Failed | Died | Ended, Field(discriminator="kind")]
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


class Link:
    """A worker's end of the line."""

    def __init__(self, address: str) -> None:
        """Take up the line at an address, and end this process when it is cut."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(address)
        self.sending = threading.Lock()
        threading.Thread(target=self._end_with_parent, daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message; nothing is waited for."""
        with self.sending:
            self.socket.sendall(message.model_dump_json().encode() + b"\n")

    def _end_with_parent(self) -> None:
        with suppress(OSError):
            self.socket.recv(1)  # nothing is ever sent this way: it returns when the line is cut
        os._exit(ORPHANED)


class LogToLink(logging.Handler):
    """Sends log records to the parent, whose own loggers decide what becomes of them."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self.link.send(Logged(logger=record.name, level=record.levelno, text=record.getMessage()))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, messages: "queue.Queue[Message]") -> None:
        self.messages = messages
        self.lines: list[socket.socket] = []
        super().__init__(address, _Reader)


class _Reader(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.lines.append(self.connection)
        try:
            for line in self.rfile:
                if line.endswith(b"\n"):  # a killed process may leave half a message
                    self.server.messages.put(_MESSAGE.validate_json(line))
        except OSError:  # the line was cut while it was read
            pass


@contextmanager
def listening_at(address: Path) -> "Iterator[queue.Queue[Message]]":
    """Give the messages that arrive at an address, for the time of the block; its end cuts all lines."""
    messages: queue.Queue[Message] = queue.Queue()
    server = _Server(str(address), messages)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield messages
    finally:
        server.shutdown()
        server.server_close()
        for line in server.lines:
            _cut(line)


def _cut(line: socket.socket) -> None:
    with suppress(OSError):  # its worker has ended
        line.shutdown(socket.SHUT_RDWR)
    line.close()
