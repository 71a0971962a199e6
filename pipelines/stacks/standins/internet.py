"""Stands in for the internet of a cloud's client: named hosts are led to loopback servers, all others are refused.

Clients of Google Cloud and Azure speak TLS to fixed host names. They take a proxy and certificates from the environment,
as in a company's network, so nothing of them has to be replaced: a proxy on loopback leads each connection to the server
that plays the host, which shows a certificate of an authority made for this rehearsal alone.
"""

import asyncio
import socket
import ssl
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import trustme

from pipelines.stacks.standins.loop import Loop

LOOPBACK = "127.0.0.1,localhost"


class Internet:
    """A proxy for ``CONNECT`` on a free port, for ``with``."""

    def __init__(self, folder: Path) -> None:
        """Make the certificate authority; its certificate is written into a folder."""
        self._authority = trustme.CA()
        self._certificates = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self._certificates))
        self._ports: dict[str, int] = {}
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

    def certificate_for(self, *hosts: str, protocols: tuple[str, ...] = ("h2", "http/1.1")) -> ssl.SSLContext:
        """Return what a server that plays hosts shows to its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*hosts).configure_cert(context)
        context.set_alpn_protocols(list(protocols))
        return context

    def lead(self, host: str, port: int) -> None:
        """Lead connections to a host, at 443, to a port of this machine."""
        self._ports[host] = port

    @property
    def environment(self) -> dict[str, str]:
        """What makes clients come here, in the names of requests, OpenSSL and gRPC."""
        proxy = f"http://127.0.0.1:{self.port}"
        certificates = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), LOOPBACK),
            **dict.fromkeys(certificates, str(self._certificates)),
        }

    async def _listen(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server = await asyncio.start_server(self._answer, sock=listening)

    async def _close(self) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split()
            host = target.rpartition(":")[0]
            if method == "CONNECT" and host in self._ports:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._ports[host])
                await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
            else:
                self.refused.add(host)
                writer.write(b"HTTP/1.1 403 Nobody plays this host\r\nContent-Length: 0\r\n\r\n")
        writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
