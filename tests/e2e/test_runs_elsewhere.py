"""The same runs on a bucket, a server and other machines, with the numbers that they have here.

Needs the extra ``emulation``: ``.venv-stacks/bin/python -m pytest -m slow tests/e2e/test_runs_elsewhere.py``.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import REPOSITORY, CommandLine
from elsewhere import OWN_FILES, Submitter, keys_of, numbers

from llm_engineering.errors import StoreError
from tools.stack_rehearsal.emulation import Emulation, require_packages, standing_in

pytestmark = pytest.mark.slow
TRAINED_IN_MINUTES = """
name: drill
data: {sft: [{embedded: true, first: 200}], max_length: 128, audit: false}
sft: {max_steps: 150, batch_size: 8, save_steps: 10, learning_rate: 4.0e-3}
evaluation: {max_questions: 4, max_new_tokens: 8}
promotion: {least_units: 1}
tracking: {type: none}
"""


@pytest.fixture
def emulation(tmp_path: Path) -> Iterator[Emulation]:
    try:
        require_packages()
    except StoreError as error:
        pytest.skip(str(error))
    with standing_in(["kubernetes"], tmp_path / "emulation") as opened:
        yield opened


@pytest.fixture
def own_files(tmp_path: Path, model_folders: Callable[[str], Path]) -> Path:
    folder = tmp_path / "submitter"
    shutil.copytree(model_folders("llama"), folder / "model")
    shutil.copy(REPOSITORY / "llm_engineering/models/templates/chatml.jinja", folder / "mine.jinja")
    sft = [{"instruction": f"Name town {n}.", "output": f"Town {n} is here."} for n in range(40)]
    pairs = [
        {"prompt": f"Where is town {n}?", "chosen": f"It is at {n}.", "rejected": f"No idea {n}."} for n in range(40)
    ]
    for name, rows in (("sft", sft), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text(OWN_FILES)
    return folder


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)  # polling what other processes store


def test_a_run_on_a_server_and_a_bucket_has_the_numbers_of_a_local_one(
    emulation: Emulation, command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    here = command_line.summary(tmp_path / "here.json", "--run-training", "--config", str(small))
    submitter = Submitter(emulation, tmp_path / "client")
    submitter.use_bucket()
    there = submitter.command_line.summary(tmp_path / "there.json", "--run-training", "--config", str(small))
    assert numbers(there) == numbers(here)
    assert there["artifacts"]["sft_model"].startswith("s3://")
    assert keys_of(emulation, "work/") == []


def test_steps_that_see_nothing_of_the_submitter_give_the_numbers_of_a_local_run(
    emulation: Emulation, command_line: CommandLine, own_files: Path, tmp_path: Path
) -> None:
    asked = ["--run-training", "--config", str(own_files / "run.yaml")]
    here = command_line.summary(tmp_path / "here.json", *asked)
    submitter = Submitter(emulation, tmp_path / "client")
    stack = submitter.register("kubernetes")
    summary = tmp_path / "there.json"
    submitting = submitter.command_line.start(*asked, *stack, "--summary", str(summary))
    jobs = emulation.surroundings.machine.jobs
    wait_until(lambda: bool(jobs), submitting)
    own_files.rename(tmp_path / "gone")  # all was stored by then
    said = submitting.communicate()[0]
    assert submitting.returncode == 0, said
    there = json.loads(summary.read_text())
    assert numbers(there) == numbers(here)
    assert all(link["offline_archive"].startswith("s3://") for link in there["tracker"])


def test_a_training_whose_machine_was_lost_goes_on_elsewhere_and_ends_in_the_same_weights(
    emulation: Emulation, command_line: CommandLine, tmp_path: Path
) -> None:
    config = tmp_path / "drill.yaml"
    config.write_text(TRAINED_IN_MINUTES)
    asked = ["--run-sft", "--config", str(config)]
    lost, other = Submitter(emulation, tmp_path / "lost"), Submitter(emulation, tmp_path / "other")
    lost.use_bucket()
    first = lost.command_line.start(*asked)
    wait_until(lambda: any("checkpoint-20/manifest.json" in key for key in keys_of(emulation, "work/train_sft")), first)
    first.kill()
    first.communicate()
    shutil.rmtree(lost.home)
    other.use_bucket()
    resumed = other.command_line.summary(tmp_path / "there.json", *asked)
    here = command_line.summary(tmp_path / "here.json", *asked)
    assert resumed["training"]["sft"]["resumed_from"] >= 20
    assert here["training"]["sft"]["resumed_from"] is None
    assert numbers(resumed) == numbers(here)
    assert not any("checkpoint" in key for key in keys_of(emulation, "work/train_sft"))
