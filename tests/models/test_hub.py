"""Pushes to a stand-in of the hub on this machine, which speaks as much of its protocol as a push needs."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm_engineering.config.export import ExportConfig, HubExport
from llm_engineering.errors import StoreError
from llm_engineering.models.export import require_export
from llm_engineering.models.hub import push, require_hub

TOKEN = "hf_of_a_test"


@dataclass
class Hub:
    """What the stand-in knows and was sent."""

    repositories: dict[str, bool] = field(default_factory=dict)
    """Name, and whether it is private."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    answers: dict[str, int] = field(default_factory=dict)
    """Status codes that paths are refused with."""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes | None) -> None:
        hub = self.hub
        hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path in hub.answers:
            self._send(hub.answers[path], {"error": "refused"})
        elif path == "/api/whoami-v2":
            self._send(200, {"name": "me", "type": "user"})
        elif path == "/api/repos/create" and body is not None:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.repositories.setdefault(name, asked["visibility"] == "private")
            self._send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main") and body is not None:
            files = json.loads(body)["files"]
            found = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            self._send(200, {"files": found})
        elif path.endswith("/commit/main") and body is not None:
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(name, body)
            self._send(
                200, {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/1", "commitOid": "1", "hookOutput": ""}
            )
        elif path.startswith("/api/models/"):
            self._model(path.removeprefix("/api/models/").removesuffix("/revision/main"))
        else:
            self._send(404, {"error": f"not spoken: {path}"})

    def _commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.files.setdefault(name, {})[line["value"]["path"]] = content
            if line["key"] == "deletedFile":
                self.hub.deleted.append(line["value"]["path"])

    def _model(self, path: str) -> None:
        name, tree, _ = path.partition("/tree/main")
        files = self.hub.files.get(name, {})
        if name not in self.hub.repositories:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif tree:
            listed = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files.items()]
            self._send(200, listed)
        else:
            self._send(200, {"id": name, "private": self.hub.repositories[name], "siblings": [], "sha": "1"})

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    known = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": known}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("a card")
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def test_a_new_repository_is_private_and_gets_every_file(hub: Hub, folder: Path) -> None:
    require_hub(HubExport(repository="me/zoo"), "me/zoo")
    assert hub.repositories == {}  # asking makes nothing
    push(folder, "me/zoo", private=True)
    assert hub.repositories == {"me/zoo": True}
    assert hub.files["me/zoo"] == {"config.json": b"{}", "README.md": b"a card", "model.safetensors": b"weights"}
    assert hub.tokens - {None} == {f"Bearer {TOKEN}"}  # the card is checked without one


def test_a_public_repository_has_to_be_asked_for(hub: Hub, folder: Path) -> None:
    push(folder, "me/zoo", private=False)
    assert hub.repositories == {"me/zoo": False}


def test_a_repository_that_is_public_already_gets_nothing_private(hub: Hub, folder: Path) -> None:
    hub.repositories["me/zoo"] = False
    with pytest.raises(StoreError, match=r"me/zoo is public and export\.hub\.private is true"):
        require_hub(HubExport(repository="me/zoo"), "me/zoo")
    with pytest.raises(StoreError, match=r"me/zoo is public and export\.hub\.private is true"):
        push(folder, "me/zoo", private=True)
    assert hub.files == {}


def test_weights_of_an_earlier_push_go(hub: Hub, folder: Path) -> None:
    push(folder, "me/zoo", private=True)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    hub.files["me/zoo"]["notes.txt"] = b"of the owner"
    push(folder, "me/zoo", private=True)
    assert hub.deleted == ["model.safetensors"]


@pytest.mark.parametrize(("path", "status"), [("/api/models/me/zoo/commit/main", 403), ("/api/repos/create", 500)])
def test_a_push_that_the_hub_refuses_is_said(path: str, status: int, hub: Hub, folder: Path) -> None:
    hub.answers[path] = status
    with pytest.raises(StoreError, match=rf"me/zoo was not pushed to the hub: .*{status}") as refused:
        push(folder, "me/zoo", private=True)
    assert TOKEN not in str(refused.value)


def test_a_token_that_the_hub_does_not_know_is_refused_before_training(hub: Hub) -> None:
    hub.answers["/api/whoami-v2"] = 401
    with pytest.raises(StoreError, match=r"export\.hub cannot be used: .*Check the network and the token"):
        require_export(ExportConfig(hub=HubExport(repository="me/zoo")))


def test_no_login_is_refused_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"export\.hub needs a login\. Set HF_TOKEN"):
        require_export(ExportConfig(hub=HubExport(repository="me/zoo")))


def test_no_network_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(StoreError, match=r"export\.hub needs the network, and HF_HUB_OFFLINE is set"):
        require_export(ExportConfig(hub=HubExport(repository="me/zoo")))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"export\.hub cannot be used: .*Check the network"):
        require_export(ExportConfig(hub=HubExport(repository="me/zoo")))
