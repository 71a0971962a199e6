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
from pathlib import Path
from typing import Any

import pytest
from fake_comet import FakeComet

from llm_engineering.config.tracking import CometTracking, NoTracking
from llm_engineering.errors import StoreError
from llm_engineering.tracking import Account, Origin, Tracker, tracked_stage
from llm_engineering.tracking.archives import read_archive, sweep_dead
from llm_engineering.tracking.origin import experiment_key

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
    for private in ("hunter2", socket.gethostname(), str(tmp_path)):
        assert private not in json.dumps(messages)


def test_cpu_and_memory_are_measured(tmp_path: Path) -> None:
    with stage(tmp_path) as tracker:
        pass
    measured = {m["metricName"] for m in of_kind(archived(tracker)[1], "metric_msg", "metric")}
    assert {"sys.cpu.percent.avg", "sys.ram.used", "sys.load.avg"} <= measured


def test_metrics_carry_step_epoch_and_examples_seen(tmp_path: Path) -> None:
    with stage(tmp_path, examples_at=lambda step: 16 * step) as tracker:
        tracker.log_metrics({"loss": 0.5, "epoch": 1.25}, step=3)
    logged = {m["metricName"]: m for m in of_kind(archived(tracker)[1], "metric_msg", "metric")}
    assert (logged["loss"]["step"], logged["loss"]["epoch"]) == (3, 1)
    assert (logged["examples"]["metricValue"], logged["epoch"]["metricValue"]) == (48, 1.25)


ORIGIN = Origin(
    run="toy-1",
    run_id="5b0e",
    step="train_sft",
    recipe="toy",
    model_version="toy:7",
    git_commit="c0ffee" * 6 + "cafe",
    experiments={"dpo": "f" * 32},
)


def test_an_experiment_says_where_it_comes_from(tmp_path: Path) -> None:
    with stage(tmp_path, tags=["base"], origin=ORIGIN) as tracker:
        pass
    head, messages, _ = archived(tracker)
    assert set(head["tags"]) == {"base", "toy-1", "toy", "toy:7", "git:c0ffeec0ffee", "sft"}
    others = {m["payload"]["key"]: m["payload"]["value"] for m in messages if m["type"] == "log_other"}
    assert others.items() >= {
        ("zenml_run", "toy-1"),
        ("zenml_run_id", "5b0e"),
        ("recipe", "toy"),
        ("stage", "sft"),
        ("model_version", "toy:7"),
        ("git_commit", "c0ffee" * 6 + "cafe"),
        ("dpo_experiment", "f" * 32),
    }


def test_the_key_of_an_experiment_is_known_before_it_begins(tmp_path: Path) -> None:
    with stage(tmp_path, name="toy-1-sft", origin=ORIGIN) as tracker:
        pass
    assert tracker.link is not None
    assert tracker.link.key == experiment_key("5b0e", "train_sft", "toy-1-sft")
    assert tracker.link.offline_archive == str(tmp_path / f"{tracker.link.key}.zip")


def test_an_adapter_is_a_model_of_the_archive_up_to_its_size(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"w" * 2_000_000)  # 2 MB
    kept = []
    for limit in (2.0, 1.5, 0.0):
        with tracked_stage(
            CometTracking(log_adapter_mb=limit),
            stage="sft",
            name=f"toy/{limit}",
            tags=[],
            parameters={},
            archive_dir=tmp_path / "archives",
        ) as tracker:
            tracker.log_adapter(adapter)
        assert tracker.link is not None
        assert tracker.link.offline_archive is not None
        kept.append(read_archive(Path(tracker.link.offline_archive)))
    assert [experiment.assets for experiment in kept] == [("adapter_model.safetensors",), (), ()]
    assert [experiment.others["adapter_mb"] for experiment in kept] == [2.0, 2.0, 2.0]
    assert kept[1].others["adapter_not_logged"] == "larger than tracking.log_adapter_mb (1.5)"
    assert "adapter_not_logged" not in kept[2].others


def test_offline_the_data_is_a_reference_by_hash(tmp_path: Path) -> None:
    with stage(tmp_path) as tracker:
        tracker.log_data("sft-rows", "ab" * 32, {"train": 3})
    (reference,) = [m["payload"] for m in archived(tracker)[1] if m["type"] == "remote_file"]
    assert reference["remote_uri"] == "sha256:" + "ab" * 32
    assert reference["metadata"] == {"sha256": "ab" * 32, "rows": {"train": 3}}
    assert reference["additional_params"]["fileName"] == "sft-rows"


