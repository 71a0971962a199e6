"""Promotions and comparisons with the real commands, on one store with two versions, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("decide_on_versions.py")


def decide(folder: Path, part: str) -> dict[str, Any]:
    """Run one part of the script in a store of its own, and return what its commands told."""
    calm = {"ZENML_CONFIG_PATH": str(folder / "zen"), "ZENML_ANALYTICS_OPT_IN": "false", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **calm, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), part], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    assert not [(name, each["error"]) for name, each in found.items() if each["error"]]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decisions")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    return decide(folder, "commands")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return decide(tmp_path_factory.mktemp("approvals"), "approvals")


def test_what_zenml_says_of_steps_is_understood(told: dict[str, Any]) -> None:
    first, second = told["steps"]["first"], told["steps"]["second"]
    assert first["train_sft"] == first["promote"] == second["promote"] == ["begun", "finished"]
    assert second["train_sft"] == ["cached"]
    assert first.keys() == second.keys()


def test_what_does_not_exist_is_answered_with_what_does(told: dict[str, Any]) -> None:
    assert told["unknown version"]["code"] == told["unknown model"]["code"] == 2
    assert "has no version or stage '9'. There are: 2 (staging), 1" in told["unknown version"]["output"]
    assert "There is no model 'nobody'. There are: small." in told["unknown model"]["output"]
    assert told["compare unknown"]["code"] == 2
    assert "There is no run 'nobody', or several begin so. Recent runs: promotion-" in told["compare unknown"]["output"]


def test_a_version_is_promoted_where_nobody_holds_the_stage(told: dict[str, Any]) -> None:
    assert told["first"]["code"] == 0
    assert told["first"]["holders"] == {"1": "production", "2": "staging"}
    assert "Version 1 of small is promoted to production. SFT is no worse than the base" in told["first"]["output"]


def test_a_plan_moves_nothing(told: dict[str, Any]) -> None:
    assert told["plan"]["code"] == 0
    assert "Version 2 of small would be promoted to production." in told["plan"]["output"]
    assert "the same weights" in told["plan"]["output"]
    assert told["plan"]["holders"] == told["first"]["holders"]


def test_force_promotes_and_is_recorded_with_who_and_why(told: dict[str, Any]) -> None:
    assert told["forced"]["code"] == 0
    assert told["forced"]["holders"] == {"2": "production", "1": "archived"}
    record = told["forced"]["record"]
    assert record["forced"]["reason"] == "the demo is today"
    assert record["forced"]["user"]
    assert record["promoted"] == "sft"
    assert record["checks"]
    assert "forced it (the demo is today). The gate said: SFT is not shown to be as good" in record["reason"]


def test_a_version_that_holds_the_stage_keeps_it(told: dict[str, Any]) -> None:
    assert told["again"]["code"] == 0
    assert "Version 2 of small holds production already." in told["again"]["output"]


def test_two_versions_differ_in_the_one_setting_that_was_changed(told: dict[str, Any], folder: Path) -> None:
    sentence = "Nothing differs that shapes results; promotion.least_units 1 → 2."
    assert told["compare"]["code"] == 0
    assert told["compare"]["output"].startswith(sentence)
    found = json.loads((folder / "both.json").read_text())
    assert found["headline"] == sentence
    assert found["measured_alike"] is True
    assert {pair["model"] for pair in found["metrics"]} == {"base", "sft"}
    assert found["answers"]
    assert sentence in (folder / "both.html").read_text()


def test_a_run_does_not_differ_from_itself(told: dict[str, Any]) -> None:
    assert told["compare with itself"]["code"] == 0
    assert told["compare with itself"]["output"].startswith("Nothing differs.")


def test_a_cached_training_is_judged_by_the_thresholds_of_now_wherever_it_is_shown(told: dict[str, Any]) -> None:
    before, now = told["verdicts of before"], told["verdicts of now"]
    assert now["cached"]
    assert now["summary"] == ["exploding_gradients"] != before["summary"]
    assert now["dashboard"] == {"sft": "exploding_gradients"} != before["dashboard"]
    for shown in ("card", "page"):
        assert "the median of the gradient norm before clipping is" in now[shown]
        assert "the median of the gradient norm before clipping is" not in before[shown]


@pytest.mark.slow
def test_the_gate_refuses_with_its_reason(asked: dict[str, Any]) -> None:
    assert asked["refused"]["code"] == 1
    assert "is not promoted to production. SFT is not shown to be as good" in asked["refused"]["output"]
    assert asked["refused"]["holders"] == asked["first"]["holders"]


@pytest.mark.slow
def test_a_person_who_says_no_is_obeyed(asked: dict[str, Any]) -> None:
    assert asked["no"]["code"] == 1
    assert "Promote version 2 of small to production? Waiting up to 60 min" in asked["no"]["output"]
    assert "zenml pipeline runs wait-conditions resolve --interactive --run promotion-small-2-" in asked["no"]["output"]
    assert "A person was asked and said no: nothing is promoted." in asked["no"]["output"]
    assert asked["no"]["holders"] == asked["first"]["holders"]


@pytest.mark.slow
def test_no_answer_promotes_nothing_and_the_question_is_withdrawn(asked: dict[str, Any]) -> None:
    assert asked["no answer"]["code"] == 1
    assert "A person was asked, and nobody answered within 0.02 min: nothing" in asked["no answer"]["output"]
    assert asked["no answer"]["run"] == "stopped"
    assert asked["no answer"]["holders"] == asked["first"]["holders"]


@pytest.mark.slow
def test_a_person_who_says_yes_moves_the_stage(asked: dict[str, Any]) -> None:
    assert asked["yes"]["code"] == 0
    assert asked["yes"]["holders"] == {"2": "production", "1": "archived"}
    assert "A person approved it." in asked["yes"]["output"]


@pytest.mark.slow
def test_archiving_asks_nothing(asked: dict[str, Any]) -> None:
    assert asked["archived"]["code"] == 0
    assert asked["archived"]["holders"] == {"1": "archived", "2": "archived"}
    assert "Version 2 of small is archived." in asked["archived"]["output"]


@pytest.mark.slow
def test_training_moves_no_stage_where_a_person_has_to_approve(asked: dict[str, Any]) -> None:
    assert asked["training"]["stage"] in (None, "none")
    assert "promotion.approval wants a person's yes first: python tools/promote.py" in asked["training"]["reason"]
