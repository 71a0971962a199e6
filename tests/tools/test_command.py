"""How `tools/run.py` answers before it runs anything: help, version, and mistakes in one voice."""

import re
import shlex

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
