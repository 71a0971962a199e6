"""The drill that kills trainings, as a user runs it, and what it would say of a training that was not the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY

from benchmarks.resume_drill import compare, read_record, targets

LOG = [{"step": 1, "loss": 2.0, "learning_rate": 0.1}, {"step": 2, "loss": 1.0, "learning_rate": 0.2}]
RESULT = {"weights": "abc", "history": LOG}
STRAIGHT = {1: ["a", "b"], 2: ["c", "d"]}


def differences(attempts: object, **changes: object) -> dict[str, list[str]]:
    found = compare(STRAIGHT, attempts, RESULT, RESULT | changes)  # type: ignore[arg-type]
    return {compared.name: compared.differences for compared in found if compared.differences}


def test_training_that_was_cut_off_within_an_update_and_went_on_is_the_same() -> None:
    assert differences([{1: ["a", "b"], 2: ["c"]}, {2: ["c", "d"]}]) == {}
    assert differences([{1: ["a"]}, {1: ["a", "b"], 2: ["c", "d"]}]) == {}


def test_other_batches_are_found() -> None:
    assert differences([{1: ["a", "b"], 2: ["d"]}, {2: ["c", "d"]}]) == {"batch order": ["update 2 after start 1"]}
    assert differences([{1: ["a", "b"], 2: ["c"]}]) == {"batch order": ["update 2 after start 1"]}
    assert differences([{1: ["a", "b"]}]) == {"batch order": ["update 2 is missing"]}
    assert differences([{1: ["a", "b"], 2: ["c", "d"], 3: ["e"]}]) == {"batch order": ["update 3 after start 1"]}


def test_other_numbers_are_found_to_the_last_bit() -> None:
    whole = [STRAIGHT]
    last_bit = [LOG[0], LOG[1] | {"loss": 1.0000000000000002}]
    assert differences(whole, history=last_bit) == {"loss": ["update 2"], "all logged numbers": ["update 2"]}
    assert differences(whole, history=[LOG[0] | {"learning_rate": 0.3}, LOG[1]])["learning rate"] == ["update 1"]
    assert differences(whole, history=LOG[:1])["loss"] == ["update 2"]
    assert differences(whole, weights="abd") == {"weights": ["abc and abd"]}


def test_line_that_a_kill_cut_off_is_no_batch(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("start\n1 a\n1 b\n2 c")
    assert read_record(tmp_path / "record") == [{1: ["a", "b"]}]


def test_kills_are_spread_over_the_training() -> None:
    import random

    drawn = targets(4, 41, random.Random(0))
    assert [1 + 10 * i <= step <= 10 * (i + 1) for i, (step, _) in enumerate(drawn)] == [True] * 4
    assert sorted(moment for _, moment in drawn) == ["while training"] * 2 + ["while writing a checkpoint"] * 2
    assert drawn == targets(4, 41, random.Random(0))
    assert drawn != targets(4, 41, random.Random(1))


@pytest.mark.slow
def test_training_that_is_killed_again_and_again_is_the_one_that_is_not(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "drill.json"
    drill = [sys.executable, str(REPOSITORY / "benchmarks" / "resume_drill.py"), "--config", str(small)]
    sizes = ["--kills", "4", "--steps", "24", "--rows", "60", "--set", "sft.accumulation=2", "--out", str(out)]
    done = subprocess.run([*drill, *sizes], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Bit for bit the same, after 8 kills." in done.stdout
    found = json.loads(out.read_text())
    assert found["same"]
    for stage in found["stages"]:
        assert len(stage["kills"]) == 4
        assert len(stage["starts"]) == 5
        assert all(compared["times"] > 0 for compared in stage["compared"])
    assert any(kill["unsealed"] for stage in found["stages"] for kill in stage["kills"])
