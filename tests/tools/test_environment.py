import os

import pytest

from llm_engineering.config.run import RunConfig
from tools.environment import set_environment


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("HF_HUB_OFFLINE", None)


def config(**values: object) -> RunConfig:
    return RunConfig.model_validate(values)


def test_the_hub_is_off_for_a_run_that_names_nothing_on_it() -> None:
    set_environment(config(data={"sft": [{"embedded": True}]}))
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"base": "Qwen/Qwen2.5-0.5B"}},
        {"data": {"sft": [{"hub": "mlabonne/llmtwin"}]}},
        {"export": {"hub": {"repository": "me/zoo"}}},
    ],
)
def test_the_hub_stays_on_for_a_run_that_names_something_on_it(values: dict[str, object]) -> None:
    set_environment(config(**values))
    assert "HF_HUB_OFFLINE" not in os.environ


def test_telemetry_is_off_unless_the_user_has_said_otherwise() -> None:
    os.environ.pop("DO_NOT_TRACK", None)
    os.environ["ZENML_ANALYTICS_OPT_IN"] = "true"
    set_environment(config())
    assert (os.environ["DO_NOT_TRACK"], os.environ["ZENML_ANALYTICS_OPT_IN"]) == ("1", "true")
