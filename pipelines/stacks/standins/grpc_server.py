"""Serves gRPC methods on loopback: what the stand-ins of Modal and Vertex AI listen with."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

SECONDS_TO_START = 10.0


@dataclass(frozen=True)
class Method:
    """One unary method of a service."""

    path: str
    """``/package.Service/Method``."""
    request: type[Message]
    reply: type[Message]
    answer: Callable[[Any], Message]
    """Takes the request, returns the reply. It runs in the server's thread, one call at a time."""


class GrpcServer:
    """Answers methods from a thread of its own, on a free port. What it does not know is ``UNIMPLEMENTED`` to a client."""

    def __init__(self, methods: Sequence[Method], certificate: ssl.SSLContext | None = None) -> None:
        self._methods = methods
        self._certificate = certificate
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gRPC stand-in", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(SECONDS_TO_START)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(SECONDS_TO_START)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __mapping__(self) -> dict[str, Any]:
        """Return the handlers by path: what ``grpclib.server.Server`` asks of a service."""
        return {
            method.path: Handler(partial(_serve, method), Cardinality.UNARY_UNARY, method.request, method.reply)
            for method in self._methods
        }

    async def _listen(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server = Server([self])
        await self._server.start(sock=listening, ssl=self._certificate)

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


async def _serve(method: Method, stream: Stream[Any, Any]) -> None:
    request = await stream.recv_message()
    assert request is not None
    await stream.send_message(method.answer(request))
