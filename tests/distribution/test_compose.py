"""The compose file: versions that stay, nothing open to other machines, no secret in a file that is committed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dockerfile import REPOSITORY, read_dockerfile
from ruamel.yaml import YAML

from llm_engineering.requirements import read_pins

VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)[:}]")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "compose.yaml")["services"]
    return found


def example() -> dict[str, str]:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return dict(pairs)


def test_the_server_is_of_the_version_that_the_client_has(services: dict[str, Any]) -> None:
    pins = read_pins((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    assert services["zenml"]["image"] == f"zenmldocker/zenml-server:{pins['zenml']}"
    assert re.fullmatch(r"mysql:\d+\.\d+\.\d+", services["mysql"]["image"])


def test_ports_are_bound_to_this_machine_alone(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_variable_is_in_the_example_where_every_secret_is_empty(services: dict[str, Any]) -> None:
    text = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
    assert set(VARIABLE.findall(text)) == set(example())
    filled = {name for name, value in example().items() if value}
    assert filled == {"ZENML_DEFAULT_USER_NAME", "ZENML_PORT"}
    for service in services.values():
        secret = {name: value for name, value in service["environment"].items() if re.search("PASSWORD|KEY", name)}
        assert all(re.fullmatch(r"\$\{.*\}|yes", value) for value in secret.values())


def test_an_env_file_is_not_committed() -> None:
    ignored = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ".env" in ignored


@pytest.mark.filterwarnings("ignore:'crypt' is deprecated:DeprecationWarning")  # by passlib, which ZenML imports
def test_zenml_takes_the_address_of_the_database_and_a_password_of_any_characters(services: dict[str, Any]) -> None:
    from zenml.zen_stores.sql_zen_store import SqlZenStoreConfiguration

    environment = services["zenml"]["environment"]
    store = SqlZenStoreConfiguration(
        url=environment["ZENML_STORE_URL"], username=environment["ZENML_STORE_USERNAME"], password="p@ss/w$rd"
    )
    url, _, _ = store.get_sqlalchemy_config()
    database = services["mysql"]["environment"]
    assert (url.host, url.database, url.username) == ("mysql", database["MYSQL_DATABASE"], database["MYSQL_USER"])
    assert url.password == "p@ss/w$rd"


def test_a_run_waits_for_a_healthy_server_and_writes_to_a_volume(services: dict[str, Any]) -> None:
    run = services["run"]
    assert run["build"]["target"] in read_dockerfile()
    assert run["volumes"] == ["data:/data"]
    for name, needed in (("run", "zenml"), ("zenml", "mysql")):
        assert services[name]["depends_on"] == {needed: {"condition": "service_healthy"}}
        assert services[needed]["healthcheck"]["test"]


@pytest.mark.filterwarnings("ignore:'crypt' is deprecated:DeprecationWarning")
def test_zenml_has_no_driver_for_postgresql() -> None:
    from zenml.zen_stores.sql_zen_store import SqlZenStoreConfiguration

    with pytest.raises(ValueError, match="The driver must be one of"):
        SqlZenStoreConfiguration(url="postgresql://db/zenml", username="zenml", password="secret")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose, of any version")
def test_compose_reads_the_file_and_asks_for_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "compose.yaml", tmp_path)

    def config(env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / ".env").write_text(env)
        command = ["docker-compose", "--project-directory", tmp_path, "--file", tmp_path / "compose.yaml", "config"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = config("")
    assert refused.returncode != 0
    assert "set it in .env" in refused.stderr
    needed = ("MYSQL_PASSWORD", "ZENML_SERVER_JWT_SECRET_KEY", "ZENML_DEFAULT_USER_PASSWORD")
    read = config("".join(f"{name}=secret\n" for name in needed))
    assert read.returncode == 0, read.stderr
    assert "127.0.0.1:8080:8080" in read.stdout
