"""Whole runs with Comet's offline archives, one of them killed."""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine

from llm_engineering.tracking.archives import ArchivedExperiment, is_complete, read_archive

QUICK = ("--set", "evaluation.max_questions=2", "--set", "evaluation.sampled_answers=0")
COMET = ("--set", "tracking={type: comet, project: proofs, log_model: true}")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)  # polling another process's folder: there is nothing to be told by
    raise AssertionError("the run did not come this far in two minutes")


def experiments(summary: Path) -> dict[str, ArchivedExperiment]:
    links = json.loads(summary.read_text())["tracker"]
    return {link["stage"]: read_archive(Path(link["offline_archive"])) for link in links}


@pytest.mark.slow
def test_a_killed_run_is_logged_whole_and_nothing_dead_remains(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    strays = Path(tempfile.gettempdir())
    before = set(strays.glob("tmp*/messages.json"))
    job = ("--run-training", "--config", str(small), *QUICK, *COMET, "--set", "sft.max_steps=40")
    process = command_line.start(*job, "--set", "sft.logging_steps=1")
    wait_for(
        lambda: any(command_line.store.glob("local_stores/*/work/train_sft-*/checkpoint-*/manifest.json")), process
    )
    process.kill()
    process.communicate()
    (archives,) = command_line.store.glob("local_stores/*/comet-offline")
    (dead,) = archives.glob("*.zip")
    assert not is_complete(dead)

    done = command_line.run(*job, "--set", "sft.logging_steps=1", "--summary", str(tmp_path / "s.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert dead.stem not in done.stdout
    assert not dead.exists()
    assert set(strays.glob("tmp*/messages.json")) <= before
    assert all(is_complete(path) for path in archives.iterdir())

    found = experiments(tmp_path / "s.json")
    assert list(found) == ["sft", "dpo", "evaluation", "report"]
    assert any(re.fullmatch(r"resumed_from:\d+", tag) for tag in found["sft"].tags)
    assert found["sft"].others["resumed_from_experiment"] == dead.stem
    assert [step for step, _ in found["sft"].metrics["loss"]] == list(range(1, 41))
    for stage, experiment in found.items():
        linked = {
            name: value for name, value in experiment.others.items() if str(value) in {e.key for e in found.values()}
        }
        assert linked == {f"{other}_experiment": e.key for other, e in found.items() if other != stage}
        assert experiment.others["recipe"] == "small"
    assert {"report.html", "data-preview.html", "configuration.yaml", "samples.txt", "model.safetensors"} <= set(
        found["report"].assets
    )
    assert "dpo/perplexity" in found["evaluation"].metrics

    again = command_line.summary(tmp_path / "again.json", *job, "--set", "sft.logging_steps=1", "--set", "dpo.beta=0.2")
    assert "train_sft" in again["run"]["cached_steps"]
    second = experiments(tmp_path / "again.json")
    assert second["dpo"].others["sft_experiment"] == found["sft"].key  # the one that the cached training left
    assert second["dpo"].key != found["dpo"].key
