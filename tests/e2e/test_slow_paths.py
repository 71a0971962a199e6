"""Long paths: the README's commands in a fresh clone, and a DPO that does harm."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from command_line import REPOSITORY, CommandLine
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow


def test_a_dpo_that_does_harm_is_not_promoted(command_line: CommandLine, tmp_path: Path) -> None:
    # A learning rate sixty times the default's breaks the answers; the SFT model stays, and the report says why.
    harmful = ("--set", "dpo.learning_rate=0.02", "--set", "dpo.best_metric=null", "--set", "dpo.patience=null")
    found = command_line.summary(
        tmp_path / "s.json", "--run-training", *harmful, "--set", "tracking={type: none}", "--set", "dpo.beta=0.01"
    )
    assert found["models"]["dpo"]["answer_accuracy"] < found["models"]["sft"]["answer_accuracy"] - 0.03
    assert found["promotion"]["promoted"] == "sft"
    assert "DPO is worse: answer_accuracy" in found["promotion"]["reason"]
    assert "DPO is worse: answer_accuracy" in Path(found["artifacts"]["report"]).read_text()


def test_the_readmes_commands_work_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(tmp_path / "zen")}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        environment.pop(name, None)
    done = subprocess.run(
        ["make", "train"], cwd=clone, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The DPO model is promoted to staging." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    packages = subprocess.run(
        [str(clone / ".venv" / "bin" / "python"), "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (clone / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    for package in json.loads(packages.stdout):
        name, version = canonicalize_name(package["name"]), package["version"].partition("+")[0]
        if name not in ("llm-engineering", "pip", "setuptools") and not name.startswith(("nvidia-", "cuda-", "triton")):
            assert pinned.get(name) == version, name
