"""Whom the middleware lets through, by the Host and Origin that browsers send."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from llm_engineering.own_pages import HOST_VARIABLE, OwnPages


async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


APP = Starlette(
    routes=[
        Route("/", lambda request: PlainTextResponse("hello"), methods=["GET", "POST", "PUT", "DELETE"]),
        WebSocketRoute("/socket", greet),
    ]
)


@pytest.fixture
def client() -> TestClient:
    return TestClient(OwnPages(APP))


@pytest.mark.parametrize(
    ("listens_at", "host", "origin", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:8000", None, 200),
        ("127.0.0.1", "localhost:8000", None, 200),
        ("127.0.0.1", "LOCALHOST", None, 200),
        ("127.0.0.1", "[::1]:8000", "http://[::1]:8000", 200),
        ("127.0.0.1", "192.168.0.7:8000", None, 400),
        ("127.0.0.1", "evil.example:8000", "http://evil.example:8000", 400),  # a name that was pointed here
        ("127.8.9.10", "127.8.9.10:8000", "http://127.8.9.10:8000", 200),
        ("fd00::7", "[fd00::7]:8000", "http://[fd00::7]:8000", 200),
        ("fd00::7", "[fd00::8]:8000", None, 400),
        ("gpu.example", "GPU.example:8000", None, 200),
        ("www.gpu.example", "gpu.example:8000", None, 400),  # and no redirect
        ("gpu.example", "evil.example:8000", None, 400),
        ("gpu.example", "gpu.example:8000", "http://evil.example", 403),
        ("0.0.0.0", "gpu.example:8000", None, 200),
        ("0.0.0.0", "gpu.example:8000", "http://gpu.example:8000", 403),  # its own name, or one that was pointed here
        ("::", "192.168.0.7:8000", None, 200),
        ("::", "192.168.0.7:8000", "null", 403),
    ],
)
def test_own_are_loopback_and_the_address_that_is_listened_at(
    listens_at: str, host: str, origin: str | None, answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOST_VARIABLE, listens_at)
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    client = TestClient(OwnPages(APP), follow_redirects=False)
    assert client.get("/", headers=headers).status_code == answered


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_a_foreign_page_is_refused_whatever_it_wants_to_do(method: str, client: TestClient) -> None:
    headers = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8001", "Access-Control-Request-Method": "POST"}
    answer = client.request(method, "/", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", None),
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("evil.example:8000", "http://evil.example:8000", 400),
    ],
)
def test_websockets_are_held_to_the_same(host: str, origin: str, refused: int | None, client: TestClient) -> None:
    headers = {"Host": host, "Origin": origin}
    if refused is None:
        with client.websocket_connect("/socket", headers=headers) as socket:
            assert socket.receive_text() == "hello"
        return
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/socket", headers=headers):
        pass
    assert denied.value.status_code == refused
