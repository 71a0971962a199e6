"""Users' mistakes: one sentence, exit code 2, no traceback, nothing half done."""

import json
from pathlib import Path

import pytest
from command_line import REPOSITORY, CommandLine


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(REPOSITORY, tmp_path_factory.mktemp("bad") / "zen")


def rows(path: Path, *lines: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"data.sft=[{{path: {path}}}]"


def refused(line: CommandLine, *arguments: str) -> str:
    done = line.run("--run-sft", "--set", "tracking={type: none}", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("Error: ")
    return " ".join(done.stderr.split())


def test_missing_data_file(line: CommandLine, tmp_path: Path) -> None:
    summary = tmp_path / "s.json"
    summary.write_text("an earlier run's")
    message = refused(line, "--set", f"data.sft=[{{path: {tmp_path / 'nix.jsonl'}}}]", "--summary", str(summary))
    assert "nix.jsonl does not exist" in message
    found = json.loads(summary.read_text())["run"]
    assert (found["status"], found["error"]) == ("failed", f"{tmp_path / 'nix.jsonl'} does not exist. Check the path.")


def test_no_rows_left(line: CommandLine, tmp_path: Path) -> None:
    message = refused(line, "--set", rows(tmp_path / "rows.jsonl", {"question": "a", "answer": ""}))
    assert "no rows are left, all 1 were dropped" in message


def test_unknown_model_version(line: CommandLine) -> None:
    assert "There is no model 'nobody'" in refused(line, "--set", "model.base=nobody@staging")


def test_a_model_to_measure_that_is_not_there(line: CommandLine, tmp_path: Path) -> None:
    done = line.run("--run-evaluation", "--model", "base=embedded", "--model", f"mine={tmp_path}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"evaluation.models.mine '{tmp_path}' has no config.json" in " ".join(done.stderr.split())


def test_nothing_to_run(line: CommandLine) -> None:
    done = line.run()
    assert done.returncode == 2
    assert "--run-dpo, --run-evaluation, --run-comparison or --run-sweep" in " ".join(done.stderr.split())
