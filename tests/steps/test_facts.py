import subprocess
from pathlib import Path

import pytest

from steps.runtime.facts import origin


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_run_knows_its_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "First")
    facts = origin(7, tmp_path)
    assert (facts["seed"], facts["code_commit"], facts["code_dirty"]) == (7, git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a.py").write_text("a = 2\n")
    assert origin(7, tmp_path)["code_dirty"] is True


def test_code_outside_a_repository_has_no_commit(tmp_path: Path) -> None:
    facts = origin(7, tmp_path)
    assert (facts["code_commit"], facts["code_dirty"]) == (None, None)


def test_a_machine_without_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin(7, tmp_path)["code_commit"] is None


def test_the_machine_is_named_with_its_python(tmp_path: Path) -> None:
    assert "; Python 3." in origin(7, tmp_path)["hardware"]
