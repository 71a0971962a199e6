import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.schema import CometTracking, NoTracking
from llm_engineering.tracking import Tracker, tracked_stage

COMET = CometTracking(project="proofs")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("COMET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # Comet reads ~/.comet.config
    monkeypatch.chdir(tmp_path)  # ... and ./.comet.config and .env


def stage(archive_dir: Path, **settings: Any) -> Any:
    given: dict[str, Any] = {"stage": "sft", "name": "toy/sft", "tags": ["toy"], "parameters": {}}
    return tracked_stage(COMET, archive_dir=archive_dir, **(given | settings))


def archived(tracker: Tracker) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, str]]:
    """Return the archive's head, its messages, and its assets by name."""
    assert tracker.link is not None
    assert tracker.link.offline_archive is not None
    with zipfile.ZipFile(tracker.link.offline_archive) as archive:
        head = json.loads(archive.read("experiment.json"))
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        uploads = [message["payload"] for message in messages if message["type"] == "file_upload"]
        assets = {u["additional_params"]["fileName"]: archive.read(u["file_path"]).decode() for u in uploads}
    return head, messages, assets


def of_kind(messages: list[dict[str, Any]], kind: str, part: str) -> list[dict[str, Any]]:
    return [message["payload"][part] for message in messages if message["type"] == kind]


def test_without_a_key_an_archive_holds_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parameters = {"dpo": {"beta": 0.1, "loss": "sigmoid"}, "targets": ["q", "v"], "seed": 42, "revision": None}
    with stage(tmp_path / "not" / "there", stage="dpo", name="toy/dpo", parameters=parameters) as tracker:
        tracker.log_metrics({"loss": 0.69, "rewards/margins": 0.0}, step=1)
        tracker.log_metrics({"loss": math.nan, "grad_norm": math.inf}, step=2)
        tracker.log_text("config.yaml", "seed: 42\n")
        assert tracker.link is None

    head, messages, assets = archived(tracker)
    assert (head["project_name"], sorted(head["tags"])) == ("proofs", ["dpo", "toy"])
    logged = {(m["metricName"], m["step"]): m["metricValue"] for m in of_kind(messages, "metric_msg", "metric")}
    assert (
        logged.items()
        >= {
            ("loss", 1): 0.69,
            ("rewards/margins", 1): 0.0,
            ("loss", 2): "NaN",
            ("grad_norm", 2): "Infinity",
        }.items()
    )
    given = {p["paramName"]: p["paramValue"] for p in of_kind(messages, "parameter_msg", "param")}
    assert given.items() >= {"dpo.beta": 0.1, "dpo.loss": "sigmoid", "seed": 42, "revision": "null"}.items()
    assert json.loads(given["targets"]) == ["q", "v"]
    others = {m["payload"]["key"]: m["payload"]["value"] for m in messages if m["type"] == "log_other"}
    assert (others["Name"], others["outcome"]) == ("toy/dpo", "completed")
    assert assets == {"config.yaml": "seed: 42\n"}
    assert tracker.link is not None
    assert (tracker.link.stage, tracker.link.url, tracker.link.failures) == ("dpo", None, 0)
    assert capfd.readouterr() == ("", "")


def test_an_archive_holds_nothing_about_host_code_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "hunter2-hunter2")
    with stage(tmp_path) as tracker:
        pass
    _, messages, assets = archived(tracker)
    assert {message["type"] for message in messages} <= {"log_other", "parameter_msg", "metric_msg"}
    assert assets == {}
    assert "hunter2" not in json.dumps(messages)


def test_every_stage_gets_an_archive_of_its_own(tmp_path: Path) -> None:
    with stage(tmp_path, stage="sft") as first:
        first.log_metrics({"loss": 1.0}, step=1)
    with stage(tmp_path, stage="dpo") as second:
        second.log_metrics({"loss": 0.69}, step=1)
    for tracker, loss in ((first, 1.0), (second, 0.69)):
        metrics = of_kind(archived(tracker)[1], "metric_msg", "metric")
        assert [m["metricValue"] for m in metrics if m["metricName"] == "loss"] == [loss]


def test_an_exception_of_the_block_goes_on_and_is_noted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), stage(tmp_path) as tracker:
        raise KeyboardInterrupt
    others = [m["payload"] for m in archived(tracker)[1] if m["type"] == "log_other"]
    assert {"outcome": "failed"}.items() <= {o["key"]: o["value"] for o in others}.items()


def test_tracking_off_links_nothing_and_does_not_import_comet(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from llm_engineering.config.schema import NoTracking\n"
        "from llm_engineering.tracking import tracked_stage\n"
        "settings = dict(stage='sft', name='n', tags=[], parameters={}, archive_dir=Path('archives'))\n"
        "with tracked_stage(NoTracking(), **settings) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0}, step=1); tracker.log_text('a', 'b')\n"
        "assert tracker.link is None\n"
        "assert 'comet_ml' not in sys.modules and not Path('archives').exists()\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_tracking_off_passes_exceptions_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"stage": "sft", "name": "n", "tags": [], "parameters": {}, "archive_dir": tmp_path}
    with pytest.raises(ValueError, match="mine"), tracked_stage(NoTracking(), **settings):
        raise ValueError("mine")


def test_an_unreachable_server_means_an_archive_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COMET_API_KEY", "k" * 25)
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/")  # the discard port: refused
    before = dict(os.environ)
    with stage(tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert (tracker.link.url, tracker.link.failures) == (None, 1)
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))
    ours = [record for record in caplog.records if record.name.startswith("llm_engineering")]
    assert [r.message for r in ours if r.levelno >= logging.WARNING] == [
        "Comet (sft) does not answer at http://127.0.0.1:9/: logging to an offline archive. Nothing else depends on it."
    ]
    assert dict(os.environ) == before


