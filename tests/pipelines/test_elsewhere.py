from pathlib import Path

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import ConfigError
from pipelines.launching import elsewhere
from pipelines.launching.elsewhere import require_reachable
from steps.runtime.context import HERE, Place

AWAY = Place(here=False, orchestrated_here=False)


@pytest.fixture(autouse=True)
def no_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "has_stack_tracker", lambda: False)  # there is no store
    monkeypatch.delenv("COMET_API_KEY", raising=False)


def config(**blocks: object) -> RunConfig:
    return RunConfig.model_validate(blocks)


def test_the_offline_default_needs_nothing_of_the_submitter() -> None:
    require_reachable(config(), AWAY)


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        ({"export": {"dir": "out"}}, "export.dir would be written on a machine that is gone"),
        ({"export": {"hub": {"repository": "me/mine"}}}, "export.hub needs HF_TOKEN where the steps run"),
        (
            {"tracking": {"type": "transformers", "report_to": ["tensorboard"]}},
            "tensorboard writes to the disk of a machine that is gone",
        ),
        (
            {"evaluation": {"judge": {"model": "m", "base_url": "http://judge/v1", "api_key_env": "JUDGE_KEY"}}},
            "the variable JUDGE_KEY of this machine is not set where the steps run",
        ),
    ],
)
def test_what_only_the_submitter_has_is_refused(blocks: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        require_reachable(config(**blocks), AWAY)


def test_a_variable_that_the_stack_gives_its_steps_is_there() -> None:
    place = Place(here=False, orchestrated_here=False, variables=frozenset({"HF_TOKEN", "JUDGE_KEY"}))
    judge = {"model": "m", "base_url": "http://judge/v1", "api_key_env": "JUDGE_KEY"}
    require_reachable(config(export={"hub": {"repository": "me/mine"}}, evaluation={"judge": judge}), place)


def test_a_key_of_comet_that_only_the_submitter_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "secret")
    with pytest.raises(ConfigError, match="COMET_API_KEY is set on this machine and not where the steps run"):
        require_reachable(config(), AWAY)
    require_reachable(config(tracking={"type": "comet", "secret": "comet"}), AWAY)
    require_reachable(config(), Place(False, False, frozenset({"COMET_API_KEY"})))


def test_a_checker_outside_of_the_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_of_mine.py").write_text("def judge(answer, reference): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="does not travel to where the steps run"):
        require_reachable(config(evaluation={"checker": "judge_of_mine:judge"}), AWAY)
    require_reachable(config(evaluation={"checker": "llm_engineering.embedded.zoo:judge"}), AWAY)


def test_a_loss_outside_of_the_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loss_of_mine.py").write_text("def margin(chosen_logps, rejected_logps): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"The loss 'loss_of_mine:margin' is in .* does not travel"):
        require_reachable(config(dpo={"loss": "loss_of_mine:margin"}), AWAY)


def test_steps_here_see_what_the_submitter_has() -> None:
    assert HERE.here
    assert HERE.orchestrated_here
