"""Unsloth for real, on whatever machine this is: in an environment of its own, and with no way out to the network.

``UNSLOTH_PYTHON`` names the interpreter of an environment to use; else one is made, which takes some minutes.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY, CommandLine

pytestmark = pytest.mark.slow
CPU_RELEASE = ("unsloth==2026.10.9", "unsloth_zoo==2026.10.9", "json5")
"""The first release that trains on a CPU. It wants a newer certifi than the pinned set has; nothing here needs one."""
START = """
import sys
from llm_engineering.config.model import UnslothBackend
from llm_engineering.models.backends import pick_backend
pick_backend(UnslothBackend()).start()
"""
RUN_TESTS = f"{START}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
NO_NETWORK = """
import os, socket

def refuse(self, address, *others):
    if self.family == socket.AF_UNIX:
        return allowed[self.family](self, address, *others)
    return refused(address)

def refused(*what):
    with open(os.environ["NETWORK_LOG"], "a") as log:
        print(what, file=log)
    raise OSError("a test without a network tried to use it")

allowed = {socket.AF_UNIX: socket.socket.connect}
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.gethostbyname = refused
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an interpreter beside which Unsloth is installed and starts."""
    if named := os.environ.get("UNSLOTH_PYTHON"):
        return named
    folder = tmp_path_factory.mktemp("unsloth") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    made = str(folder / "bin" / "python")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    install(
        made,
        "--constraint",
        str(REPOSITORY / "constraints.txt"),
        *project["dependencies"],
        *extras["dev"],
        *extras["unsloth"],
    )
    if "does not run here" in start(made):
        install(made, "--no-deps", *CPU_RELEASE)
        # built for CUDA, it does not load beside torch's CPU build; transformers' Trainer needs none, or a whole one
        subprocess.run([made, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    return made


def install(python: str, *packages: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"pip cannot install Unsloth here: {errors[-1] if errors else done.stderr}")


def start(python: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([python, "-c", START], env=environment, capture_output=True, text=True, check=False).stderr


@pytest.fixture
def closed(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which every way to the network fails and leaves a line in ``network.log``."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "sitecustomize.py").write_text(NO_NETWORK)
    return {
        "PYTHONPATH": f"{tmp_path / 'closed'}:{REPOSITORY}",
        "NETWORK_LOG": str(tmp_path / "network.log"),
        "XDG_CACHE_HOME": str(tmp_path / "caches"),
        "OMP_NUM_THREADS": "1",
    }


def test_the_network_is_closed(closed: dict[str, str], tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **closed}, capture_output=True, text=True, check=False
    )
    assert "a test without a network tried to use it" in done.stderr
    assert (tmp_path / "network.log").exists()


def test_unsloth_does_what_every_backend_does(python: str, closed: dict[str, str], tmp_path: Path) -> None:
    options = ["-q", "-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    shared = str(REPOSITORY / "tests" / "training" / "test_backends.py")
    command = [python, "-c", RUN_TESTS, *options, "--basetemp", str(tmp_path / "inner"), "-k", "unsloth", shared]
    done = subprocess.run(
        command, env={**os.environ, **closed}, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed, \d+ deselected", done.stdout), done.stdout
    assert "skipped" not in done.stdout
    assert not (tmp_path / "network.log").exists()
    assert not (tmp_path / "unsloth_compiled_cache").exists()


def test_a_whole_run_gives_what_the_peft_backend_gives(
    python: str, closed: dict[str, str], small: Path, tmp_path: Path
) -> None:
    # The other run is in this interpreter, which Unsloth never touched.
    exact = (
        "--run-training",
        "--config",
        str(small),
        "--set",
        "sft.evaluation_steps=6",
        "--set",
        "data.test_share=0.1",
    )
    line = CommandLine(REPOSITORY, tmp_path / "zen-unsloth", closed, python)
    ours = line.summary(tmp_path / "unsloth.json", *exact, "--set", "model.backend={type: unsloth}")
    theirs = CommandLine(REPOSITORY, tmp_path / "zen-peft").summary(tmp_path / "peft.json", *exact)
    assert not (tmp_path / "network.log").exists()
    assert not (REPOSITORY / "unsloth_compiled_cache").exists()
    for stage in ("sft", "dpo"):
        assert ours["training"][stage]["path"] == theirs["training"][stage]["path"] == "fast"
        close(ours["training"][stage]["metrics"], theirs["training"][stage]["metrics"])
    for name in ("base", "sft", "dpo"):
        close(ours["models"][name], theirs["models"][name])
    proofs = ours["proofs"]
    assert proofs["reference_hash"] == proofs["reference_hash_after"] == proofs["sft_hash"]
    assert proofs["sft_hash"] == theirs["proofs"]["sft_hash"]  # the same weights, to the last bit


def test_a_precision_that_unsloth_would_change_is_refused(
    python: str, closed: dict[str, str], small: Path, tmp_path: Path
) -> None:
    line = CommandLine(REPOSITORY, tmp_path / "zen", closed | {"UNSLOTH_CPU_BF16": "0"}, python)
    wanted = ("--set", "model={backend: {type: unsloth}, dtype: bfloat16}")
    done = line.run("--run-sft", "--config", str(small), *wanted)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "trains with bf16 False where the configuration asks for True" in " ".join(done.stderr.split())


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    timed = ("runtime", "per_second", "flos")
    plain = {name: value for name, value in theirs.items() if not name.endswith(timed)}
    assert {name: ours[name] for name in plain} == pytest.approx(plain, rel=1e-4, abs=1e-5)
