"""Whose Comet a run logs to, asked of a real store in a process of its own: ZenML has one store a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("comet_accounts.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("account")
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(folder / "zen"), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SCRIPT), str(folder / "found.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def test_without_a_secret_and_a_tracker_comets_own_settings_decide(found: dict[str, Any]) -> None:
    assert found["nothing"] == [None, None, None]


def test_the_key_comes_from_the_configured_secret(found: dict[str, Any]) -> None:
    assert found["secret"] == ["of-the-secret", None, None]


def test_a_secret_that_is_not_there_is_a_sentence(found: dict[str, Any]) -> None:
    assert found["missing"] == (
        "tracking.secret names the ZenML secret 'komet', which does not exist. Make it with `zenml secret create komet "
        "--api_key=...`."
    )


def test_a_secret_without_the_key_is_a_sentence(found: dict[str, Any]) -> None:
    assert found["misnamed"] == (
        "The ZenML secret 'empty' (tracking.secret) has no value api_key. Make it with `zenml secret create empty "
        "--api_key=...`."
    )


def test_the_settings_of_the_stacks_tracker_are_read(found: dict[str, Any]) -> None:
    assert found["stack"] == ["of-the-secret", "theirs", "project"]
    assert found["stack_off"] == [None, None, None]


def test_a_tracker_whose_secret_is_gone_is_a_sentence(found: dict[str, Any]) -> None:
    assert found["stack_without_secret"].startswith("The Comet tracker of the active ZenML stack cannot be used: ")
    assert found["stack_without_secret"].endswith("Make the secret, or set COMET_API_KEY.")


def test_the_users_own_key_goes_first_and_stays(found: dict[str, Any]) -> None:
    assert found["environment"] == [None, "theirs", "project"]  # Comet reads the key itself
    assert found["environment_after"] == "of-the-user"