def test_failures_are_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "archives"
    in_the_way.write_text("a file where the folder should be")
    with stage(in_the_way) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert (tracker.link.url, tracker.link.offline_archive) == (None, None)
    assert tracker.link.failures == 2  # the folder, and the experiment in it
    warnings = [r.message for r in caplog.records if r.name == "llm_engineering.tracking"]
    assert len(warnings) == 1
    assert "could not make the archive folder: FileExistsError" in warnings[0]


def test_each_failed_call_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with stage(tmp_path) as tracker:
        for step in range(3):
            tracker.log_metrics([("not", "numbers", "at all")], step=step)  # type: ignore[arg-type]
        tracker.log_metrics({"loss": 1.0}, step=3)
    assert tracker.link is not None
    assert tracker.link.failures == 3
    assert tracker.link.offline_archive is not None
    assert len([r for r in caplog.records if r.name == "llm_engineering.tracking"]) == 1


def test_a_lost_archive_is_not_linked(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    with stage(archives) as tracker:
        for path in archives.iterdir():
            path.unlink()
        archives.rmdir()
        archives.write_text("no folder any more")
    assert tracker.link is not None
    assert tracker.link.offline_archive is None
    assert tracker.link.failures > 0


def test_a_killed_run_leaves_an_archive_that_is_never_linked(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path\n"
        "from llm_engineering.config.schema import CometTracking\n"
        "from llm_engineering.tracking import tracked_stage\n"
        "settings = dict(stage='sft', name='n', tags=[], parameters={}, archive_dir=Path('archives'))\n"
        "with tracked_stage(CometTracking(), **settings) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0}, step=1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert killed.returncode == -signal.SIGKILL
    (dead,) = (tmp_path / "archives").iterdir()
    assert zipfile.is_zipfile(dead)  # a valid zip, without entries

    with stage(tmp_path / "archives") as tracker:
        pass
    assert tracker.link is not None
    assert tracker.link.offline_archive is not None
    assert Path(tracker.link.offline_archive) != dead


@pytest.mark.slow
def test_a_server_that_never_answers_costs_less_than_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("COMET_API_KEY", "k" * 25)
        monkeypatch.setenv("COMET_URL_OVERRIDE", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        started = time.monotonic()
        with stage(tmp_path) as tracker:
            pass
    assert time.monotonic() - started < 10
    archived(tracker)


class FakeComet(BaseHTTPRequestHandler):
    """Answers the requests of Comet's client, as far as an experiment needs it."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.paths.append(self.path.partition("?")[0])  # type: ignore[attr-defined]
        here = f"http://127.0.0.1:{self.server.server_address[1]}"
        answers: dict[str, dict[str, Any]] = {
            "/clientlib/isAlive/ver": {"version": "4.0.0"},
            "/isAlive/ver": {"version": "4.0.0"},
            "/logger/add/run": {"runId": "r", "project_id": "p", "focusUrl": f"{here}/me/proofs/"},
            "/status-report/update": {
                "is_alive_beat_duration_millis": 10_000,
                "gpu_monitor_interval_millis": 10_000,
            },
        }
        body = json.dumps(answers.get(self.path, {"code": 200})).encode()
        refused = self.server.refuse and self.path == "/logger/add/run"  # type: ignore[attr-defined]
        self.send_response(500 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), FakeComet)
    server.paths, server.refuse = [], False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("COMET_API_KEY", "k" * 25)
    monkeypatch.setenv("COMET_URL_OVERRIDE", f"http://127.0.0.1:{server.server_address[1]}/")
    yield server
    server.shutdown()
    server.server_close()


def test_with_a_key_and_a_server_the_experiment_is_online(tmp_path: Path, server: Any) -> None:
    with stage(tmp_path, parameters={"seed": 42}) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_text("config.yaml", "seed: 42\n")
    assert tracker.link is not None
    assert tracker.link.url is not None
    assert tracker.link.url.startswith(f"http://127.0.0.1:{server.server_address[1]}/me/proofs/")
    assert (tracker.link.offline_archive, tracker.link.failures) == (None, 0)
    sent = set(server.paths)
    assert {"/batch/logger/experiment/metric", "/batch/logger/experiment/parameter", "/asset/upload"} <= sent


def test_a_server_that_refuses_the_experiment_means_an_archive(tmp_path: Path, server: Any) -> None:
    server.refuse = True
    with stage(tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert tracker.link.url is None
    assert tracker.link.failures > 0
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))


def test_a_server_lost_on_the_way_leaves_an_archive(tmp_path: Path, server: Any) -> None:
    with stage(tmp_path) as tracker:
        server.shutdown()
        server.server_close()
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))
