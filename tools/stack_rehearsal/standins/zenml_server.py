"""A ZenML server on loopback, for as long as an emulation takes: remote stacks need one that their jobs can reach."""

import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.errors import StoreError
from tools.stack_rehearsal.standins.loopback import listening_socket, url_of

if TYPE_CHECKING:
    import httpx

SECONDS_TO_START = 120.0
"""A server that makes a fresh store takes 8 s on two cores."""
SECONDS_TO_END = 20.0
_ADMIN = "admin"


@dataclass(frozen=True)
class ZenMLServer:
    """A server that runs, and the key of a service account on it."""

    url: str
    api_key: str

    def client_environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a client that keeps its own settings in a folder."""
        return {
            "ZENML_STORE_URL": self.url,
            "ZENML_STORE_API_KEY": self.api_key,
            "ZENML_CONFIG_PATH": str(folder),
            "ZENML_ANALYTICS_OPT_IN": "false",
        }


@contextmanager
def zenml_server(python: Path, folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[ZenMLServer]:
    """Run a server with a fresh store until the block ends.

    Its password and the key that its tokens are signed with are made here and known to nobody else.

    Args:
        python: An interpreter that has ``zenml[server]``.
        folder: Takes the store (sqlite) and the log ``server.log``.
        variables: What else stands in its environment: where it finds the platform that its connectors ask.

    Raises:
        StoreError: The server does not start.
    """
    password = secrets.token_urlsafe(24)
    folder.mkdir(parents=True, mode=0o700)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ},
        "HOME": str(folder),
        "ZENML_CONFIG_PATH": str(folder / "store"),
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_DEFAULT_USER_NAME": _ADMIN,
        "ZENML_DEFAULT_USER_PASSWORD": password,
        "ZENML_SERVER_JWT_SECRET_KEY": secrets.token_hex(32),
        "ZENML_ANALYTICS_OPT_IN": "false",
        **(variables or {}),
    }
    log = folder / "server.log"
    with listening_socket() as listener, log.open("wb") as output:
        url = url_of(listener)
        command = [str(python), "-m", "uvicorn", "zenml.zen_server.zen_server_api:app"]
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno()), "--log-level", "warning"],
            env=environment,
            cwd=folder,
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield ZenMLServer(url, _service_account(url, password, log))
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _service_account(url: str, password: str, log: Path) -> str:
    """Make a service account, and return a key for it."""
    import httpx

    try:
        with httpx.Client(base_url=f"{url}/api/v1", timeout=SECONDS_TO_START) as client:
            token = _asked(client.post("/login", data={"username": _ADMIN, "password": password}))["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            account = {"name": "emulation", "active": True, "description": "Submits the emulation."}
            number = _asked(client.post("/service_accounts", json=account))["id"]
            key = {"name": "emulation", "description": "Ends with the emulation."}
            made = _asked(client.post(f"/service_accounts/{number}/api_keys", json=key))
    except httpx.HTTPError as error:
        raise StoreError(f"The ZenML server of the emulation does not answer ({error}). Its log is {log}.") from error
    return str(made["body"]["key"])


def _asked(response: "httpx.Response") -> Any:
    response.raise_for_status()
    return response.json()
