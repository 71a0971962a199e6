"""Runs that exhaust the disk or the memory, for real."""

import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import REPOSITORY, SMALL, CommandLine

pytestmark = pytest.mark.slow


def can_mount() -> bool:
    """Return whether an unprivileged process may mount a small file system of its own here."""
    trial = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(trial, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_disk_that_is_full_keeps_the_last_good_checkpoint(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    # A disk of 2 MB: the checkpoints of the embedded model's adapter have 1.1 MB each, so that the second is torn.
    disk = tmp_path / "disk"
    disk.mkdir()
    job = tmp_path / "job.py"
    job.write_text(
        f"""
import logging, sys
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "benchmarks")!r}]
import json
from pathlib import Path
import resume_drill
from llm_engineering.errors import TrainingError
from llm_engineering.training.recovery import last_checkpoint
from llm_engineering.config.yaml.loader import load_config

config = resume_drill.scaled(load_config([{str(small)!r}]), steps=16, rows=60)
inputs = resume_drill.prepare(config, ["sft"], Path({str(tmp_path / "inputs")!r}))
job = resume_drill.Job("sft", config, inputs, Path({str(disk)!r}))
try:
    resume_drill.train(job)
except TrainingError as error:
    print("said:", error)
print("kept:", last_checkpoint(job.work_dir))
"""
    )
    command = f"mount -t tmpfs -o size=2m none {disk} && exec {' '.join(command_line.command()[:1])} {job}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], env=command_line.variables, capture_output=True, text=True, check=False
    )
    assert f"said: {disk}/work/checkpoint-" in done.stdout, done.stdout + done.stderr
    assert "cannot be written" in done.stdout
    assert "Free some space and run again" in done.stdout
    assert f"kept: {disk}/work/checkpoint-" in done.stdout


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
@pytest.mark.parametrize("size", ["4k", "600k"])  # full before the first table, and among the flavors
def test_disk_that_is_full_at_the_first_start_leaves_nothing_that_the_next_one_fails_on(
    size: str, small: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    line = CommandLine(REPOSITORY, disk / "zen")
    plan = " ".join(line.command("--run-sft", "--config", str(small), "--plan"))
    command = (
        f"mount -t tmpfs -o size={size} none {disk}; {plan}; echo first: $?; "
        f"mount -o remount,size=64m {disk}; {plan}; echo second: $?"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], env=line.variables, capture_output=True, text=True, check=False
    )
    assert "first: 1" in done.stdout, done.stdout + done.stderr
    assert "Error: No space is left on the disk. Free some and start again" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "second: 0" in done.stdout, done.stdout + done.stderr


def test_memory_that_does_not_last_is_told_before_the_first_update(tmp_path: Path) -> None:
    # 4 GB of addresses; 4096 rows at once on TRL's own path want many times as many
    config = tmp_path / "large.yaml"
    config.write_text(SMALL.replace("sft: {max_steps: 12, batch_size: 16", "sft: {max_steps: 12, batch_size: 4096"))
    line = CommandLine(REPOSITORY, tmp_path / "zen")
    quick = ["--set", "sft.fast_path=off", "--set", "sft.accumulation=10"]
    command = " ".join(line.command("--run-sft", "--config", str(config), *quick))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 6000000; exec {command}"],
        env=line.variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "Memory ran out in SFT, at 4096 rows of up to" in said
    assert "Set sft.batch_size to 2048 and sft.accumulation to 20, which trains the same" in said
    assert "Traceback" not in done.stdout + done.stderr
