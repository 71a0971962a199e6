"""What can be said of the images without building them: who runs them, of what they are made, what they install."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfile import REPOSITORY, context_files, lineage, read_dockerfile, run_install_line

from llm_engineering.requirements import canonical, constraints_for, read_pins

TARGETS = ("cpu", "cuda")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = sorted(set(PROJECT["optional-dependencies"]) - {"dev", "pipeline", "emulation", "emulation-gcp"})
MORE_EXTRAS = (*EXTRAS, "aws,kubernetes", "azure,kubernetes", "kubernetes,modal")
FROM_CUDA = ("nvidia-", "cuda-", "triton")
"""What torch pins itself."""
SECRETS = {"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"}
"""Addresses that may hold a password."""


@pytest.fixture(scope="module")
def context() -> dict[str, Path]:
    return context_files()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_who_owns_what_it_writes_to(target: str) -> None:
    stages = read_dockerfile()
    base = lineage(stages, target)[-1]
    assert stages[target].all("USER") == ["llm"]
    assert "chown llm:llm /app /data" in base.all("RUN")[0]
    environment = dict(re.findall(r"(\w+)=(\S+)", base.all("ENV")[0]))
    assert environment["ZENML_CONFIG_PATH"].startswith("/data/")
    assert environment["HF_HOME"].startswith("/data/")
    assert environment["ZENML_ANALYTICS_OPT_IN"] == "false"
    assert environment["PYTHONPATH"] == "/app"
    assert [flags for flags in stages[target].all("COPY") if flags.endswith("/app")] == ["--chown=llm:llm . /app"]


def test_every_base_image_has_a_tag_that_stays() -> None:
    stages = read_dockerfile()
    bases = {stage.parent for stage in stages.values()} - set(stages)
    assert bases
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w-]+", base) for base in bases), bases


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_installed_before_there_is_code_and_copied_below_it(target: str) -> None:
    stages = read_dockerfile()
    packages = lineage(stages, f"{target}-packages")
    assert {file for stage in packages for file in stage.all("COPY")} == {
        "constraints.txt ./",
        "pyproject.toml ./",
        "configs/stacks/vertex.constraints.txt configs/stacks/",
        "llm_engineering/requirements.py llm_engineering/",
    }
    assert stages[target].all("COPY") == [f"--from={target}-packages /opt/venv /opt/venv", "--chown=llm:llm . /app"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_index_address_reaches_an_image(target: str) -> None:
    stages = read_dockerfile()
    for stage in lineage(stages, target):
        named = {text.partition("=")[0] for text in stage.all("ARG")}
        assert not named & SECRETS
        assert not re.search(r"https?://", json.dumps(stage.instructions))


def test_every_file_that_is_copied_is_in_the_context(context: dict[str, Path]) -> None:
    named = [copied.split()[:-1] for stage in read_dockerfile().values() for copied in stage.all("COPY")]
    files = {file for words in named for file in words if not file.startswith("--") and file not in (".", "/opt/venv")}
    assert {"constraints.txt", "pyproject.toml"} <= files <= set(context)


def test_the_context_is_what_the_code_needs_and_nothing_else(context: dict[str, Path]) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rooms = ("configs/", "llm_engineering/", "pipelines/", "steps/", "tools/")
    files = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml")
    emulators = "tools/stack_rehearsal/"
    wanted = {path for path in tracked.stdout.splitlines() if path.startswith(rooms) or path in files}
    assert {path for path in wanted if not path.startswith(emulators)} <= set(context)
    assert not [path for path in context if path.startswith(emulators)]
    assert not [path for path in context if path.endswith(".pyc") or Path(path).name.startswith(".env")]
    assert sum(path.stat().st_size for path in context.values()) < 20e6


def test_a_secret_that_lies_about_stays_out_of_the_context(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / ".dockerignore", tmp_path)
    for place in (".env", "steps/.env", "key.json", "tools/run.py", "outputs/report.html", ".git/config"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("content")
    assert set(context_files(tmp_path)) == {"tools/run.py"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        (["--run-training", "--set", "name=two words"], ["python", "/app/tools/run.py", "--run-training"]),
        (["python", "-m", "zenml.entrypoints.entrypoint"], ["python", "-m", "zenml.entrypoints.entrypoint"]),
    ],
)
def test_flags_go_to_the_main_command_and_commands_are_run(
    target: str, arguments: list[str], started: list[str], tmp_path: Path
) -> None:
    shown = tmp_path / "python"
    shown.write_text('#!/bin/sh\nfor each in python "$@"; do echo "$each"; done\n')
    shown.chmod(0o755)
    entrypoint = json.loads(lineage(read_dockerfile(), target)[-1].all("ENTRYPOINT")[0])
    done = subprocess.run(
        [*entrypoint, *arguments], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[: len(started)] == started
    assert done.stdout.splitlines()[-1] == arguments[-1]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("extras", ["", *[pytest.param(extras, marks=pytest.mark.slow) for extras in MORE_EXTRAS]])
def test_the_install_line_resolves_to_pinned_packages(target: str, extras: str, tmp_path: Path) -> None:
    done = run_install_line(target, tmp_path, extras, "--dry-run")
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^ \+ (\S+)==(\S+)$", done.stderr, re.MULTILINE))
    pins = read_pins(constraints_for(extras.split(",")))
    assert {"zenml", "torch", "trl"} <= set(found)
    ours = {name: version.partition("+")[0] for name, version in found.items() if not name.startswith(FROM_CUDA)}
    assert ours == {name: pins.get(canonical(name)) for name in ours}


@pytest.mark.slow
def test_an_extra_that_there_is_none_of_fails_the_build(tmp_path: Path) -> None:
    done = run_install_line("cpu", tmp_path, "asw", "--dry-run")
    assert done.returncode != 0
    assert "asw" in done.stderr
