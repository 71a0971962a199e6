"""Stands in for the internet of a cloud's client: named hosts are led to loopback servers, all others are refused.

Clients of Google Cloud and Azure speak TLS to fixed host names. They take a proxy and certificates from the
environment, as in a company's network, so nothing of them has to be replaced: a proxy on loopback leads each
connection to the server that plays the host, behind a certificate of an authority made for this emulation alone. gRPC
reads certificates once a process: whoever uses it can be led to one such internet in its life.
"""

import asyncio
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, Self

import trustme

from tools.stack_rehearsal.standins.loop import Loop
from tools.stack_rehearsal.standins.loopback import HOST, listening_socket


class Internet:
    """A proxy for ``CONNECT`` on a free port, for ``with``."""

    def __init__(self, folder: Path) -> None:
        """Make the certificate authority; its certificate is written into a folder."""
        self._authority = trustme.CA()
        self._certificates = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self._certificates))
        self._hosts: dict[str, tuple[int, ssl.SSLContext]] = {}
        self.refused: set[str] = set()
        """Hosts that somebody wanted and that nobody plays."""
        self._open = ExitStack()
        self.port = 0

    def __enter__(self) -> Self:
        loop = self._open.enter_context(Loop("internet stand-in"))
        loop.run(self._listen())
        self._open.callback(lambda: loop.run(self._close()))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def lead(self, host: str, port: int, protocol: Literal["h2", "http/1.1"] = "http/1.1") -> None:
        """Lead connections to a host to a server that speaks without TLS on a port of this machine.

        Args:
            host: Without a port: 443 is meant.
            port: Where the server listens.
            protocol: What it speaks; gRPC is h2.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host).configure_cert(context)
        context.set_alpn_protocols([protocol])
        self._hosts[host] = (port, context)

    @property
    def environment(self) -> dict[str, str]:
        """What makes clients come here, in the names of requests, OpenSSL and gRPC."""
        proxy = f"http://{HOST}:{self.port}"
        certificates = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},localhost"),
            **dict.fromkeys(certificates, str(self._certificates)),
        }

    async def _listen(self) -> None:
        listener = listening_socket()
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._answer, sock=listener)

    async def _close(self) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        # asyncio's streams report a connection that is cancelled, as all are at the end, as an error of their own.
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split()
            host = target.rpartition(":")[0]
            if method == "CONNECT" and host in self._hosts:
                port, context = self._hosts[host]
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.start_tls(context)
                inner_reader, inner_writer = await asyncio.open_connection(HOST, port)
                writers.append(inner_writer)
                await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
            else:
                self.refused.add(host)
                writer.write(b"HTTP/1.1 403 Nobody plays this host\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                await reader.read()  # until the client has read the answer and hangs up
        for each in writers:
            each.transport.abort()
            with suppress(ConnectionError, ssl.SSLError):
                await each.wait_closed()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
