"""Serves stand-ins on free ports of loopback, and records what they are asked."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import Any

HOST = "127.0.0.1"


def listening_socket() -> socket.socket:
    """Return a socket that listens on a free port.

    Who connects before the server is up waits for it: no port is guessed, and nobody has to ask twice.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((HOST, 0))
    listener.listen(128)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of what listens there."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """Serve an ASGI application in a thread until the block ends, and give its address."""
    import uvicorn

    config = uvicorn.Config(application, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    with listening_socket() as listener:
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="stand-in")
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


class Recording:
    """All requests that changed something, one JSON object a line.

    The file is a secret, which only its owner may read: the tokens that ZenML gives to a run stand in what it submits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def add(self, action: str, body: object) -> None:
        """Note what was asked for, and with which body."""
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"action": action, "body": body}) + "\n")

    def bodies(self, action: str) -> list[dict[str, Any]]:
        """Return the bodies of all requests for an action, in order."""
        entries = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return [entry["body"] for entry in entries if entry["action"] == action]
