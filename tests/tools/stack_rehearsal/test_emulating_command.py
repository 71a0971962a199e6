"""What cannot be emulated is refused in one sentence, before anything is started."""

import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from llm_engineering.config.stacks import read_stack
from llm_engineering.errors import ConfigError
from tools.stack_rehearsal.emulation import STANDINS, commands_of, flavors_of, standing_in
from tools.stacks import main


def test_a_stack_that_nobody_stands_in_for_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="There is no stand-in for the flavor 'ssh'"),
        standing_in(["ssh"], tmp_path / "one"),
    ):
        pass
    assert not (tmp_path / "one").exists()


def test_a_clouds_platform_with_artifacts_elsewhere_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="'vertex' is emulated with an artifact store of the flavor 'gcp', and the"),
        standing_in(["vertex"], tmp_path / "one", "s3"),
    ):
        pass
    assert not (tmp_path / "one").exists()


def test_the_command_says_it_in_a_sentence_and_ends_with_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["emulate", "ssh", "--folder", str(tmp_path / "one")])
    assert done.exit_code == 2
    assert done.output.startswith("Error: There is no stand-in for the flavor 'ssh'")


def test_what_is_refused_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert CliRunner().invoke(main, ["emulate", "ssh"]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_artifacts_in_a_store_that_nobody_plays_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["emulate", "azureml", "--folder", str(tmp_path / "one")])
    assert done.exit_code == 2
    assert " ".join(done.output.split()).startswith(
        "Error: An emulation plays artifact stores of the flavors s3 and gcp, not 'azure'."
    )


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes-steps", "sagemaker", "sagemaker-steps", "modal", "vertex"])
def test_stacks_of_these_platforms_have_stand_ins(name: str) -> None:
    assert {flavor for flavor in flavors_of(read_stack(name).shown()) if flavor != "local"} <= STANDINS.keys()


def test_the_client_is_told_what_the_stack_asks_for_and_no_secret() -> None:
    values = {"bucket": "one", "role": "arn", "context": "of another stack"}
    register, run = commands_of(read_stack("sagemaker"), values, ["--run-training", "--config", "mine.yaml"])
    assert register[2:] == ["register", "sagemaker", "--yes", "--set", "bucket=one", "--set", "role=arn"]
    assert run[2:] == ["--run-training", "--config", "mine.yaml", "--stack", "sagemaker"]


def test_google_cloud_is_emulated_without_a_connector() -> None:
    register, _ = commands_of(read_stack("vertex"), {"bucket": "one"}, [])
    assert register[2:] == ["register", "vertex", "--yes", "--ambient", "--set", "bucket=one"]
