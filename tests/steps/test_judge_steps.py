"""The steps in a store of their own, in a process of its own: ZenML has one store a process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.errors import ConfigError
from steps.runtime.context import judge_key

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("judge_steps.py")
JUDGE = OpenAIJudge(base_url="http://localhost:1/v1", model="scripted")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("judge")
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(folder / "zen"), "PYTHONPATH": str(REPOSITORY)}
    environment["ZENML_ANALYTICS_OPT_IN"] = "false"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads((folder / "found.json").read_text()) | {"folder": folder}
    return result


def test_a_judge_that_fails_costs_its_metrics_and_nothing_else(found: dict[str, Any]) -> None:
    first = found["runs"][0]
    assert (first["status"], first["asked"], first["judged"], first["wins"]) == ("completed", 3, 1, False)
    assert first["error"].startswith("The judge was given up: 127.0.0.1")
    assert first["notes"][-1].endswith("There are no metrics of it; the next run asks anew.")
    assert first["verdicts"] == 6
    assert first["left"] == ["judge"]  # its replies wait for the next run


def test_the_next_run_asks_for_what_is_missing(found: dict[str, Any]) -> None:
    second = found["runs"][1]
    assert (second["status"], second["asked"], second["judged"], second["wins"]) == ("completed", 4, 3, True)
    assert (second["error"], second["left"]) == (None, [])


def test_a_complete_judgement_is_cached_whatever_the_time_out_and_the_price(found: dict[str, Any]) -> None:
    third = found["runs"][2]
    assert (third["status"], third["asked"], third["wins"]) == ("cached", 0, True)


def test_the_key_comes_from_a_secret_and_stands_nowhere_else(found: dict[str, Any]) -> None:
    key = b"sk-of-a-zenml-secret-0123456789"
    assert found["keys"] == [f"Bearer {key.decode()}"]
    stored = [path for path in (found["folder"] / "zen" / "local_stores").rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if path.suffix != ".db" and key in path.read_bytes()]


def test_a_secret_that_is_not_there_is_refused(found: dict[str, Any]) -> None:
    assert found["refused"] == [
        "evaluation.judge.api_key_secret names nobody.main, but ZenML has no secret 'nobody'. Make it with `zenml "
        "secret create nobody --main=...`.",
        "evaluation.judge.api_key_secret names judges.other, but the secret has no 'other'. It has: main.",
    ]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    monkeypatch.setenv("MY_KEY", "sk-two")
    assert judge_key(JUDGE) == "sk-one"
    assert judge_key(JUDGE.model_copy(update={"api_key_env": "MY_KEY"})) == "sk-two"
    assert judge_key(JUDGE.model_copy(update={"api_key_env": None})) is None
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(ConfigError, match="environment variable MY_KEY is not set"):
        judge_key(JUDGE.model_copy(update={"api_key_env": "MY_KEY"}))
