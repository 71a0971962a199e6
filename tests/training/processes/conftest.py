from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_engineering.data.rowsets import PREFERENCE, SFT, read_rows, write_rows
from llm_engineering.reports.folders import RowSet
from llm_engineering.training import launcher

SHARDING_ON_CPU = Path(__file__).parent / "sharding_on_cpu"


@pytest.fixture(scope="session")
def ragged_rows(
    sft_rows: RowSet, preference_rows: RowSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RowSet]:
    """7 rows to train on and 3 held out, of each kind: in batches of 2, the last has a row for one process alone."""
    found = {}
    for stage, rows, kind in (("sft", sft_rows, SFT), ("dpo", preference_rows, PREFERENCE)):
        every = list(read_rows(rows, "train"))
        splits = {"train": every[:7], "eval": every[2:5]}
        found[stage] = write_rows(tmp_path_factory.mktemp(f"ragged-{stage}"), splits, kind)
    return found


@pytest.fixture
def sharding_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers of a test share weights out on a CPU, which the product refuses."""
    monkeypatch.syspath_prepend(str(SHARDING_ON_CPU))  # the workers look for modules where this process does
    monkeypatch.setattr(launcher, "require_devices", lambda hardware: None)


@pytest.fixture
def workers_of() -> Callable[[int], dict[int, psutil.Process]]:
    """Return a function that gives the worker processes below a process, by rank."""

    def find(pid: int) -> dict[int, psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for process in psutil.Process(pid).children(recursive=True):
            try:
                command, environment = process.cmdline(), process.environ()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if any(part.endswith("processes.worker") for part in command) and "RANK" in environment:
                found[int(environment["RANK"])] = process
        return found

    return find


@pytest.fixture
def differing() -> Callable[[Any, Any], dict[str, tuple[float, float]]]:
    """Return a function that gives what two reports logged otherwise, by step and name; clocks are left out."""

    def compare(one: Any, two: Any) -> dict[str, tuple[float, float]]:
        assert [entry.keys() for entry in one.history] == [entry.keys() for entry in two.history]
        pairs = {
            f"{a['step']:g}/{name}": (value, b[name])
            for a, b in zip(one.history, two.history, strict=True)
            for name, value in a.items()
            if not name.endswith(("_runtime", "_per_second"))
        }
        return {name: (a, b) for name, (a, b) in pairs.items() if a != pytest.approx(b, rel=1e-4, abs=1e-4)}

    return compare
