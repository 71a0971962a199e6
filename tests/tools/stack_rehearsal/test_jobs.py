import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tools.stack_rehearsal.standins.jobs import Image, Job, Machine

DEADLINE = 20.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "machine", Image(Path(sys.executable)), {"OF_THE_PLATFORM": "1", "OVERRIDDEN": "no"})
    yield machine
    machine.stop()


def python(source: str) -> list[str]:
    return ["python", "-c", textwrap.dedent(source)]


def wait_for_line(job: Job, line: str) -> str:
    """Return the log once it holds a line."""
    end = time.monotonic() + DEADLINE
    while line not in (text := job.log.read_text()):
        assert time.monotonic() < end, text
        assert job.poll() is None, text
        time.sleep(0.02)
    return text


def test_a_job_sees_what_was_submitted_and_nothing_of_its_submitter(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITTERS_SECRET", "hidden")
    job = machine.start("one", ["env"], {"SUBMITTED": "2", "OVERRIDDEN": "submitted"})
    assert job.wait(DEADLINE) == 0
    seen = dict(line.split("=", 1) for line in job.log.read_text().splitlines())
    assert {name for name in seen if name not in ("PWD", "SHLVL", "_", "LC_CTYPE")} == {
        "OF_THE_PLATFORM",
        "OVERRIDDEN",
        "SUBMITTED",
        "PATH",
        "HOME",
        "TMPDIR",
        "PYTHONPATH",
        "STANDIN_APP",
    }
    assert seen["OVERRIDDEN"] == "submitted"


def test_two_jobs_have_each_a_folder_app_and_a_home_of_their_own(machine: Machine) -> None:
    write = """
        import os, pathlib
        os.makedirs("/app/code", exist_ok=True)
        os.chdir("/app/code")
        pathlib.Path("mark").write_text("here")
        pathlib.Path.home().joinpath("mark").write_text("here")
    """
    jobs = [machine.start(name, python(write), {}) for name in ("first", "second")]
    assert [job.wait(DEADLINE) for job in jobs] == [0, 0], [job.log.read_text() for job in jobs]
    for job in jobs:
        assert (job.app / "code" / "mark").read_text() == (job.home / "mark").read_text() == "here"
    assert not Path("/app").exists()


def test_a_job_is_called_by_the_name_of_its_pod(machine: Machine) -> None:
    job = machine.start("pod", python("import socket; print(socket.gethostname())"), {}, hostname="training-x7")
    assert job.wait(DEADLINE) == 0
    assert job.log.read_text() == "training-x7\n"


def test_this_projects_code_is_not_in_the_image(machine: Machine) -> None:
    # The interpreter of these tests may have the project installed from this checkout: -S leaves site-packages out.
    job = machine.start("bare", ["python", "-S", "-c", "import pipelines"], {})
    assert job.wait(DEADLINE) == 1
    assert "No module named 'pipelines'" in job.log.read_text()


def test_a_command_that_the_image_lacks_ends_the_job_and_not_the_stand_in(machine: Machine) -> None:
    job = machine.start("typo", ["pyhton", "-V"], {})
    assert job.wait(DEADLINE) == 127
    assert "pyhton" in job.log.read_text()


def test_a_job_that_is_stopped_may_end_in_its_own_way(machine: Machine) -> None:
    job = machine.start(
        "polite",
        python("""
            import signal, sys, time
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            print("ready", flush=True)
            time.sleep(60)
        """),
        {},
    )
    wait_for_line(job, "ready")
    job.stop()
    assert job.poll() == 7


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_workers_in_sessions_of_their_own_end_with_their_job(machine: Machine, end: str) -> None:
    job = machine.start(
        "launcher",
        python("""
            import subprocess, sys
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
            print(f"worker {worker.pid}.", flush=True)
            worker.wait()
        """),
        {},
    )
    worker = psutil.Process(int(wait_for_line(job, ".").split()[1].rstrip(".")))
    getattr(job, end)()
    assert job.poll() not in (None, 0)
    limit = time.monotonic() + DEADLINE
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.02)
