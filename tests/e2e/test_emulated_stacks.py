"""The whole training, submitted to each platform's stand-in and run from what was submitted, gives the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY, SMALL, CommandLine
from elsewhere import numbers

from llm_engineering.config.stacks import read_stack
from llm_engineering.errors import StoreError
from tools.stack_rehearsal.emulation import require_packages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def of_this_machine(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("here")
    return CommandLine(REPOSITORY, folder / "store").summary(
        folder / "summary.json", "--run-training", "--config", str(config)
    )


@pytest.mark.parametrize("stack", ["sagemaker", "sagemaker-steps", "kubernetes", "kubernetes-steps", "modal", "vertex"])
def test_an_emulated_stack_gives_the_numbers_of_a_local_run(
    stack: str, config: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    try:
        require_packages(read_stack(stack).shown().artifact_store.flavor)
    except StoreError as error:
        pytest.skip(str(error))
    of_this_machine = request.getfixturevalue("of_this_machine")
    summary = tmp_path / "summary.json"
    tool = [sys.executable, str(REPOSITORY / "tools" / "stacks.py"), "emulate", stack]
    done = subprocess.run(
        [*tool, "--config", str(config), "--summary", str(summary)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert numbers(json.loads(summary.read_text())) == numbers(of_this_machine)
