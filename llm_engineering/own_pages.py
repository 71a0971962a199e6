"""Whom a server without accounts answers: programs, and the pages that it served itself.

A browser lets every page send requests to this machine, some of them unasked. It names the page's origin with all that
change something and all whose answer the page may read. A page whose own name was pointed at this machine counts as the
server's there, and is known by the Host that the browser still sends.
"""

import ipaddress
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST_VARIABLE = "LLM_ENGINEERING_SERVED_HOST"
"""Environment variable with the address that is listened at: servers make a middleware without arguments."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class OwnPages:
    """ASGI middleware that answers a foreign Host with 400, and a foreign Origin with 403.

    Own are loopback's Hosts and the address that is listened at, on any port, and the Origin of the same Host and port.
    Where all addresses are listened at, the names that lead here are unknown: any Host is own, and then no Origin is.
    """

    def __init__(self, app: "ASGIApp") -> None:
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        host = os.environ.get(HOST_VARIABLE, LOOPBACK[0])
        self._app = app
        self._any_host = _means_all_addresses(host)
        hosts = ["*"] if self._any_host else [*LOOPBACK, in_address(host)]
        self._guarded = TrustedHostMiddleware(self._refuse_foreign_origin, hosts, www_redirect=False)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or hand it on."""
        await self._guarded(scope, receive, send)

    async def _refuse_foreign_origin(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        headers = Headers(scope=scope) if scope["type"] in ("http", "websocket") else Headers()
        origin = headers.get("origin")
        own = origin is None or (not self._any_host and origin.partition("://")[2] == headers["host"])
        answer = self._app if own else PlainTextResponse("Pages of other origins are not answered", status_code=403)
        await answer(scope, receive, send)


def in_address(host: str) -> str:
    """Return a host as an address names it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _means_all_addresses(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
