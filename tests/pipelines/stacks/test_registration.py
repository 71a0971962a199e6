"""`tools/stacks.py` against a ZenML server of its own: repeatable, honest about what it will do, and easy to undo."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.stack_rehearsal.standins.zenml_server import zenml_server

REPOSITORY = Path(__file__).parents[3]
VALUES = [
    f"--set={pair}"
    for pair in ("region=eu-central-1", "bucket=mine", "context=lab", "registry=registry.example/team", "gpus=2")
]


@dataclass(frozen=True)
class Tool:
    """tools/stacks.py and tools/run.py, as a user calls them."""

    environment: dict[str, str]

    def __call__(self, *arguments: str, tool: str = "stacks") -> tuple[int, str]:
        """Return exit code and output, its white space evened out."""
        command = [sys.executable, str(REPOSITORY / "tools" / f"{tool}.py"), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())


def environment_of(folder: Path) -> dict[str, str]:
    foreign = ("AWS_", "KUBE", "ZENML_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "COLUMNS": "200", "ZENML_CONFIG_PATH": str(folder)}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    return Tool(environment_of(tmp_path_factory.mktemp("local")))


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    folder = tmp_path_factory.mktemp("served")
    with zenml_server(Path(sys.executable), folder / "server") as server:
        yield Tool(environment_of(folder / "client") | server.client_environment(folder / "client"))


@pytest.mark.slow
def test_a_local_store_is_refused_before_anything_is_done(local: Tool) -> None:
    code, said = local("register", "kubernetes", "--ambient", "--yes", *VALUES)
    assert code == 2
    assert "need a ZenML server that they reach; this client is on a local store" in said
    code, said = local("--run-training", "--stack", "kubernetes", tool="run")
    assert code == 2
    assert "this client is on a local store. docs/stacks.md says how to get a server" in said


@pytest.mark.slow
def test_missing_values_are_named_with_their_variables_all_at_once(local: Tool) -> None:
    code, said = local("register", "kubernetes", "--dry-run", "--set=bucket=mine")
    assert code == 2
    assert "region, region of the bucket, such as eu-central-1 ($AWS_DEFAULT_REGION)" in said
    assert "access_key, access key of ZenML's connector ($AWS_ACCESS_KEY_ID)" in said
    assert "--ambient does without the connector's credentials" in said


@pytest.mark.slow
def test_a_secret_on_the_command_line_is_refused(local: Tool) -> None:
    code, said = local("register", "kubernetes", "--dry-run", "--set=secret_key=hunter2")
    assert code == 2
    assert "--set secret_key would show a secret to whoever sees this line. Set $AWS_SECRET_ACCESS_KEY." in said


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_made(local: Tool) -> None:
    code, said = local("register", "kubernetes", "--ambient", "--dry-run", *VALUES)
    assert code == 0
    assert 'create orchestrator kubernetes {"flavor": "kubernetes"' in said
    assert said.endswith("Nothing was done.")
    assert "registered" not in local("list")[1]


@pytest.mark.slow
def test_registering_twice_changes_nothing_and_other_values_change_what_they_touch(tool: Tool) -> None:
    code, said = tool("register", "kubernetes", "--ambient", "--yes", *VALUES)
    assert code == 0, said
    code, said = tool("register", "kubernetes", "--ambient", "--yes")  # it remembers the values
    assert (code, said.count("keep "), "update" in said, "create" in said) == (0, 5, False, False), said
    assert "The stack kubernetes is as its file says." in said
    code, said = tool("register", "kubernetes", "--ambient", "--yes", "--set=bucket=other")
    assert code == 0
    assert 'update artifact_store kubernetes {"flavor": "s3", "path": "s3://other"' in said
    assert "keep orchestrator" in said
    assert "update stack" in said


@pytest.mark.slow
def test_a_check_finds_what_is_missing(tool: Tool) -> None:
    tool("register", "kubernetes", "--ambient", "--yes", *VALUES)
    code, said = tool("check", "kubernetes", "--json")
    found = {each["check"]: each for each in json.loads(said)["findings"]}
    assert code == 1
    assert found["packages"]["level"] in ("ok", "problem")
    assert found["server"]["level"] == "note"
    assert "is an address of this machine alone" in found["server"]["text"]
    assert found["stack"]["level"] == found["file"]["level"] == found["image"]["level"] == "ok"
    assert found["artifact store"]["level"] == "problem"  # no credentials, and no such bucket


@pytest.mark.slow
def test_a_run_is_refused_before_it_is_sent_where_packages_or_secrets_are_missing(tool: Tool, tmp_path: Path) -> None:
    assert tool("register", "ssh", "--ambient", "--yes", *VALUES[:2], VALUES[3], "--set=host=h", "--set=user=u")[0] == 0
    code, said = tool("--run-training", "--stack", "ssh", tool="run")
    assert code == 2
    assert re.search(r"The stack ssh needs the packages of .* ssh(, s3)?, which are not here\. Install them", said)
    mine = (REPOSITORY / "configs" / "stacks" / "ssh.yaml").read_text(encoding="utf-8")
    mine = mine.replace("integrations: [ssh, s3]", "integrations: []") + "secrets: [training]\n"
    (tmp_path / "mine.yaml").write_text(mine, encoding="utf-8")
    values = [*VALUES[:2], VALUES[3], "--set=host=h", "--set=user=u"]
    assert tool("register", str(tmp_path / "mine.yaml"), "--ambient", "--yes", *values)[0] == 0
    code, said = tool("--run-training", "--stack", "mine", tool="run")
    assert code == 2
    assert "The stack mine gives its steps the ZenML secrets training, which are not there. Make each" in said


@pytest.mark.slow
def test_a_component_of_another_flavour_stops_the_registration(tool: Tool, tmp_path: Path) -> None:
    script = tmp_path / "make_component.py"
    script.write_text(
        "from zenml.client import Client\n"
        "from zenml.enums import StackComponentType\n"
        "Client().create_stack_component('modal', 'local', StackComponentType.ARTIFACT_STORE, {})\n"
    )
    subprocess.run([sys.executable, str(script)], env=tool.environment, check=True)
    code, said = tool("register", "modal", "--ambient", "--yes", *VALUES[:2], VALUES[3])
    assert code == 2
    assert "has a component 'modal' of the type artifact_store already, and its flavor is local, not s3" in said
    assert "modal registered" not in tool("list")[1]


@pytest.mark.slow
def test_deleting_leaves_nothing_behind(tool: Tool) -> None:
    registry = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    values = [*VALUES[:2], f"--set=registry={registry}", "--set=role=arn:aws:iam::123456789012:role/x"]
    code, said = tool("register", "sagemaker-steps", "--ambient", "--yes", *values)
    assert code == 0, said
    code, said = tool("delete", "sagemaker-steps", "--yes")
    assert code == 0
    assert said.count("delete ") == 6  # the stack and its five components
    assert "sagemaker-steps registered" not in tool("list")[1]
    code, said = tool("delete", "sagemaker-steps", "--yes")
    assert code == 2
    assert "ZenML has no stack 'sagemaker-steps'" in said
