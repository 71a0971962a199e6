"""Runs that are killed, interrupted, or started twice."""

import json
import signal
import time
from pathlib import Path

import pytest
from command_line import CommandLine, wait_for

QUICK = ("--set", "evaluation.max_questions=2", "--set", "evaluation.sampled_answers=0")


def weights(summary: Path) -> bytes:
    found = json.loads(summary.read_text())
    return (Path(found["artifacts"]["dpo_model"]) / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "sft"])
def test_a_killed_training_resumes_to_the_same_weights(
    stage: str, command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    job = ("--run-training", "--config", str(small), *QUICK, "--set", f"{stage}.max_steps=40")
    process = command_line.start(*job)
    sealed = f"local_stores/*/work/train_{stage}-*/checkpoint-*/manifest.json"
    wait_for(lambda: any(command_line.store.glob(sealed)), process)
    process.kill()
    process.communicate()

    resumed = command_line.run(*job, "--summary", str(tmp_path / "resumed.json"))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "died; it is marked failed now" in resumed.stdout
    assert f"{stage.upper()} was interrupted; it goes on from step" in resumed.stdout
    assert json.loads((tmp_path / "resumed.json").read_text())["training"][stage]["resumed_from"] >= 4

    straight = command_line.run(*job, "--no-cache", "--summary", str(tmp_path / "straight.json"))
    assert straight.returncode == 0, straight.stdout + straight.stderr
    assert weights(tmp_path / "resumed.json") == weights(tmp_path / "straight.json")
    assert not list(command_line.store.glob("local_stores/*/work/*"))


def test_ctrl_c_marks_the_run_failed(command_line: CommandLine, small: Path, tmp_path: Path) -> None:
    process = command_line.start("--run-sft", "--config", str(small), "--summary", str(tmp_path / "s.json"))
    wait_for(lambda: any(command_line.store.glob("local_stores/*/work/format_datasets-*")), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted: the run is marked failed" in output
    assert "Traceback" not in output
    assert json.loads((tmp_path / "s.json").read_text())["run"]["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "pause"),
    [
        ([signal.SIGTERM], 0.0),
        ([signal.SIGINT, signal.SIGINT], 0.0),
        ([signal.SIGINT, signal.SIGINT], 0.3),
        ([signal.SIGINT] * 5, 0.1),
    ],
    ids=["SIGTERM", "Ctrl-C twice at once", "Ctrl-C twice", "Ctrl-C five times"],
)
def test_training_that_is_interrupted_says_so_and_goes_on_when_started_again(
    signals: list[signal.Signals], pause: float, command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    job = ("--run-sft", "--config", str(small), *QUICK, "--set", "sft.max_steps=200")
    process = command_line.start(*job)
    sealed = "local_stores/*/work/train_sft-*/checkpoint-*/manifest.json"
    wait_for(lambda: any(command_line.store.glob(sealed)), process)
    for number in signals:
        process.send_signal(number)
        time.sleep(pause)  # a person's, between two presses
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.count("Interrupted: the run is marked failed; start it again to go on") == 1
    assert "Traceback" not in output

    again = command_line.summary(tmp_path / "s.json", *job)
    assert again["training"]["sft"]["resumed_from"] >= 4


@pytest.mark.slow
def test_two_runs_at_once_on_a_fresh_store_share_the_training(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    job = ("--run-sft", "--config", str(small), *QUICK, "--set", "sft.max_steps=40")
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    processes = [command_line.start(*job, "--summary", str(path)) for path in paths]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    trained = [json.loads(path.read_text())["training"]["sft"] for path in paths]
    assert trained[0] == trained[1]  # seconds and all: one of them trained, the other took its result
