"""The models that an evaluation names, in configurations and on the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.errors import ConfigError
from tools import run


def test_folders_start_at_the_file_that_names_them_and_other_places_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = tmp_path / "models.yaml"
    config.write_text("evaluation: {models: {a: mine, b: org/mine, c: embedded, d: run@staging}}")
    assert load_config([config]).evaluation.models == {
        "a": str(tmp_path / "mine"),
        "b": "org/mine",
        "c": "embedded",
        "d": "run@staging",
    }


def test_a_parent_is_the_one_that_is_named_else_base() -> None:
    models = {"base": "embedded", "sft": "x", "dpo": "y"}
    assert EvaluationConfig(models=models, parents={"dpo": "sft"}).parent_names() == {"sft": "base", "dpo": "sft"}
    assert EvaluationConfig(models={"a": "x", "b": "y"}).parent_names() == {}


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ("{dpo: stf}", "parents names 'stf', which is none of models"),
        ("{opd: sft}", "parents names 'opd', which is none of models"),
        ("{sft: sft}", "parents says that 'sft' was trained from itself"),
    ],
)
def test_a_parent_that_is_not_measured_is_refused(parents: str, message: str) -> None:
    overrides = ["evaluation.models={sft: x, dpo: y}", f"evaluation.parents={parents}"]
    with pytest.raises(ConfigError, match=message):
        load_config(["training"], overrides)


def test_a_name_is_short_and_plain() -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        load_config(["training"], ["evaluation.models={a b: x}"])


def test_samples_are_the_models_own_at_temperature_and_top_p_one() -> None:
    assert EvaluationConfig().samples_are_the_models_own
    assert not EvaluationConfig(temperature=0.7).samples_are_the_models_own
    assert not EvaluationConfig(top_p=0.9).samples_are_the_models_own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run-sft", "--model", "a=embedded"], "--model names what --run-evaluation measures"),
        (["--run-evaluation", "--model", "embedded"], "needs the form NAME=WHERE"),
        (["--run-evaluation", "--model", "a="], "needs the form NAME=WHERE"),
        (["--run-evaluation", "--model", "a.b=embedded"], "no dot in the name"),
    ],
)
def test_a_model_that_is_named_wrongly_is_refused_on_the_command_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(run.main, arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
