"""The whole pipeline with trainings of two processes: the numbers of one process, and nothing else to see of it."""

from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine
from elsewhere import numbers

pytestmark = pytest.mark.slow
TWO = ["--set", "hardware.type=torchrun", "--set", "hardware.processes=2"]
OF_THE_WEIGHTS = {"sft_hash", "reference_hash", "reference_hash_after"}


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Return every number and word of a summary by its path, but the hashes of weights."""
    if isinstance(tree, dict):
        items = [(key, value) for key, value in tree.items() if key not in OF_THE_WEIGHTS]
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        return {path: tree}
    return {name: leaf for key, value in items for name, leaf in leaves(value, f"{path}/{key}").items()}


def alike(one: Any, two: Any) -> bool:
    """Return whether two values are equal, or differ as the order of additions makes them differ."""
    return one == two or (isinstance(one, float) and two == pytest.approx(one, rel=1e-3, abs=1e-3))


def test_a_training_in_two_processes_has_the_numbers_of_one(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    asked = ["--run-training", "--config", str(small)]
    one = command_line.summary(tmp_path / "one.json", *asked)
    two = CommandLine(command_line.root, tmp_path / "other").summary(tmp_path / "two.json", *asked, *TWO)
    expected, found = leaves(numbers(one)), leaves(numbers(two))
    assert found.keys() == expected.keys()
    differing = {name: (value, found[name]) for name, value in expected.items() if not alike(value, found[name])}
    assert differing == {}
    proofs = two["proofs"]
    assert proofs["sft_hash"] == proofs["reference_hash"] == proofs["reference_hash_after"]


def test_a_rehearsal_rehearses_two_processes(command_line: CommandLine, small: Path) -> None:
    done = command_line.run("--run-training", "--config", str(small), "--rehearse", *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SFT trains in 2 processes (ddp)." in done.stdout
    assert "DPO trains in 2 processes (ddp)." in done.stdout
