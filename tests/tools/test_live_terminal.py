"""The bars of a run in a real pseudo-terminal, read from the screen of a terminal emulator; and a pipe's lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import watch

REPOSITORY = Path(__file__).parents[2]
RUN = """
import logging, sys, time, warnings
from llm_engineering.progress import Progress, Work, log, tell
from tools.console.terminal import open_console, take_over_logging

def training(step, **facts):
    progress = Progress("SFT", step, 400, "steps", loss=1.5 / step, speed=6991.0, speed_unit="tokens",
                        seconds_left=(400 - step) / 10, **facts)
    tell(progress)
    if step % 200 == 0:
        log(progress)

logging.root.setLevel(logging.INFO)
zenml, ours = logging.getLogger("zenml.orchestrators"), logging.getLogger("llm_engineering.training")
with open_console(quiet="--quiet" in sys.argv) as console:
    take_over_logging(console)
    console.print("header")
    with console.progress(lambda: 3):
        zenml.info("Using cached version of step `load_datasets`.")
        zenml.info("Step `train_sft` has started.")
        for step in range(50, 401, 50):
            training(step)
            if step == 100:
                ours.warning("SFT step 100: overfitting.")
                print("a library prints")
                print("a library complains", file=sys.stderr)
                print("10%|=\\r20%|==\\r100%|==========", file=sys.stderr)
            if step == 200:
                with Work("generated", 30, "answers") as work:
                    work(3)
                    time.sleep(0.4)
            if step == 300 and "--fail" in sys.argv:
                raise SystemExit("Error: it failed.")
            time.sleep(0.4 if step == 150 else 0)
        zenml.info("Step `train_sft` has finished in `2.1s`.")
        zenml.info("Step `report` has started.")
        zenml.info("Step `report` has finished in `0.2s`.")
    console.speak()
    console.print("decided")
"""
OFTEN_DRAWN = """
from llm_engineering.progress import Progress, tell
from tools.console import terminal

terminal.REFRESHES_PER_SECOND = 2000
with terminal.open_console() as console, console.progress():
    for number in range(300):
        tell(Progress("SFT" if number % 2 else "generated", number, 300, "steps", ended=number % 5 == 0))
        print("line", number)
"""
ABOVE = ["SFT step 100: overfitting.", "a library prints", "a library complains", "100%|=========="]
STEPS = ["✓ load_datasets       cached", *ABOVE, "✓ train_sft           2.1s", "✓ report              0.2s"]


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(RUN)
    return [sys.executable, str(path)]


def stripped(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines]


@pytest.mark.parametrize(("columns", "environment"), [(80, {}), (40, {"NO_COLOR": "1"})])
def test_bars_come_and_go_and_leave_the_lines_that_count(
    program: list[str], columns: int, environment: dict[str, str]
) -> None:
    seen = watch(program, columns=columns, environment={"PYTHONPATH": str(REPOSITORY), **environment})
    assert seen.returncode == 0
    assert stripped(seen.lines) == ["header", *STEPS, "decided"]
    assert not seen.screen().cursor.hidden
    frames = ["\n".join(frame) for frame in seen.frames()]
    assert any("train_sft" in frame and "step 2/3" in frame for frame in frames)
    training = next(frame for frame in frames if "step 150/400" in frame)
    assert "25 s left" in training
    assert ("loss 0.010 · 6,991 tokens/s" in training) == (columns == 80)
    assert any("generated" in frame and "SFT" in frame for frame in frames)
    if "NO_COLOR" in environment:
        assert b"\x1b[3" not in seen.written  # no colour is set


def test_no_line_is_lost_however_often_the_bars_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(OFTEN_DRAWN)
    seen = watch([sys.executable, str(path)], columns=40, environment={"PYTHONPATH": str(REPOSITORY)})
    assert stripped(seen.lines) == [f"line {number}" for number in range(300)]


@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_a_run_that_breaks_off_leaves_no_bar_and_gives_the_cursor_back(program: list[str], how: str) -> None:
    arguments = ["--fail"] if how == "error" else []
    at = b"SFT step 100" if how == "interrupt" else None
    seen = watch([*program, *arguments], environment={"PYTHONPATH": str(REPOSITORY)}, interrupt_at=at)
    assert seen.returncode != 0
    assert not seen.screen().cursor.hidden
    last = seen.lines[-1]
    assert last == ("KeyboardInterrupt" if how == "interrupt" else "Error: it failed.")
    assert not any("━" in line for line in seen.lines)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_where_nobody_looks_on_there_are_lines_now_and_then(program: list[str], environment: dict[str, str]) -> None:
    seen = watch(program, environment={"PYTHONPATH": str(REPOSITORY), **environment})
    lines = stripped(seen.lines)
    assert "SFT step 200/400 · loss 0.007 · 6,991 tokens/s · 20 s left" in lines
    assert [line for line in lines if line in STEPS] == STEPS
    assert not any("━" in line for line in lines)


def piped(program: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run([*program, *arguments], env=variables, capture_output=True, text=True, timeout=60, check=True)


def test_a_pipe_gets_lines_and_nothing_that_moves_a_cursor(program: list[str]) -> None:
    done = piped(program)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines() == [
        "header",
        "✓ load_datasets       cached",
        "  SFT step 100: overfitting.",
        "a library prints",
        "  SFT step 200/400 · loss 0.007 · 6,991 tokens/s · 20 s left",
        "  SFT step 400/400 · loss 0.004 · 6,991 tokens/s · 0 s left",
        "✓ train_sft           2.1s",
        "✓ report              0.2s",
        "decided",
    ]
    assert done.stderr.splitlines()[0] == "a library complains"


def test_quiet_shows_what_was_decided_alone(program: list[str]) -> None:
    assert piped(program, "--quiet").stdout == "decided\n"
    seen = watch([*program, "--quiet"], environment={"PYTHONPATH": str(REPOSITORY)})
    assert "\n".join(seen.lines).endswith("decided")
    assert "header" not in seen.lines


def test_a_stream_that_knows_ascii_alone_stops_nothing(program: list[str]) -> None:
    lines = piped(program, PYTHONIOENCODING="ascii").stdout.splitlines()
    assert lines[1] == "? load_datasets       cached"
    assert lines[-1] == "decided"


def test_a_reader_that_leaves_stops_nothing(program: list[str], tmp_path: Path) -> None:
    script = Path(program[1])
    script.write_text(RUN + f"\nopen({str(tmp_path / 'end')!r}, 'w').write('reached')\n")
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"header\n"
    process.stdout.close()
    complaints = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "end").read_text() == "reached"
    assert "Traceback" not in complaints
    assert "BrokenPipe" not in complaints
