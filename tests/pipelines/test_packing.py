"""What travels, in a store of its own, in a process of its own: ZenML has one store a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("pack_for_elsewhere.py")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("packed")
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(folder / "zen"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return {**found, "folder": str(folder)}


def test_no_path_of_the_submitter_stands_in_what_steps_are_given(packed: dict[str, Any]) -> None:
    assert packed["folder"] not in json.dumps(packed["settings"]).replace(packed["store"], "")
    assert packed["folder"] not in json.dumps([packed["model"], packed["origins"]]).replace(packed["store"], "")


def test_the_bundled_base_is_named_by_what_it_is_on_every_stack(packed: dict[str, Any]) -> None:
    assert packed["embedded here"] == packed["embedded elsewhere"]
    assert packed["embedded here"]["path"] == "embedded"
    assert packed["embedded here"]["fetch"] == {"type": "package"}


def test_what_is_stored_once_is_found_by_its_content(packed: dict[str, Any]) -> None:
    assert packed["versions"] == {"submitted_models": 1, "submitted_data": 2}
    assert packed["origins"] == packed["origins of a copy"]


def test_a_plan_stores_nothing(packed: dict[str, Any]) -> None:
    assert packed["versions of a plan"] == {}


def test_rows_keep_the_names_and_places_of_their_files(packed: dict[str, Any]) -> None:
    assert packed["names elsewhere"] == packed["names here"] == ["a/rows.jsonl", "b/rows.jsonl"]
    assert packed["rows elsewhere"] == packed["rows here"] == ["rows.jsonl, line 1", "rows.jsonl, line 1"]


def test_a_template_travels_as_text_and_is_called_by_its_file(packed: dict[str, Any]) -> None:
    assert packed["settings"]["model"]["chat_template"] == {"name": "mine.jinja", "text": "{{ messages }}"}


def test_where_steps_run_here_nothing_is_changed(packed: dict[str, Any]) -> None:
    assert packed["unchanged here"]
