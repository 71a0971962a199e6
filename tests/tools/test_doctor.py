"""`tools/doctor.py` says what is missing on a machine where much is broken, and touches nothing."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from llm_engineering.checkup.finding import Finding
from pipelines import checkup
from steps.runtime.work import is_locked

REPOSITORY = Path(__file__).parents[2]


def doctor(folder: Path, *arguments: str, broken: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the doctor where some packages cannot be imported."""
    for name in broken:
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "__init__.py").write_text(f"raise ImportError('{name} is \\x1b[31mbroken')")
    variables = {
        **os.environ,
        "PYTHONPATH": str(folder / "broken"),
        "ZENML_CONFIG_PATH": str(folder / "zen"),
        "COLUMNS": "100",
    }
    command = [sys.executable, str(REPOSITORY / "tools" / "doctor.py"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_broken_is_said_line_by_line_and_the_rest_is_examined(tmp_path: Path) -> None:
    done = doctor(tmp_path, broken=("torch", "zenml", "comet_ml", "huggingface_hub", "pydantic", "psutil"))
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    problems = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("problem")]
    assert problems == ["memory", "torch", "ZenML", "hub", "Comet"]
    assert "\x1b" not in done.stdout
    assert "5 problems" in done.stdout.splitlines()[-1]
    assert not (tmp_path / "zen").exists()


def test_findings_as_json_say_the_same(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", broken=("torch", "comet_ml"))
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["problems"] == 2
    by_name = {each["check"]: each for each in found["findings"]}
    assert by_name["torch"]["text"].startswith("does not start: ImportError: torch is")
    assert by_name["store"]["text"].startswith("none yet: the first run makes")
    assert set(by_name["torch"]) == {"check", "level", "text", "remedy"}
    assert all(each["remedy"] for each in found["findings"] if each["level"] != "ok")
    assert not (tmp_path / "zen").exists()


def test_without_rich_one_sentence_says_so(tmp_path: Path) -> None:
    done = doctor(tmp_path, broken=("rich",))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "make install" in done.stderr


def store_at(path: Path, schema: str) -> Path:
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("INSERT INTO alembic_version VALUES (?)", (schema,))
    store.close()
    return path


@pytest.mark.parametrize(
    ("schema", "level", "said"),
    [("0.80.0", "note", "of an older ZenML (schema 0.80.0)"), ("9.0.0", "problem", "of a newer ZenML")],
)
def test_store_of_another_zenml_is_named_and_left_as_it_is(tmp_path: Path, schema: str, level: str, said: str) -> None:
    path = store_at(tmp_path / "zenml.db", schema)
    before = path.read_bytes()
    (found,) = checkup.examine_store(path, tmp_path / "locks")
    assert (found.check, found.level) == ("store", level)
    assert said in found.text
    assert path.read_bytes() == before


def test_store_whose_first_start_was_killed_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    path = store_at(tmp_path / "zenml.db", "0.98.0")
    with closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE stack (id TEXT)")
    before = path.read_bytes()
    (found,) = checkup.examine_store(path, tmp_path / "locks")
    assert (found.level, found.text) == ("note", f"{path}, 0 MiB, half made")
    assert path.read_bytes() == before


def test_store_that_a_full_disk_left_empty_is_none_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    path = tmp_path / "local_stores" / "default_zen_store" / "zenml.db"
    path.parent.mkdir(parents=True)
    path.touch()
    found = {each.check: each for each in checkup.examine_zenml()}
    assert found["store"] == Finding("store", "ok", f"none yet: the first run makes {path}")


def test_dead_server_that_the_client_is_connected_to_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    (tmp_path / "config.yaml").write_text("store:\n  type: rest\n  url: http://127.0.0.1:9\n")
    found = {each.check: each for each in checkup.examine_zenml()}
    assert found["store"] == Finding(
        "store",
        "problem",
        "the client is connected to the server http://127.0.0.1:9, which does not answer (ConnectError)",
        "Start it again, or go back to the local store with `python tools/dashboard.py --reset`.",
    )


def test_lock_of_a_run_that_lives_is_seen_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path):
        assert is_locked(path)
    path.touch()
    assert not is_locked(path)


@pytest.mark.parametrize(("folder_mode", "exposed"), [(0o755, True), (0o700, False)])
def test_files_with_secrets_that_others_may_open_are_named(tmp_path: Path, folder_mode: int, exposed: bool) -> None:
    for name, mode in (("config.yaml", 0o600), ("zenml.db", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(folder_mode)
    found = list(checkup.examine_privacy(tmp_path, tmp_path / "zenml.db"))
    text = f"other users of this machine may open what may hold secrets: {tmp_path / 'zenml.db'}"
    assert found == [Finding("privacy", "note", text, f"Run `chmod -R go-rwx {tmp_path}`.")] * exposed
