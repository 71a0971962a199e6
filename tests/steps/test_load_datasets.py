"""The step in a store of its own, in a process of its own: ZenML has one store a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("load_artifacts.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("load")
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(folder / "zen"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def test_rows_of_an_artifact_are_read_once_and_a_newer_version_is_read_again(found: dict[str, Any]) -> None:
    first, second, newer, named = found["runs"][:4]
    assert (first["status"], first["rows"], first["seen"]) == ("completed", {"000": 1}, ["one"])
    assert (second["status"], second["seen"]) == ("cached", ["one"])
    assert (newer["status"], newer["rows"], newer["seen"]) == ("completed", {"000": 2}, ["three", "two"])
    assert (named["status"], named["seen"]) == ("completed", ["one"])


def test_the_version_that_was_read_is_an_input_of_the_step(found: dict[str, Any]) -> None:
    assert [run["inputs"] for run in found["runs"][:4]] == [["mine:1"], ["mine:1"], ["mine:2"], ["mine:1"]]


def test_a_new_file_in_a_folder_is_read(found: dict[str, Any]) -> None:
    before, after = found["runs"][4:6]
    assert (before["rows"], before["seen"]) == ({"000": 1, "001": 1}, ["three"])
    assert (after["status"], after["rows"], after["seen"]) == ("completed", {"000": 1, "001": 2}, ["four", "three"])


def test_a_damaged_result_is_named_and_its_step_runs_anew(found: dict[str, Any]) -> None:
    (said,) = found["damaged"]
    assert said.startswith("The artifact raw_rows (version ")
    assert "is damaged" in said
    assert "its step load_datasets is not taken from the cache then" in said
    before, after = found["runs"][5:]
    assert after == before | {"status": "completed"}


def test_artifacts_that_cannot_be_read_are_refused_before_a_run(found: dict[str, Any]) -> None:
    assert found["refused"] == [
        "There is no artifact 'min'. `zenml artifact list` shows those that there are.",
        "The artifact 'mine' has no version '9'. There are: 2, 1.",
        "The artifact mapping:latest is a dict, which holds no rows. Store a list of objects, a DataFrame, an Arrow "
        "table, a Dataset or a folder of data files.",
    ]
