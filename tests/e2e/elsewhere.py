"""Runs whose steps see nothing of the machine that submits them: the submitter, and what runs are compared by."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import REPOSITORY, CommandLine

from tools.stack_rehearsal.emulation import Emulation

OWN_FILES = """
name: own
model: {base: model, chat_template: mine.jinja}
data:
  sft: [{path: sft.jsonl}]
  preference: [{path: pairs.jsonl}]
  max_length: 128
  audit: false
  evaluation_share: 0.1
  test_share: 0.1
sft: {max_steps: 8, batch_size: 4, save_steps: 2, learning_rate: 4.0e-3}
dpo: {max_steps: 4, batch_size: 4, save_steps: 2, learning_rate: 4.0e-4}
evaluation: {max_questions: 4, max_new_tokens: 8}
promotion: {least_units: 1}
"""
_OF_THIS_RUN = {"run", "model", "tracker", "artifacts"}
_OF_THIS_MACHINE = {"seconds", "tokens_per_second", "pairs_per_second", "resumed_from"}


def numbers(summary: Any) -> Any:
    """Return what a summary says of data and models, without what names the run or measures the machine."""
    if isinstance(summary, dict):
        left_out = _OF_THIS_MACHINE | (_OF_THIS_RUN if "artifacts" in summary else set())
        return {key: numbers(value) for key, value in summary.items() if key not in left_out}
    return [numbers(value) for value in summary] if isinstance(summary, list) else summary


@dataclass
class Submitter:
    """A machine that submits to stand-ins: its commands have settings of their own."""

    emulation: Emulation
    home: Path

    @property
    def command_line(self) -> CommandLine:
        return CommandLine(REPOSITORY, self.home, {**self.emulation.environment, "ZENML_CONFIG_PATH": str(self.home)})

    def do(self, *command: str) -> None:
        line = self.command_line
        done = subprocess.run(
            [line.python, *command], env=line.variables, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def use_bucket(self) -> None:
        """Make a stack of the bucket and the local orchestrator the active one."""
        self.do(str(Path(__file__).with_name("use_bucket.py")), self.emulation.surroundings.cloud.bucket)

    def register(self, stack: str) -> list[str]:
        """Register a shipped stack, and return the words that send a run to it."""
        from llm_engineering.config.stacks import read_stack
        from tools.stack_rehearsal.emulation import commands_of

        register, _ = commands_of(read_stack(stack), self.emulation.values, [])
        self.do(*register[1:])
        return ["--stack", stack]


def keys_of(emulation: Emulation, prefix: str = "") -> Sequence[str]:
    """Return the names of what lies in the bucket."""
    from tools.stack_rehearsal.standins.s3 import client_of

    aws = emulation.surroundings.cloud
    found = client_of("s3", aws).list_objects_v2(Bucket=aws.bucket, Prefix=prefix)
    return [str(each["Key"]) for each in found.get("Contents", [])]
