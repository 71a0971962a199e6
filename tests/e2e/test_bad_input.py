"""Users' mistakes: one sentence, exit code 2, no traceback, nothing half done."""

import json
import shutil
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


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose code leaves the file ``it-ran`` behind."""
    folder = tmp_path_factory.mktemp("planted") / "stranger"
    shutil.copytree(REPOSITORY / "llm_engineering" / "embedded" / "base", folder)
    code = f"open({str(folder / 'it-ran')!r}, 'w').close()\nfrom transformers import LlamaConfig\n"
    (folder / "modeling_stranger.py").write_text(f"{code}class Config(LlamaConfig):\n    model_type = 'stranger'\n")
    config = json.loads((folder / "config.json").read_text())
    named = {"model_type": "stranger", "auto_map": {"AutoConfig": "modeling_stranger.Config"}}
    (folder / "config.json").write_text(json.dumps({**config, **named}))
    return folder


@pytest.mark.parametrize(
    ("tool", "arguments", "key"),
    [
        ("run", ("--run-sft", "--set", "model.base=FOLDER"), "model.base"),
        pytest.param(
            "run", ("--run-sft", "--set", "model.base=FOLDER", "--plan"), "model.base", marks=pytest.mark.slow
        ),
        pytest.param(
            "run", ("--run-sft", "--set", "model.base=FOLDER", "--rehearse"), "model.base", marks=pytest.mark.slow
        ),
        pytest.param(
            "run", ("--run-evaluation", "--model", "mine=FOLDER"), "evaluation.models.mine", marks=pytest.mark.slow
        ),
        pytest.param("chat", ("FOLDER",), "model.base", marks=pytest.mark.slow),
        ("chat", ("FOLDER", "--serve", "--port", "0"), "model.base"),
    ],
)
def test_code_of_a_model_folder_never_runs_whoever_says_yes(
    tool: str, arguments: tuple[str, ...], key: str, line: CommandLine, planted: Path
) -> None:
    named = [each.replace("FOLDER", str(planted)) for each in arguments]
    done = line.run_tool(tool, *named, stdin="yes\n" * 9)
    assert done.returncode == 2, done.stdout + done.stderr
    assert " ".join(done.stderr.split()) == (
        f"Error: {key} '{planted}' needs Python code of its own, which is never run: auto_map in "
        f"{planted / 'config.json'} names it for the model type 'stranger', which is no language model of "
        "transformers. Use a model whose classes transformers has."
    )
    assert "[y/N]" not in done.stdout
    assert not (planted / "it-ran").exists()


def test_nothing_to_run(line: CommandLine) -> None:
    done = line.run()
    assert done.returncode == 2
    assert "--run-dpo, --run-evaluation, --run-comparison or --run-sweep" in " ".join(done.stderr.split())
