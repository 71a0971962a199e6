"""Serves gRPC methods on loopback: what the stand-ins of Modal and Vertex AI listen with."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from tools.stack_rehearsal.standins.loop import Loop
from tools.stack_rehearsal.standins.loopback import listening_socket


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

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = methods
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
        listener = listening_socket()
        self.port = listener.getsockname()[1]
        self._server = _Server([self])
        await self._server.start(sock=listener)

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        self._server.hang_up()


class _Server(Server):  # type: ignore[misc]  # grpclib is not installed where types are checked
    """Remembers its connections: grpclib leaves it to clients to close them, which they do when their process ends."""

    def __init__(self, services: Sequence[Any]) -> None:
        super().__init__(services)
        self._accepted: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        self._accepted.append(super()._protocol_factory())
        return self._accepted[-1]

    def hang_up(self) -> None:
        for protocol in self._accepted:
            protocol.connection.close()


async def _serve(method: Method, stream: Stream[Any, Any]) -> None:
    request = await stream.recv_message()
    assert request is not None
    await stream.send_message(method.answer(request))
