"""A local server that answers Comet's client as far as an experiment needs it, and can be made to misbehave."""

import gzip
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARTIFACT_NOT_FOUND = 624523
"""Comet's error code."""


class FakeComet(ThreadingHTTPServer):
    """Keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, Any]] = []
        self.keys: set[str] = set()
        self.refuse = False
        self.delay = 0.0
        """Seconds that every answer takes, but the one that says that somebody is there."""
        self.artifact: dict[str, Any] | None = None
        self.here = f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self, path: str) -> list[Any]:
        return [body for asked, body in self.requests if asked.endswith(path)]

    def metrics(self) -> list[dict[str, Any]]:
        batches = self.sent("/batch/logger/experiment/metric")
        return [value for batch in batches for value in batch["values"]]

    def answer(self, path: str, query: str, body: Any) -> tuple[int, dict[str, Any]]:
        if path.endswith("isAlive/ver"):
            return 200, {"version": "4.0.0"}
        if path == "/logger/add/run":
            run = {"runId": "r", "project_id": "p", "focusUrl": f"{self.here}/me/"}
            return (500, {}) if self.refuse else (200, run)
        if path == "/status-report/update":
            return 200, {"is_alive_beat_duration_millis": 10_000, "gpu_monitor_interval_millis": 10_000}
        if path.endswith("/experiment/metadata"):
            return 400, {"msg": "there is none", "code": 400}
        if path.endswith("/artifacts/version"):
            return (200, self.artifact) if self.artifact else (400, {"sdk_error_code": ARTIFACT_NOT_FOUND})
        if path.endswith("/artifacts/upsert"):
            self.artifact = _artifact(body)
            ids = {"artifactId": "a", "artifactVersionId": "v"}
            return 200, {**ids, "currentVersion": "1.0.0", "previousVersion": None}
        return 200, {"code": 200}


def _artifact(made: dict[str, Any]) -> dict[str, Any]:
    named = {"artifactName": made["artifactName"], "artifactType": made["artifactType"]}
    return {
        "artifact": {**named, "artifactId": "a", "tags": [], "workspaceName": "me"},
        "artifactVersion": "1.0.0",
        "artifactVersionId": "v",
        "metadata": made["versionMetadata"],
        "alias": made["alias"],
        "sizeInBytes": 0,
        "experimentKey": made["experimentKey"],
        "tags": [],
    }


class _Handler(BaseHTTPRequestHandler):
    server: FakeComet

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        self.server.keys.update(filter(None, [self.headers.get("Authorization"), self.headers.get("Comet-Sdk-Api")]))
        if path != "/":
            time.sleep(self.server.delay)  # a slow network, played
        known = self._read(body)
        self.server.requests.append((path, known))
        status, answer = self.server.answer(path, query, known)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer

    def _read(self, body: bytes) -> Any:
        if "json" not in (self.headers.get("Content-Type") or ""):
            return body
        plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        return json.loads(plain) if plain else None

    def log_message(self, format: str, *args: Any) -> None:
        pass
