"""One store through a sequence of runs: full, repeated, changed, with edited code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SMALL, CommandLine, copy_checkout
from comments import commented

TRAINING_STEPS = [
    "load_datasets",
    "format_datasets",
    "preview_data",
    "train_sft",
    "merge_sft",
    "build_preferences",
    "score_reference",
    "train_dpo",
    "merge_dpo",
    "evaluate",
    "show_outcomes",
]
UNCACHED = ["preflight", "gather_measured", "promote", "export", "report"]


@pytest.fixture
def line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(SMALL)
    return CommandLine(copy_checkout(folder / "checkout"), folder / "zen")


def test_runs_reuse_what_did_not_change(line: CommandLine, tmp_path: Path) -> None:
    # One test, since every run builds on the store that the one before left.
    job = ("--run-training", "--config", str(line.store.parent / "small.yaml"))

    first = line.summary(tmp_path / "1.json", *job)
    assert first["run"]["status"] == "completed"
    assert set(first["run"]["step_seconds"]) == {*TRAINING_STEPS, *UNCACHED}
    assert first["proofs"]["step0_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["proofs"]["reference_hash"] == first["proofs"]["sft_hash"] == first["proofs"]["reference_hash_after"]
    assert first["proofs"]["merge"]["dpo"]["max_logit_difference"] < 1e-3
    sft = first["data"]["sft"]
    assert sft["rows"] == sft["train"] + sft["eval"] + sft["test"] + sum(sft["dropped"].values())
    assert set(first["models"]) == {"base", "sft", "dpo"}
    assert first["model"]["version"] == "1"
    assert (first["run"]["seed"], first["run"]["code_commit"]) == (42, None)  # the checkout is a copy without .git
    assert "; Python 3." in first["run"]["hardware"]
    assert (Path(first["artifacts"]["dpo_model"]) / "chat_template.jinja").is_file()
    assert Path(first["artifacts"]["report"]).read_text().startswith("<!")
    rows = [json.loads(row) for row in Path(first["artifacts"]["outcomes"]).read_text().splitlines()]
    pairs = [(row["model"], row["parent"]) for row in rows if row["kind"] == "pair"]
    assert pairs.count(("sft", "base")) == pairs.count(("dpo", "sft")) == first["data"]["preference"]["test"]
    assert Path(first["artifacts"]["outcome_table"]).read_text().startswith("<!")

    for room in ("llm_engineering", "steps"):
        for module in (line.root / room).rglob("*.py"):
            module.write_text(commented(module.read_text()))
    repeated = line.summary(tmp_path / "2.json", *job)
    assert set(repeated["run"]["cached_steps"]) == set(TRAINING_STEPS)
    assert repeated["model"]["version"] == "2"
    assert repeated["models"] == first["models"]

    plan = line.run(*job, "--plan", "--set", "dpo.beta=0.2")
    assert "cached    build_preferences" in plan.stdout
    assert "cached    score_reference" in plan.stdout
    assert "will run  train_dpo" in plan.stdout

    changed = line.summary(tmp_path / "3.json", *job, "--set", "dpo.beta=0.2")
    assert set(changed["run"]["cached_steps"]) == set(TRAINING_STEPS[:7])  # another beta, the same reference
    assert changed["training"]["sft"] == first["training"]["sft"]

    again = line.run("--run-evaluation", *job[1:], "--set", "evaluation.max_questions=5")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "5 questions" in again.stdout


@pytest.mark.slow
def test_edited_code_and_lost_folders_are_made_again(line: CommandLine, tmp_path: Path) -> None:
    job = ("--run-training", "--config", str(line.store.parent / "small.yaml"))
    first = line.summary(tmp_path / "1.json", *job)

    helper = line.root / "llm_engineering" / "models" / "generation.py"  # used by the steps through other modules
    helper.write_text(helper.read_text() + "\nEDITED = True\n")
    edited = line.summary(tmp_path / "4.json", *job)
    assert set(edited["run"]["cached_steps"]) == {*TRAINING_STEPS[:3], "score_reference"}  # which generates nothing
    assert edited["training"]["sft"]["metrics"] == first["training"]["sft"]["metrics"]  # fp32 on a CPU: bit for bit
    assert edited["models"] == first["models"]

    shutil.rmtree(Path(edited["artifacts"]["dpo_model"]))
    gone = line.run(*job)
    assert gone.returncode == 2, gone.stdout + gone.stderr
    assert "is gone. Run again what made it: its step merge_dpo is not" in " ".join(gone.stderr.split())
    mended = line.summary(tmp_path / "5.json", *job)
    assert set(mended["run"]["cached_steps"]) == set(TRAINING_STEPS) - {"merge_dpo"}
    assert "has no decision or no model folder any more" in mended["promotion"]["reason"]

    dpo = line.summary(
        tmp_path / "6.json", "--run-dpo", *job[1:], "--set", "model.base=small@1", "--set", "name=second"
    )
    assert set(dpo["models"]) == {"base", "dpo"}


@pytest.mark.slow
def test_a_watch_that_only_warns_trains_nothing_anew_and_versions_are_measured_side_by_side(
    line: CommandLine, model_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    job = ("--run-training", "--config", str(line.store.parent / "small.yaml"))
    first = line.summary(tmp_path / "1.json", *job)

    plan = line.run(*job, "--plan", "--set", "watch.no_signal.margin=1")  # it only warns
    assert "cached    train_dpo" in plan.stdout
    plan = line.run(*job, "--plan", "--set", "watch.no_signal.margin=1", "--set", "watch.on.no_signal=stop")
    assert "cached    train_sft" in plan.stdout
    assert "will run  train_dpo" in plan.stdout

    versions = ("--model", "base=embedded", "--model", "sft=small@1", "--model", f"other={model_folders('qwen2')}")
    several = line.summary(tmp_path / "several.json", "--run-evaluation", *job[1:], *versions)
    assert several["model"] is None
    assert set(several["models"]) == {"base", "sft", "other"}
    assert several["models"]["base"]["perplexity"] == first["models"]["base"]["perplexity"]
    assert several["models"]["sft"]["kl_per_token"] > 0  # from base
    assert "answer_accuracy" in several["models"]["other"]
    assert "held_out_loss" not in several["models"]["other"]  # it has other tokens
    assert Path(several["artifacts"]["outcomes"]).is_file()
