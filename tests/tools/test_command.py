"""How `tools/run.py` answers before it runs anything: help, version, and mistakes in one voice."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llm_engineering.config.yaml.loader import load_config
from tools import run


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(run.main, list(arguments), terminal_width=100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--foo"], "There is no flag --foo. --help lists the flags."),
        (["--quite"], "There is no flag --quite. Did you mean --quiet?"),
        (["--run-sft", "--config"], "Option '--config' requires an argument. --help lists the flags."),
        (["--run-sft", "extra"], "Got unexpected extra argument (extra). --help lists the flags."),
        (["--run-sft", "--summary", "/"], "Invalid value for '--summary': File '/' is a directory. --help lists"),
        (
            [],
            "Say one thing to run: --run-training, --run-sft, --run-dpo, --run-evaluation, --run-comparison or --run-s",
        ),
        (["--run-sft", "--quiet", "--verbose"], "--quiet and --verbose ask for opposite things: say one of them."),
        (["--run-sft", "--quiet", "--plan"], "--quiet and --plan ask for opposite things: say one of them."),
        (["--run-sft", "--\x1b[2J"], "There is no flag --\N{REPLACEMENT CHARACTER}[2J."),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2(arguments: list[str], said: str) -> None:
    result = asked(*arguments)
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert text.startswith("Error: ")
    assert said in text
    assert text.endswith((".", "?"))
    assert not result.stdout


def test_version_names_the_project_and_the_packages_that_matter() -> None:
    result = asked("--version")
    assert result.exit_code == 0
    project, packages = result.stdout.splitlines()
    assert re.fullmatch(r"llm-engineering \d+\.\d+\.\d+( \([0-9a-f]{12}\+?\))?", project)
    assert all(f" {name} " in packages for name in ("zenml", "torch", "transformers", "trl", "peft"))


def test_examples_of_the_help_are_commands_and_every_flag_stands_in_a_group() -> None:
    text = asked("--help").stdout
    examples = re.findall(r"^ +python tools/run\.py (.+)$", text, re.MULTILINE)
    assert len(examples) >= 4
    for example in examples:
        context = run.main.make_context("run.py", shlex.split(example))
        load_config(["training"], context.params["overrides"])
    others = text.partition("\nOptions:\n")[2].partition("\n\n")[0]
    assert re.findall(r"--[\w-]+", others) == ["--version", "--help"]


RAISING = """
import sys
from collections.abc import Iterator
import click
from llm_engineering.errors import ConfigError, ProofError
from tools.command import Command

@click.command(cls=Command, interrupted="Interrupted: nothing was done.")
@click.argument("error")
def main(error):
    if error == "waits":
        print("ready", flush=True)
        input()
    raise {"ours": ConfigError("Set it."), "failed": ProofError("It differs."), "full": OSError(28, "No space"),
           "file": PermissionError(13, "Denied", "a"), "other": ZeroDivisionError("by zero")}[error]

main()
"""


def raising(tmp_path: Path, *arguments: str, said_to: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    program = tmp_path / "program.py"
    program.write_text(RAISING)
    return subprocess.Popen(
        [sys.executable, str(program), *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=said_to,
        stderr=said_to,
        text=True,
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("ours", 2, "Error: Set it."),
        ("failed", 1, "Error: It differs."),
        ("file", 1, "Error: [Errno 13] Denied: 'a'. Mend the path, or its permissions."),
        ("full", 1, "Error: No space is left on the disk. Free some and start again: finished work is kept."),
        ("other", 1, "Unexpected ZeroDivisionError: by zero Run again with --verbose for the traceback."),
    ],
)
def test_every_tool_ends_with_one_sentence(tmp_path: Path, error: str, code: int, said: str) -> None:
    process = raising(tmp_path, error)
    assert " ".join(process.communicate(timeout=60)[1].split()) == said
    assert process.returncode == code


def test_a_tool_ends_with_a_traceback_where_it_is_asked_for(tmp_path: Path) -> None:
    process = raising(tmp_path, "ours", "--verbose")
    assert "Traceback" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


@pytest.fixture
def heard() -> Iterator[None]:
    """Let the tools that a test starts hear SIGHUP, even where the tests themselves were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_tool_that_is_interrupted_says_so_and_ends_with_130(tmp_path: Path, number: int) -> None:
    process = raising(tmp_path, "waits")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == "Interrupted: nothing was done.\n"
    assert process.returncode == 130


@pytest.mark.usefixtures("heard")
def test_a_tool_whose_terminal_is_closed_ends_as_it_does_by_ctrl_c(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    process = raising(tmp_path, "waits", said_to=terminal)
    os.close(terminal)
    assert os.read(controller, 5) == b"ready"
    os.close(controller)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_tool_started_by_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits it
    process = raising(tmp_path, "waits")
    signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert "KeyError" in process.communicate(input="\n", timeout=60)[1]  # it went on: "waits" is no error