def test_the_log_of_an_interrupted_training_is_logged_again(tmp_path: Path) -> None:
    history = [{"loss": 2.0, "epoch": 0.5, "step": 1}, {"loss": 1.0, "epoch": 1.0, "step": 2}]
    with stage(tmp_path) as tracker:
        tracker.replay(history, resumed_from=2, earlier="d" * 32)
        tracker.log_metrics({"loss": 0.5}, step=3)
    assert tracker.link is not None
    assert tracker.link.offline_archive is not None
    experiment = read_archive(Path(tracker.link.offline_archive))
    assert experiment.metrics["loss"] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert "resumed_from:2" in experiment.tags
    assert experiment.others["resumed_from_experiment"] == "d" * 32


def test_the_project_is_the_configured_one_then_the_accounts_then_the_default(tmp_path: Path) -> None:
    def project(config: CometTracking, account: Account) -> str:
        given: dict[str, Any] = {"stage": "sft", "name": "n", "tags": [], "parameters": {}, "archive_dir": tmp_path}
        with tracked_stage(config, origin=Origin(account=account), **given) as tracker:
            pass
        return str(archived(tracker)[0]["project_name"])

    theirs = Account(project="theirs")
    assert project(CometTracking(project="mine"), theirs) == "mine"
    assert project(CometTracking(), theirs) == "theirs"
    assert project(CometTracking(), Account()) == "llm-engineering"


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
        "from llm_engineering.config.tracking import NoTracking\n"
        "from llm_engineering.tracking import tracked_stage\n"
        "settings = dict(stage='sft', name='n', tags=[], parameters={}, archive_dir=Path('archives'))\n"
        "with tracked_stage(NoTracking(), **settings) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0}, step=1); tracker.log_text('a', 'b')\n"
        "assert tracker.link is None\n"
        "assert 'comet_ml' not in sys.modules and not Path('archives').exists()\n"
    )
    root = Path(__file__).parents[2]
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
    warnings = [r.message for r in caplog.records if r.name.startswith("llm_engineering.tracking")]
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
    assert len([r for r in caplog.records if r.name.startswith("llm_engineering.tracking")]) == 1


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


def test_what_a_killed_process_left_is_removed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = (
        "import os, signal; from pathlib import Path\n"
        "from llm_engineering.config.tracking import CometTracking\n"
        "from llm_engineering.tracking import tracked_stage\n"
        "settings = dict(stage='sft', name='toy/sft', tags=[], parameters={}, archive_dir=Path('archives'))\n"
        "with tracked_stage(CometTracking(), **settings) as tracker:\n"
        "    tracker.log_metrics({'loss': 1.0}, step=1)\n"
        "    print(tracker.experiment.tmpdir, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root, archives = Path(__file__).parents[2], tmp_path / "archives"
    killed = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL
    stray = Path(killed.stdout.strip())
    assert (stray / "messages.json").is_file()
    (dead,) = archives.glob("*.zip")
    assert zipfile.is_zipfile(dead)  # a valid zip, without entries
    with pytest.raises(StoreError, match="is no complete Comet archive: its process was killed"):
        read_archive(dead)

    caplog.set_level(logging.INFO, "llm_engineering")
    with stage(archives) as tracker:
        pass
    assert tracker.link is not None
    assert tracker.link.offline_archive is not None
    assert list(archives.iterdir()) == [Path(tracker.link.offline_archive)]
    assert not stray.exists()
    assert "what a killed process left of the experiment toy/sft is removed" in caplog.text


def test_an_experiment_that_is_still_open_is_left_alone(tmp_path: Path) -> None:
    with stage(tmp_path, stage="sft") as first:
        assert sweep_dead(tmp_path) == []
        first.log_metrics({"loss": 1.0}, step=1)
    assert any(m["metricName"] == "loss" for m in of_kind(archived(first)[1], "metric_msg", "metric"))


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComet]:
    server = FakeComet()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Comet keeps a client per key, and with it the first server's address.
    monkeypatch.setenv("COMET_API_KEY", f"{server.server_address[1]:025}")
    monkeypatch.setenv("COMET_URL_OVERRIDE", server.here)
    yield server
    server.shutdown()
    server.server_close()


def test_with_a_key_and_a_server_the_experiment_is_online(tmp_path: Path, server: FakeComet) -> None:
    with stage(tmp_path, parameters={"seed": 42}) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_text("config.yaml", "seed: 42\n")
    assert tracker.link is not None
    assert tracker.link.url is not None
    assert tracker.link.url.startswith(f"{server.here}/me/")
    assert (tracker.link.offline_archive, tracker.link.failures) == (None, 0)
    sent = {path for path, _ in server.requests}
    assert {"/batch/logger/experiment/metric", "/batch/logger/experiment/parameter", "/asset/upload"} <= sent


