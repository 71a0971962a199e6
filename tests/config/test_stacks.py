"""Stacks: files with open values, what is refused in them, and the images that they name."""

import re
import tomllib
from pathlib import Path

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.config.stacks import (
    OpenStack,
    read_stack,
    shipped_stacks,
)
from llm_engineering.config.yaml.loader import CONFIGS_DIR
from llm_engineering.errors import ConfigError
from llm_engineering.requirements import image_tag

SMALL = """
about: steps are pods
extras: [kubernetes]
integrations: [kubernetes]
placeholders:
  bucket: {about: a bucket, variable: BUCKET}
  gpus: {about: GPUs of a step, default: "2"}
  password: {about: a password, variable: PASSWORD, secret: true}
connector:
  type: aws
  auth_method: secret-key
  configuration: {aws_secret_access_key: "${password}"}
artifact_store:
  flavor: s3
  resource: s3-bucket/s3://${bucket}
  configuration: {path: "s3://${bucket}"}
orchestrator: {flavor: local}
image: here/image:cuda-${versions}
cpu: {about: a small one}
gpu: {about: "${gpus} GPUs", gpus: "${gpus}"}
"""


def stack_of(tmp_path: Path, text: str = SMALL) -> OpenStack:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return read_stack(str(path))


def test_values_take_the_places_of_placeholders(tmp_path: Path) -> None:
    config = stack_of(tmp_path).fill({"bucket": "b", "gpus": "4", "password": "p"})
    assert config.artifact_store.configuration == {"path": "s3://b"}
    assert config.artifact_store.resource == "s3-bucket/s3://b"
    assert config.gpu.gpus == 4
    assert config.connector is not None
    assert config.connector.configuration == {"aws_secret_access_key": "p"}
    assert config.image == f"here/image:cuda-{image_tag()}"


def test_what_is_said_goes_before_the_environment_and_that_before_earlier_values(tmp_path: Path) -> None:
    stack, environment = stack_of(tmp_path), {"BUCKET": "of-environment"}
    said, before = {"bucket": "said"}, {"bucket": "before", "gpus": "8"}
    assert stack.known_values(said, before, environment=environment) == {"bucket": "said", "gpus": "8"}
    assert stack.known_values({}, before, environment=environment)["bucket"] == "of-environment"
    assert stack.known_values({}, before, environment={})["bucket"] == "before"
    assert stack.known_values({}, environment={}) == {"gpus": "2"}


def test_a_secret_comes_from_the_environment_alone_and_is_not_shown(tmp_path: Path) -> None:
    stack = stack_of(tmp_path)
    values = stack.known_values({"password": "said"}, {"password": "before"}, environment={"PASSWORD": "hunter2"})
    assert values["password"] == "hunter2"
    assert "hunter2" not in stack.shown(values).model_dump_json()
    assert "password" not in stack.known_values({"password": "said"}, environment={})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('s3://${bucket}"}', 's3://${buckt}"}', r"mine.yaml, line 16: \$\{buckt\} is none of the placeholders. Add it"),
        ("here/image", "here$/image", r"line 18: a single \$ stands for nothing; write \$\$"),
        ("flavor: local", "flavour: local", r"line 17: orchestrator.flavour is not a known key; did you mean flavor\?"),
        ('gpus: "${gpus}"', "gpus: many", r"line 20: gpu.gpus"),
        (
            "connector:\n  type: aws\n  auth_method: secret-key\n",
            "secrets: [a]\nenvironment:\n",
            "no connector that could",
        ),
        ("cpu: {about: a small one}", "cpu: {about: x, step_operator: {gpu: A100}}", "has settings of a step operator"),
        ("secret: true", "secret: maybe", r"line 8: placeholders.password.secret"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = SMALL.replace(old, new)
    assert text != SMALL
    if "environment:" in new:
        text = text.replace('  configuration: {aws_secret_access_key: "${password}"}\n', "  A: b\n", 1)
    with pytest.raises(ConfigError, match=says):
        stack_of(tmp_path, text)


def test_an_unknown_stack_is_compared_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"There is no stack 'sagemakr' .* did you mean sagemaker\?"):
        read_stack("sagemakr")


@pytest.mark.parametrize("name", shipped_stacks())
def test_the_extras_of_a_shipped_stack_are_extras_of_the_project(name: str) -> None:
    project = tomllib.loads((CONFIGS_DIR.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(read_stack(name).shown().extras) <= set(project["optional-dependencies"])


def test_the_platforms_are_shipped() -> None:
    assert set(shipped_stacks()) == {
        "azureml",
        "kubernetes",
        "kubernetes-steps",
        "modal",
        "sagemaker",
        "sagemaker-steps",
        "ssh",
        "vertex",
    }


@pytest.mark.parametrize("name", shipped_stacks())
def test_a_shipped_stack_names_no_account_no_secret_and_no_hyperparameter(name: str) -> None:
    stack, text = read_stack(name), shipped_stacks()[name].read_text(encoding="utf-8")
    assert not re.search(r"\b\d{12}\b|AKIA|arn:aws:iam::\d", text)
    assert not re.search(r"\b[0-9a-f]{8}-[0-9a-f]{4}-", text)
    blocks = set(RunConfig.model_fields) & {"sft", "dpo", "adapter", "data", "model", "evaluation"}
    assert not blocks & set(stack.tree.value)  # type: ignore[arg-type]
    secret = {key for key, each in stack.placeholders.items() if each.secret}
    for key in secret:
        assert len(re.findall(rf"\$\{{{key}\}}", text)) == 1, "a secret stands in the connector alone"
        assert stack.placeholders[key].default is None
        assert stack.placeholders[key].variable
