from pathlib import Path

import pytest

from llm_engineering.config.evaluation import EvaluationConfig, OpenAIJudge
from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.errors import ConfigError
from llm_engineering.planning.rehearsal import rehearsal_of
from tools.environment import _may_need_hub

JUDGE = {"base_url": "https://api.openai.com/v1", "model": "gpt"}


def test_a_judge_and_tasks_are_off_unless_they_are_configured() -> None:
    assert (EvaluationConfig().judge, EvaluationConfig().harness) == (None, None)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("base_url", "http://me:secret@localhost/v1", "must hold no user, password or query"),
        ("base_url", "https://api.example.org/v1?key=secret", "must hold no user, password or query"),
        ("base_url", "localhost:8000", "must be an address such as https://api.openai.com/v1"),
        ("modes", [], "at least 1"),
        ("against", ["sft"], "parent"),
        ("api_key_secret", "openai", "must name a ZenML secret and a key in it: SECRET.KEY"),
        ("api_key", "sk-1", "api_key"),
    ],
)
def test_a_judge_that_is_set_up_wrongly_is_refused(key: str, value: object, says: str, tmp_path: Path) -> None:
    lines = [f"    {name}: {one}" for name, one in {**JUDGE, key: value}.items()]
    path = tmp_path / "judge.yaml"
    path.write_text("\n".join(["evaluation:", "  judge:", *lines]))
    with pytest.raises(ConfigError, match=says) as raised:
        load_config([path])
    assert "secret@" not in str(raised.value)


def test_another_judge_or_other_tasks_change_nothing_that_answers_depend_on() -> None:
    config = EvaluationConfig.model_validate({"judge": JUDGE, "harness": {"tasks": ["arc_easy"]}, "max_questions": 7})
    assert config.of_answers == EvaluationConfig(max_questions=7)


def test_time_outs_prices_and_keys_shape_no_verdict() -> None:
    whole = OpenAIJudge.model_validate(
        {**JUDGE, "timeout": 3.0, "retries": 0, "concurrency": 9, "input_price": 1.0, "output_price": 2.0}
        | {"api_key_env": None, "api_key_secret": "a.b", "rubric": "Be kind."}
    )
    assert whole.deciding == OpenAIJudge.model_validate({**JUDGE, "rubric": "Be kind."})


def test_the_folder_of_tasks_starts_at_the_file_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text("evaluation: {harness: {tasks: [mine], include_path: tasks}}")
    harness = load_config([path]).evaluation.harness
    assert harness is not None
    assert harness.include_path == str(tmp_path / "tasks")


def test_the_hub_is_asked_for_task_data_only_where_that_is_allowed() -> None:
    for hub in (False, True):
        config = RunConfig.model_validate({"evaluation": {"harness": {"tasks": ["arc_easy"], "hub": hub}}})
        assert _may_need_hub(config) is hub


def test_a_rehearsal_asks_no_judge_and_says_so() -> None:
    config = RunConfig.model_validate({"evaluation": {"judge": JUDGE, "harness": {"tasks": ["a"], "limit": 500}}})
    rehearsal = rehearsal_of(config, "tiny", "key")
    assert rehearsal.config.evaluation.judge is None
    assert rehearsal.config.evaluation.harness is not None
    assert rehearsal.config.evaluation.harness.limit == 8
    assert "The judge gpt is not asked: answers of a random model are not worth its price." in rehearsal.changes


def test_names_of_models_that_are_measured_shape_no_answers() -> None:
    named = EvaluationConfig(models={"base": "a", "mine": "b"}, parents={"mine": "base"}, max_new_tokens=7)
    assert named.of_answers == EvaluationConfig(max_new_tokens=7)
