"""The real command line, run as a user runs it: in a process of its own, with a store of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SMALL = """
name: small
data:
  sft: [{embedded: true}]
  preference:
    - sample: {checker: "llm_engineering.embedded.zoo:judge", num_samples: 2, max_new_tokens: 24, max_prompts: 60}
  max_length: 128
sft: {max_steps: 12, batch_size: 16, save_steps: 4, learning_rate: 4.0e-3}
dpo: {max_steps: 12, batch_size: 8, save_steps: 4, learning_rate: 4.0e-4}
evaluation: {checker: "llm_engineering.embedded.zoo:judge", max_questions: 12, max_new_tokens: 24}
promotion: {least_units: 1}
tracking: {type: none}
"""


@dataclass
class CommandLine:
    """``tools/run.py`` of one checkout, with one ZenML store."""

    root: Path
    store: Path
    environment: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [self.python, str(self.root / "tools" / "run.py"), *arguments]

    @property
    def variables(self) -> dict[str, str]:
        calm = {
            "ZENML_CONFIG_PATH": str(self.store),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "default",
            "COLUMNS": "160",
        }
        return {**os.environ, **calm, **self.environment}

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.run_tool("run", *arguments, stdin=stdin)

    def run_tool(self, tool: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another of the tools, with lines to read where it is given some."""
        return subprocess.run(
            [self.python, str(self.root / "tools" / f"{tool}.py"), *arguments],
            env=self.variables,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def summary(self, path: Path, *arguments: str) -> dict[str, Any]:
        """Run, require success, and return the summary."""
        done = self.run(*arguments, "--summary", str(path))
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)  # polling another process's folder: there is nothing to be told by
    raise AssertionError("the run did not come this far in two minutes")


def copy_checkout(target: Path) -> Path:
    """Copy what a run needs, so that a test may edit the code."""
    for room in ("llm_engineering", "pipelines", "steps", "tools", "configs"):
        shutil.copytree(REPOSITORY / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))
    return target
