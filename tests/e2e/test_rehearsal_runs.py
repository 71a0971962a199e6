"""Rehearsals, run as a user runs them: the shipped recipes offline, and what a rehearsal must not touch."""

import json
from pathlib import Path

import pytest
from architectures import write_family
from command_line import SMALL, CommandLine

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
    short = ("--set", "data.max_length=256", "--set", "data.max_prompt_length=128")  # the fixture's positions
    done = command_line.run(
        *("--run-training", "--config", recipe, "--rehearse", "--set", f"model.base={base}", *short),
        *("--set", f"data.sft={stand_in(tmp_path / 'sft.jsonl', sft, like)}"),
        *("--set", f"data.preference={stand_in(tmp_path / 'pairs.jsonl', preference, '')}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Rehearsed: all 10 steps passed" in done.stdout
    assert "✓ merge_dpo" in done.stdout
    assert "sft memory" in done.stdout
    assert ("looks instruct-tuned already" in done.stdout) == chat


def test_a_rehearsal_leaves_the_real_model_and_the_export_alone(tmp_path: Path) -> None:
    line = CommandLine(Path(__file__).parents[2], tmp_path / "zen")
    config, target = tmp_path / "small.yaml", tmp_path / "exported"
    config.write_text(SMALL)
    job = ("--run-training", "--config", str(config), "--set", f"export.dir={target}", "--rehearse")

    found = line.summary(tmp_path / "1.json", *job)
    assert found["run"]["status"] == "completed"
    assert found["model"]["name"].startswith("small-rehearsal-")
    assert found["training"]["sft"]["steps"] == found["training"]["dpo"]["steps"] == 6
    assert found["proofs"]["step0_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert not target.exists()

    again = line.run(*job)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "✓ train_dpo           cached" in again.stdout
    said = " ".join(again.stdout.split())
    assert "Rehearsed: all 11 steps passed" in said
    assert "Sampled pairs are ordered at random" in said
    assert "902,272, " in said or "902272" in said  # parameters of the real base, not of the tiny one
    assert "GFLOP/s, measured here" in said
    assert "Left out: " in said

    real = line.run("--run-evaluation", "--config", str(config))
    assert real.returncode == 2
    assert "There is no model 'small'" in real.stderr


def test_plan_and_rehearse_are_two_wishes(tmp_path: Path) -> None:
    done = CommandLine(Path(__file__).parents[2], tmp_path / "zen").run("--run-sft", "--plan", "--rehearse")
    assert done.returncode == 2
    assert "say one of them" in done.stderr
