"""A job of several processes ends as one: with the first worker's own sentence, and with nobody left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llm_engineering import progress
from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import ModelError, TrainingError
from llm_engineering.training.processes.task import Task, write_task
from llm_engineering.training.sft import launch_sft

pytestmark = pytest.mark.slow
TWO = TorchrunHardware(processes=2)
ENDLESS = SFTStageConfig(batch_size=2, max_steps=100_000, save_steps=100_000, logging_steps=1)
SECONDS = 30.0
ROOT = Path(__file__).parents[3]
TRAIN = """
import sys
from pathlib import Path
from llm_engineering import progress
from llm_engineering.training.sft import launch_sft
from llm_engineering.training.processes.task import read_task

task = read_task(Path(sys.argv[1]))
progress.listen(lambda found: print(found.count, flush=True))
launch_sft(task.config, task.inputs)
"""


def test_a_worker_that_is_killed_ends_the_job_with_its_rank_and_signal(sft_rows, make_inputs, workers_of):
    killed_at = []

    def kill(found):
        if found.done >= 3 and not killed_at:
            workers_of(psutil.Process().pid)[1].kill()
            killed_at.append(time.monotonic())

    with progress.listening(kill), pytest.raises(TrainingError) as caught:
        launch_sft(ENDLESS, make_inputs(sft_rows, hardware=TWO))
    assert time.monotonic() - killed_at[0] < SECONDS
    assert str(caught.value).startswith("SFT: process 1 of 2 was ended by SIGKILL; the system may have run out of")
    assert workers_of(psutil.Process().pid) == {}


def test_what_a_worker_refuses_is_said_as_one_process_says_it(sft_rows, make_inputs, tiny_base, tmp_path):
    (tmp_path / "empty").mkdir()
    base = tiny_base.model_copy(update={"path": tmp_path / "empty"})
    said = []
    for hardware in ({}, {"hardware": TWO}):
        with pytest.raises(ModelError) as caught:
            launch_sft(ENDLESS, make_inputs(sft_rows, f"work{len(said)}", base=base, **hardware))
        said.append((str(caught.value), caught.value.exit_code))
    assert said[0] == said[1]


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT], ids=lambda ended_by: ended_by.name)
def test_no_worker_outlives_its_parent(ended_by, sft_rows, make_inputs, workers_of, tmp_path):
    write_task(
        Task("sft", "llm_engineering.training.sft:train_sft", ENDLESS, make_inputs(sft_rows, hardware=TWO)),
        tmp_path / "task.json",
    )
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "task.json")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        next(line for line in parent.stdout if line.startswith("step 3/"))
        workers = workers_of(parent.pid)
        assert sorted(workers) == [0, 1]
        everyone = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(ended_by)
        parent.stdout.close()
        _, alive = psutil.wait_procs(everyone, timeout=SECONDS)
    assert alive == []
