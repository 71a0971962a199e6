"""Real runs as a person sees them: in a pseudo-terminal, piped to a reader that leaves, quiet, interrupted."""

import json
import logging
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import SMALL, CommandLine
from pseudo_terminal import Seen, watch

pytestmark = pytest.mark.slow
STEPS = [
    "load_datasets",
    "format_datasets",
    "preview_data",
    "preflight",
    "train_sft",
    "merge_sft",
    "evaluate",
    "gather_measured",
    "promote",
    "show_outcomes",
    "export",
    "report",
]


def in_terminal(line: CommandLine, *arguments: str, interrupt_at: bytes | None = None) -> Seen:
    variables = {name: value for name, value in line.variables.items() if name not in ("CI", "COLUMNS", "NO_COLOR")}
    return watch(line.command(*arguments), environment=variables, interrupt_at=interrupt_at)


def step_logs(line: CommandLine) -> list[list[dict[str, object]]]:
    files = line.store.glob("local_stores/*/logs/*.log")
    return [[json.loads(entry) for entry in path.read_text().splitlines()] for path in files]


def test_run_is_watched_interrupted_taken_up_piped_and_silenced(command_line: CommandLine, small: Path) -> None:
    # One test, since every run builds on the store that the one before left.
    small.write_text(SMALL.replace("sft: {max_steps: 12", "sft: {max_steps: 60"))
    job = ("--run-sft", "--config", str(small))

    stopped = in_terminal(command_line, *job, interrupt_at=b"tokens/s")
    assert stopped.returncode == 130, "\n".join(stopped.lines)
    assert "Interrupted: the run is marked failed" in "\n".join(stopped.lines[-2:])
    assert not any("━" in line for line in stopped.lines)
    assert not stopped.screen().cursor.hidden

    seen = in_terminal(command_line, *job)
    assert seen.returncode == 0, "\n".join(seen.lines)
    told = [line.split()[1] for line in seen.lines if line.startswith("✓")]
    assert sorted(told) == sorted(STEPS)  # some have no order among them
    assert not any("━" in line for line in seen.lines if not line.startswith("━━━"))
    frames = ["\n".join(frame) for frame in seen.frames()]
    assert any("train_sft" in frame and f"step 5/{len(STEPS)}" in frame and "SFT" in frame for frame in frames)

    for entries in step_logs(command_line):
        said = [str(entry["message"]) for entry in entries]
        assert not any("\x1b" in message or "━" in message or "✓" in message for message in said)
        assert len(said) == len(set(said)), said
    trained = [entries for entries in step_logs(command_line) if "SFT step" in str(entries)]
    worst = [max(int(str(entry["level"])) for entry in entries) for entries in trained]
    assert worst
    assert min(worst) < logging.ERROR  # of the run that was not interrupted

    summary = command_line.store.parent / "summary.json"
    piped = f"set -o pipefail; {shlex.join(command_line.command(*job, '--summary', str(summary)))} | head -1"
    done = subprocess.run(
        ["bash", "-c", piped], env=command_line.variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["run", "sft", "·", "small", "·", "seed", "42"]
    assert "Traceback" not in done.stderr
    assert json.loads(summary.read_text())["run"]["status"] == "completed"

    quiet = command_line.run(*job, "--quiet")
    assert quiet.returncode == 0
    assert "promoted to staging." in quiet.stdout.splitlines()[0]
    assert [line.split()[0] for line in quiet.stdout.splitlines()[1:4]] == ["run", "model", "report"]
