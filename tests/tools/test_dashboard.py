"""The dashboard's tool in a process of its own, over a store of its own."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zen")


def environment(store: Path) -> dict[str, str]:
    return {**os.environ, "ZENML_CONFIG_PATH": str(store), "COLUMNS": "300"}


def call(store: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    return subprocess.run(command, env=environment(store), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A dashboard that serves, and its address."""
    command = [sys.executable, str(ROOT / "tools" / "dashboard.py")]
    with subprocess.Popen(
        command, env=environment(store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", lines[-1] if lines else "")):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
        yield process, found[0]
        process.kill()


def test_it_answers_its_own_pages_alone(served: tuple[subprocess.Popen[str], str]) -> None:
    _, address = served
    own = address.removeprefix("http://")
    port = own.rpartition(":")[2]
    expected = {
        (own, None): 200,
        (own, address): 200,
        ("127.0.0.1", None): 200,
        (f"localhost:{port}", f"http://localhost:{port}"): 200,
        (f"[::1]:{port}", f"http://[::1]:{port}"): 200,
        (own, "null"): 403,
        (own, ""): 403,
        (own, "http://evil.example"): 403,
        (own, f"http://evil.example:{port}"): 403,
        (own, "http://127.0.0.1"): 403,
        (own, "http://127.0.0.1:1"): 403,
        (own, f"http://localhost:{port}"): 403,
        (f"evil.example:{port}", None): 400,
        (f"evil.example:{port}", f"http://evil.example:{port}"): 400,
        (f"127.0.0.1.evil.example:{port}", None): 400,
        ("[::2]", None): 400,
        ("", None): 400,
    }
    asked = {(host, origin): ask(address, "GET", "/api/v1/secrets", host, origin) for host, origin in expected}
    assert asked == expected
    forged = [ask(address, "POST", "/api/v1/secrets", host, origin) for host, origin in expected if origin]
    assert forged == [status if status != 200 else 422 for (_, origin), status in expected.items() if origin]
    assert ask(address, "OPTIONS", "/api/v1/secrets", own, "http://evil.example") == 403


def ask(address: str, method: str, path: str, host: str, origin: str | None) -> int:
    """Return the status of a request as a page makes it without asking first: plain text, and cookies if there are."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    headers = {"Host": host, "Content-Type": "text/plain", "Access-Control-Request-Method": "POST"}
    connection.request(method, path, b"{}", headers if origin is None else {**headers, "Origin": origin})
    status = connection.getresponse().status
    connection.close()
    return status


def test_it_serves_the_runs_without_an_account_and_ends_by_ctrl_c(
    store: Path, served: tuple[subprocess.Popen[str], str]
) -> None:
    process, address = served
    with urlopen(f"{address}/api/v1/runs", timeout=60) as answer:  # waits until the server is up
        assert b'"items":' in answer.read()
    with urlopen(f"{address}/", timeout=60) as answer:
        assert b"<html" in answer.read().lower()
    assert yaml.safe_load((store / "config.yaml").read_text())["store"]["type"] == "sql"  # runs stay off the server
    taken = call(store, "dashboard.py", "--port", address.rpartition(":")[2])
    assert taken.returncode == 2
    assert taken.stderr.startswith(f"Error: Port {address.rpartition(':')[2]} cannot be listened at (Address already")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (0, 130)
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()


def test_a_server_that_is_gone_is_named_at_once_and_left_by_reset(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"store": {"type": "rest", "url": f"http://127.0.0.1:{port}", "verify_ssl": False}, "version": "0.98.0"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    refused = call(tmp_path, "run.py", "--run-training")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"switched to the server http://127.0.0.1:{port}, which does not answer" in refused.stderr
    assert "--reset" in refused.stderr
    reset = call(tmp_path, "dashboard.py", "--reset")
    assert reset.returncode == 0, reset.stderr
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["store"]["type"] == "sql"


def test_a_store_of_another_zenml_is_named(tmp_path: Path) -> None:
    database = tmp_path / "local_stores" / "default_zen_store" / "zenml.db"
    database.parent.mkdir(parents=True)
    with sqlite3.connect(database) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) primary key)")
        connection.execute("insert into alembic_version values ('99.0.0')")
    refused = call(tmp_path, "dashboard.py")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "cannot use the store" in refused.stderr
    assert "set ZENML_CONFIG_PATH to another folder" in refused.stderr
