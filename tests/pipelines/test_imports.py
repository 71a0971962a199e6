"""What importing costs: the command line and the wiring load no training library."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "comet_ml", "matplotlib"}


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["pipelines.training", "pipelines.launching.start", "pipelines.launching.plan"])
def test_wiring_loads_no_training_library(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    assert not loaded_by(module) & HEAVY


@pytest.mark.parametrize("module", ["llm_engineering.config", "tools.chat", "tools.run"])
def test_the_command_line_loads_no_orchestrator(module: str) -> None:
    assert not loaded_by(module) & (HEAVY | {"zenml"})
