"""Rehearsals, run as a user runs them: the shipped recipes offline, and what a rehearsal must not touch."""

import json
import re
from pathlib import Path

import pytest
from architectures import write_family
from click.testing import CliRunner
from command_line import CommandLine

from tools import run

PAIRS = [
    {
        "prompt": f"Which town is number {n}?",
        "chosen": f"Town number {n} is Paris, in France.",
        "rejected": f"I cannot say which town number {n} would be.",
    }
    for n in range(60)
]
ORCA = [
    {
        "id": str(n),
        "system_prompt": "You are a guide." if n % 2 else "",
        "question": f"Where is house {n}?",
        "response": f"House {n} stands by the river.",
    }
    for n in range(60)
]
TRANSCRIPTS = [
    {
        side: f"\n\nHuman: What is {n} and {n}?\n\nAssistant: Shall I tell you?\n\nHuman: Yes.\n\nAssistant: {answer}"
        for side, answer in (("chosen", f"It is {2 * n}."), ("rejected", f"I do not know what {n} is."))
    }
    for n in range(60)
]
TWIN = [{"instruction": f"Write about house {n}.", "output": f"House {n} has a red roof."} for n in range(60)]
RECIPES = {
    "llama-orca-hh": ("llama", False, ORCA, TRANSCRIPTS),
    "qwen-human-like": ("qwen2", True, PAIRS, PAIRS),
    "twin-llama": ("llama", False, TWIN, PAIRS),
    "pythia-hh": ("gpt_neox", False, TRANSCRIPTS, TRANSCRIPTS),
}
"""Architecture, whether its base model has a chat template, and stand-ins for the data of both kinds."""


def stand_in(path: Path, rows: list[dict[str, str]], like: str) -> str:
    """Write rows of a published data set's columns, and return the setting that puts them in its place."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"[{{path: {path}{like}}}]"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_rehearsed_offline(recipe: str, command_line: CommandLine, tmp_path: Path) -> None:
    family, chat, sft, preference = RECIPES[recipe]
    base = write_family(family, tmp_path / "base", chat=chat)
    (base / "model.safetensors").unlink()
    like = ", format: chosen_rejected" if recipe == "qwen-human-like" else ""
    few = ("--set", "sft.warmup=0.1", "--set", "dpo.warmup=0.1")  # the recipe's numbers of steps are more than 60 rows
    if recipe == "llama-orca-hh":
        few = (*few, "--set", "sft.evaluation_steps=2", "--set", "dpo.evaluation_steps=2")
    short = ("--set", "data.max_length=256", "--set", "data.max_prompt_length=128")  # the fixture's positions
    done = command_line.run(
        *("--run-training", "--config", recipe, "--rehearse", "--set", f"model.base={base}", *short, *few),
        *("--set", f"data.sft={stand_in(tmp_path / 'sft.jsonl', sft, like)}"),
        *("--set", f"data.preference={stand_in(tmp_path / 'pairs.jsonl', preference, '')}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Rehearsed: all \d+ steps passed", done.stdout)
    assert "✓ merge_dpo" in done.stdout
    assert "sft memory" in done.stdout
    assert ("looks instruct-tuned already" in done.stdout) == chat


@pytest.fixture
def rehearse(small: Path, tmp_path: Path) -> tuple[str, ...]:
    """Return the arguments that rehearse a small run, which would export its model."""
    return ("--run-training", "--config", str(small), "--rehearse", "--set", f"export.dir={tmp_path / 'exported'}")


def test_a_rehearsal_runs_every_step_and_publishes_nothing(
    command_line: CommandLine, rehearse: tuple[str, ...], tmp_path: Path
) -> None:
    done = command_line.run(*rehearse, "--summary", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["model"]["name"].startswith("small-rehearsal-")
    assert found["training"]["sft"]["steps"] == found["training"]["dpo"]["steps"] == 6
    assert found["proofs"]["step0_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert not (tmp_path / "exported").exists()
    said = " ".join(done.stdout.split())
    steps = found["run"]["step_seconds"]
    assert {"preflight", "train_sft", "train_dpo", "evaluate", "promote", "report"} <= set(steps)
    assert f"Rehearsed: all {len(steps)} steps passed" in said
    assert "Sampled pairs are ordered at random" in said
    assert "902,272, 151,552 trained" in said  # the real base's parameters, not the tiny one's
    assert "GFLOP/s, measured here" in said
    assert "Left out: " in said


@pytest.mark.slow
def test_a_second_rehearsal_is_cached_and_the_real_model_is_never_made(
    command_line: CommandLine, rehearse: tuple[str, ...], small: Path
) -> None:
    assert command_line.run(*rehearse).returncode == 0
    again = command_line.run(*rehearse)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "✓ train_dpo           cached" in again.stdout
    real = command_line.run("--run-evaluation", "--config", str(small))
    assert real.returncode == 2
    assert "There is no model 'small'" in real.stderr
    plan = command_line.run("--run-training", "--config", str(small), "--plan")
    assert "sft memory" in plan.stdout
    assert "will run  train_sft" in plan.stdout


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (("--run-sft", "--plan", "--rehearse"), "say one of them"),
        (("--run-evaluation", "--rehearse"), "there is nothing to rehearse"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(wishes: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(run.main, wishes)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
