"""Checks of the machine: each says what it found and what to do, whatever is broken."""

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import Any

import pytest

from llm_engineering.checkup import compute, machine, services, software
from llm_engineering.checkup.finding import Finding, examine

GIB = 2**30
CPU_ONLY = {"torch": "2.13.0+cpu", "cuda": None, "gpus": [], "packages": []}


def gpu(**values: Any) -> dict[str, Any]:
    whole = {"name": "H200", "free": 130 * GIB, "total": 139 * GIB, "capability": [9, 0], "bf16": True}
    return {"torch": "2.13.0", "cuda": "13.0", "gpus": [whole | values], "packages": []}


def test_a_check_that_breaks_is_a_problem_and_the_others_go_on() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("first", "ok", "seen")
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    found = list(examine({"broken": breaks, "sound": lambda: [Finding("sound", "ok", "fine")]}))
    assert [(each.check, each.level) for each in found] == [("first", "ok"), ("broken", "problem"), ("sound", "ok")]
    assert found[1].text == "could not be examined: OSError: libcudart.so.13: cannot open shared object file"
    assert "make install" in found[1].remedy


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that needs alpha, which needs beta and, as an extra, gamma, which is not there."""
    requires = {"alpha": ["beta", "gamma; extra == 'more'", "windows-only; sys_platform == 'win32'"], "beta": []}
    for name, version in (("alpha", "1.0"), ("beta", "2.1+cpu")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires[name])]
        (folder / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def examined(folder: Path, dependency: str, pins: str) -> list[Finding]:
    extra = '[project.optional-dependencies]\npipeline = ["beta"]\n'
    (folder / "pyproject.toml").write_text(f'[project]\ndependencies = ["{dependency}"]\n{extra}')
    (folder / "constraints.txt").write_text(pins)
    return list(software.examine_packages(folder / "pyproject.toml", folder / "constraints.txt"))


def test_packages_as_pinned_are_counted_and_a_local_version_is_the_same(packages: Path) -> None:
    (found,) = examined(packages, "alpha", "# pins\nalpha==1.0\nbeta==2.1\nunused==1\n")
    assert (found.level, found.text) == ("ok", "2 packages, all as pinned")


def test_missing_and_other_packages_are_named(packages: Path) -> None:
    missing, other = examined(packages, "alpha[more]", "alpha==1.0\nbeta==2.2\ngamma==1\n")
    assert (missing.level, missing.text) == ("problem", "not installed: gamma")
    assert (other.level, other.text) == ("note", "another version than the pinned one: beta 2.1+cpu (pinned: 2.2)")


def test_another_python_is_a_problem(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nrequires-python = "<3"\n')
    (found,) = software.examine_python(project)
    assert found.level == "problem"
    assert "<3 is needed" in found.text


@pytest.mark.parametrize(
    ("free", "level"), [(0.9 * GIB, "problem"), (1 * GIB, "note"), (9.9 * GIB, "note"), (10 * GIB, "ok")]
)
def test_room_on_a_disk(free: float, level: str) -> None:
    found = machine.judge_disk("artifact store", Path("/store"), int(free))
    assert found.level == level
    assert bool(found.remedy) == (level != "ok")


def test_folder_that_is_not_there_is_measured_where_it_would_be_made(tmp_path: Path) -> None:
    (found,) = machine.examine_disk("artifact store", tmp_path / "not" / "there")
    assert "free in" in found.text
    assert not (tmp_path / "not").exists()


def test_memory_of_a_container_is_what_it_may_use(tmp_path: Path) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text("2147483648\n")
    assert machine.container_limit((none, limit)) == 2 * GIB
    limit.write_text("max\n")
    assert machine.container_limit((limit,)) is None
    assert machine.judge_memory(2 * GIB, GIB // 2).level == "problem"
    assert machine.judge_memory(16 * GIB, 8 * GIB).text == "8.0 GiB available of 16.0 GiB"


def test_fewer_threads_than_there_are_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (found,) = machine.examine_threads({"OMP_NUM_THREADS": "2"})
    assert (found.level, found.text) == ("note", "8 CPU threads, of which OMP_NUM_THREADS=2 lets torch use 2")
    (found,) = machine.examine_threads({})
    assert found == Finding("threads", "ok", "8 CPU threads")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "OSError: libcudart.so.13: cannot open"),
        ("import os; os._exit(7)", "exit code 7"),
    ],
)
def test_torch_that_does_not_start_is_a_problem_even_if_it_takes_its_process_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = compute.examine_compute()
    assert (found.check, found.level) == ("torch", "problem")
    assert said in found.text


def levels(found: dict[str, Any], has_driver: bool = False) -> dict[str, str]:
    return {each.check: each.level for each in compute.judge_compute(found, has_driver=has_driver)}


def test_cpu_is_no_problem_and_lacks_nothing_that_it_could_use() -> None:
    assert levels(CPU_ONLY) == {
        "torch": "ok",
        "GPU": "note",
        "flash-attn": "ok",
        "bitsandbytes": "ok",
        "liger-kernel": "ok",
        "unsloth": "ok",
    }


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_gpu_that_torch_does_not_see_is_a_problem(cuda: str | None) -> None:
    found = {each.check: each for each in compute.judge_compute(CPU_ONLY | {"cuda": cuda}, has_driver=True)}
    assert found["GPU"].level == "problem"
    assert ("built for the CPU alone" in found["GPU"].text) == (cuda is None)


def test_gpu_is_described_with_memory_and_precisions() -> None:
    found = {each.check: each for each in compute.judge_compute(gpu(), has_driver=True)}
    assert found["GPU"] == Finding("GPU", "ok", "H200, 130.0 GiB free of 139.0 GiB")
    assert found["precision"] == Finding("precision", "ok", "bf16, fp16, tf32")
    assert found["flash-attn"].level == found["bitsandbytes"].level == found["unsloth"].level == "note"
    old = {each.check: each for each in compute.judge_compute(gpu(capability=[7, 0], bf16=False), has_driver=True)}
    assert old["precision"].text == "fp16; no bf16, no tf32"
    assert levels(gpu(free=10 * GIB), has_driver=True)["GPU"] == "note"


def test_unsloth_that_does_not_start_says_why() -> None:
    broken = CompletedProcess([], 1, "", "Traceback\nllm_engineering.errors.ConfigError: it does not run here.\n")
    assert compute.judge_unsloth(broken).text.endswith("but it does not start: it does not run here.")
    assert compute.judge_unsloth(CompletedProcess([], 0, "", "")).level == "ok"


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") in (None, "Bearer hf_right")
        body = b'{"id": "openai-community/gpt2", "siblings": []}'
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    yield address
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("token", "level", "said"),
    [
        ("", "ok", "answers"),
        ("hf_right", "ok", "answers, and takes the stored token"),
        ("hf_wrong", "problem", "refuses the stored token"),
    ],
)
def test_hub_is_asked_whether_it_takes_the_token_which_is_never_shown(
    hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, level: str, said: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token)
    first, *others = services.examine_hub(network=True)
    assert (first.level, first.text) == (level, f"{hub} {said}")
    assert [each.level for each in others] == ([] if token else ["note"])


def test_hub_that_cannot_be_reached_is_a_problem_only_where_it_is_asked(
    hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (asked,) = services.examine_hub(network=True)
    assert (asked.level, asked.text) == ("problem", "http://127.0.0.1:9 cannot be reached: ConnectError")
    (not_asked,) = services.examine_hub(network=False)
    assert not_asked.level == "ok"
    assert "hf_right" not in asked.text + not_asked.text


def test_key_of_comet_is_found_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")
    monkeypatch.setenv("COMET_API_KEY", "secret-key")
    (found,) = services.examine_comet(network=False)
    assert found.level == "ok"
    assert "secret-key" not in found.text
    (asked,) = services.examine_comet(network=True)
    assert (asked.level, "cannot be reached" in asked.text) == ("problem", True)
    monkeypatch.delenv("COMET_API_KEY")
    monkeypatch.setenv("COMET_CONFIG", "/nowhere")
    (without,) = services.examine_comet(network=True)
    assert (without.level, without.text) == ("note", "no key: every stage is logged to an offline archive")


def test_this_python_is_named() -> None:
    (found,) = software.examine_python(Path(__file__).parents[2] / "pyproject.toml")
    assert found.level == "ok"
    assert sys.executable in found.text