def test_a_server_that_refuses_the_experiment_means_an_archive(tmp_path: Path, server: FakeComet) -> None:
    server.refuse = True
    with stage(tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert tracker.link.url is None
    assert tracker.link.failures > 0
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))


def test_a_server_lost_on_the_way_leaves_an_archive(tmp_path: Path, server: FakeComet) -> None:
    with stage(tmp_path) as tracker:
        server.shutdown()
        server.server_close()
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))


@pytest.mark.slow
def test_a_servers_answer_that_never_ends_costs_no_more_than_ten_seconds(tmp_path: Path, server: FakeComet) -> None:
    server.delay = 30.0
    started = time.monotonic()
    with stage(tmp_path, origin=ORIGIN) as tracker:
        assert time.monotonic() - started < 10
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert any(m["metricName"] == "loss" for m in of_kind(archived(tracker)[1], "metric_msg", "metric"))


def test_a_slow_server_does_not_hold_up_the_training(tmp_path: Path, server: FakeComet) -> None:
    with stage(tmp_path) as tracker:
        server.delay = 0.3
        started = time.monotonic()
        for step in range(50):
            tracker.log_metrics({"loss": 1.0}, step=step)
        assert time.monotonic() - started < 0.3  # less than a single answer takes
    assert {m["step"] for m in server.metrics() if m["metricName"] == "loss"} == set(range(50))


def test_online_experiments_of_one_run_name_each_other(tmp_path: Path, server: FakeComet) -> None:
    with stage(tmp_path, name="toy-1-sft", origin=ORIGIN) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert tracker.link.url == f"{server.here}/me/{experiment_key('5b0e', 'train_sft', 'toy-1-sft')}"
    logged = {(body["key"], body["value"]) for body in server.sent("/write/experiment/log-other")}
    assert ("dpo_experiment", "f" * 32) in logged
    (tags,) = server.sent("/tags/add-tags-to-experiment")
    assert {"toy-1", "toy", "sft"} <= set(tags["addedTags"])


def test_online_the_same_data_is_one_version_of_an_artifact(tmp_path: Path, server: FakeComet) -> None:
    for _ in range(2):
        with stage(tmp_path) as tracker:
            tracker.log_data("sft-rows", "ab" * 32, {"train": 3})
        assert tracker.link is not None
        assert tracker.link.failures == 0
    (made,) = server.sent("/artifacts/upsert")
    assert (made["artifactName"], made["alias"]) == ("sft-rows", ["ab" * 6])
    assert json.loads(made["versionMetadata"]) == {"sha256": "ab" * 32, "rows": {"train": 3}}


def test_the_key_of_an_account_is_used_and_kept_nowhere(
    tmp_path: Path, server: FakeComet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("COMET_API_KEY")
    caplog.set_level(logging.DEBUG, "llm_engineering")
    account = Account(api_key="s3cret-s3cret-s3cret-s3cr")
    with stage(tmp_path, origin=Origin(account=account)) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    assert tracker.link is not None
    assert tracker.link.url is not None
    assert account.api_key in server.keys
    assert "COMET_API_KEY" not in os.environ
    assert "s3cret" not in caplog.text + repr(account) + tracker.link.model_dump_json()


def test_a_server_that_breaks_off_in_the_middle_leaves_everything_in_an_archive(
    tmp_path: Path, server: FakeComet
) -> None:
    with stage(tmp_path) as tracker:
        for step in range(20):
            tracker.log_metrics({"loss": float(step)}, step=step)
            if step == 10:
                server.shutdown()
                server.server_close()
        tracker.log_text("last.txt", "the end")
    assert tracker.link is not None
    assert tracker.link.offline_archive is not None
    experiment = read_archive(Path(tracker.link.offline_archive))
    assert experiment.metrics["loss"] == [(step, float(step)) for step in range(20)]
    assert "last.txt" in experiment.assets


def test_a_stage_that_is_tried_again_leaves_the_first_archive_alone(tmp_path: Path) -> None:
    links = []
    for loss in (1.0, 2.0):
        with stage(tmp_path, origin=ORIGIN) as tracker:
            tracker.log_metrics({"loss": loss}, step=1)
        links.append(tracker.link)
    losses = [read_archive(Path(link.offline_archive)).metrics["loss"] for link in links]
    assert losses == [[(1, 1.0)], [(1, 2.0)]]
