"""Comparisons and sweeps: every piece is made once, and a piece that fails ends nothing else."""

import json
import signal
from pathlib import Path

import pytest
from command_line import CommandLine, wait_for

QUICK = ("--set", "evaluation.max_questions=2", "--set", "evaluation.sampled_answers=0")


def steps(summary: dict[str, dict[str, object]]) -> list[str]:
    """Return the steps that ran, without the models that they ran for."""
    ran = summary["run"]["step_seconds"]
    assert isinstance(ran, dict)
    return [name.partition("-")[0] for name in ran]


@pytest.mark.slow
def test_a_sweep_shares_pieces_keeps_failures_apart_and_promotes_the_best(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    summary = tmp_path / "s.json"
    values = ("--set", "sweep.dpo.nll_weight=[0, 0.5]", "--set", "sweep.adapter.targets=[all-linear, [nowhere]]")
    swept = command_line.run("--run-sweep", "--config", str(small), *QUICK, *values, "--summary", str(summary))
    assert swept.returncode == 1, swept.stdout + swept.stderr
    found = json.loads(summary.read_text())
    ran = steps(found)
    assert [ran.count(step) for step in ("train_sft", "build_preferences", "score_reference")] == [1, 1, 1]
    assert [ran.count(step) for step in ("train_dpo", "merge_dpo", "evaluate")] == [2, 2, 1]
    errors = {name: variant["error"] for name, variant in found["variants"].items()}
    assert [name for name, error in errors.items() if error is None] == [
        "dpo.nll_weight=0, adapter.targets=all-linear",
        "dpo.nll_weight=0.5, adapter.targets=all-linear",
    ]
    failed = [error for error in errors.values() if error]
    assert len(failed) == 2
    assert failed[0] == failed[1]  # one piece, tried once
    assert "train_sft-" in failed[0]
    assert "nowhere" in failed[0]
    assert found["best"] in found["models"]
    assert found["promotion"]["stage"] == "staging"
    assert "train_dpo           cached" in swept.stdout  # the best one's way to promotion
    assert "test split, 2 questions" in swept.stdout


@pytest.mark.slow
def test_a_comparison_takes_what_a_training_made_and_keeps_what_did_not_fail(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    job = ("--config", str(small), *QUICK)
    command_line.summary(tmp_path / "training.json", "--run-training", *job)
    recipes = ("--set", "comparison.recipes=[base, sft, sft_dpo, sft_clean]")
    summary = tmp_path / "s.json"
    done = command_line.run("--run-comparison", *job, *recipes, "--summary", str(summary))
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(summary.read_text())
    assert steps(found) == ["preflight", "evaluate", "compare_variants"]  # all that is trained was trained before
    assert {"load_datasets", "train_sft-sft", "train_dpo-sft_dpo"} <= set(found["run"]["cached_steps"])
    assert set(found["models"]) == {"base", "sft", "sft_dpo"}
    assert found["variants"]["sft_clean"]["error"].startswith("imitation_rows-sft_clean: No chosen answer of the ")
    assert "kl_per_token" not in found["models"]["base"]
    against = {(one["candidate"], one["against"]) for one in found["differences"]}
    assert against == {("sft", "base"), ("sft_dpo", "sft")}
    assert Path(found["artifacts"]["report"]).read_text().startswith("<!")
    assert (Path(found["artifacts"]["sft_dpo"]) / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(command_line: CommandLine, small: Path, tmp_path: Path) -> None:
    job = ("--run-sweep", "--config", str(small), *QUICK, "--set", "sweep.dpo.nll_weight=[0, 0.5]")
    job = (*job, "--set", "dpo.max_steps=40")
    process = command_line.start(*job)
    trained = "local_stores/*/merge_dpo-dpo.nll_weight=0/dpo_model/*/*/files"
    sealed = "local_stores/*/work/train_dpo-*/checkpoint-*/manifest.json"
    wait_for(lambda: any(command_line.store.glob(trained)) and any(command_line.store.glob(sealed)), process)
    process.kill()
    process.communicate()

    found = command_line.summary(tmp_path / "s.json", *job)
    assert {"train_sft-dpo.nll_weight=0", "train_dpo-dpo.nll_weight=0"} <= set(found["run"]["cached_steps"])
    second = found["variants"]["dpo.nll_weight=0.5"]["training"]["dpo"]
    assert second["resumed_from"] >= 4
    assert not list(command_line.store.glob("local_stores/*/work/*"))


@pytest.mark.slow
@pytest.mark.parametrize("job", ["comparison", "sweep"])
def test_one_interrupt_ends_all_models(job: str, command_line: CommandLine, small: Path, tmp_path: Path) -> None:
    values = ("--set", "sweep.dpo.nll_weight=[0, 0.5]", "--set", "sft.max_steps=200")
    summary = tmp_path / "s.json"
    process = command_line.start(f"--run-{job}", "--config", str(small), *values, "--summary", str(summary))
    sealed = "local_stores/*/work/train_sft-*/checkpoint-*/manifest.json"
    wait_for(lambda: any(command_line.store.glob(sealed)), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted: the run is marked failed; start it again to go on" in output
    assert "Traceback" not in output
    assert json.loads(summary.read_text())["run"]["status"] == "failed"
