"""Serves gRPC methods on loopback: what the stand-ins of Modal and Vertex AI listen with."""

import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from pipelines.stacks.standins.loop import Loop


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
    """Answers methods on a free port, for ``with``. A client that calls another one is told ``UNIMPLEMENTED``."""

    def __init__(self, methods: Sequence[Method], certificate: ssl.SSLContext | None = None) -> None:
        self._methods = methods
        self._certificate = certificate
        self._open = ExitStack()
        self.port = 0

    def __enter__(self) -> Self:
        loop = self._open.enter_context(Loop("gRPC stand-in"))
        loop.run(self._listen())
        self._open.callback(lambda: loop.run(self._close()))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __mapping__(self) -> dict[str, Handler]:
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


async def _serve(method: Method, stream: Stream[Any, Any]) -> None:
    request = await stream.recv_message()
    assert request is not None
    await stream.send_message(method.answer(request))
