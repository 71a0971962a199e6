"""Serve ZenML's dashboard over the local store, on this machine alone, until Ctrl-C."""

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import StoreError
from llm_engineering.own_pages import HOST_VARIABLE, OwnPages
from tools.command import Command
from tools.console.terminal import take_over_logging
from tools.environment import set_environment

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ROOT = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"
USUAL_PORT = 8237
"""ZenML's own."""


@click.command(cls=Command)
@click.option(
    "--port", type=click.IntRange(1, 65535), help=f"Listen here; else at {USUAL_PORT} or, if it is taken, a free one."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the browser, too.")
@click.option("--survey", is_flag=True, help="Let the dashboard ask its questions at the first visit.")
@click.option("--reset", is_flag=True, help="Switch ZenML back from a server that is gone to the local store, and end.")
def main(port: int | None, open_browser: bool, survey: bool, reset: bool) -> None:
    """Serve ZenML's dashboard over the store of this machine's runs.

    It listens on this machine alone and asks for no account. Runs may go on beside it: they do not use the server.
    """
    set_environment(RunConfig())
    os.environ["ZENML_LOGGING_VERBOSITY"] = "WARN"
    console = Console(highlight=False)
    if reset:
        console.print(_reset())
        return
    _serve(console, port, open_browser=open_browser, survey=survey)


def _reset() -> str:
    from pipelines.store import use_local_store

    left = use_local_store()
    return (
        f"ZenML has left the server {left} and uses the local store again." if left else "ZenML uses the local store."
    )


def _serve(console: Console, port: int | None, *, open_browser: bool, survey: bool) -> None:
    """Print the address and become the server; nothing of ZenML's client configuration is changed by it."""
    from pipelines.store import open_store, runs_page, server_environment, server_of_store, skip_survey

    take_over_logging(console)
    open_store()
    if server := server_of_store():
        console.print(f"The runs are on the server {server}: its dashboard is there.", soft_wrap=True)
        return
    if not survey:
        skip_survey()
    listening = _listen(port)
    origin = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
    address = f"{origin}{runs_page()}"
    console.print(f"dashboard  {address}", soft_wrap=True)
    console.print("           serves the runs of this machine to this machine alone; Ctrl-C ends it", style="dim")
    if open_browser:
        click.launch(address)
    sys.stdout.flush()
    listening.set_inheritable(True)
    own = {HOST_VARIABLE: LOOPBACK, "ZENML_SERVER_CORS_ALLOW_ORIGINS": origin}
    command = [sys.executable, "-m", "uvicorn", "--factory", "tools.dashboard:for_own_pages", "--app-dir", str(ROOT)]
    command += ["--log-level", "warning", "--no-server-header", "--fd", str(listening.fileno())]
    os.execve(sys.executable, command, {**os.environ, **server_environment(), **own})


def for_own_pages() -> "ASGIApp":
    """Return ZenML's server, which answers no page of a foreign origin: what uvicorn serves."""
    from zenml.zen_server.zen_server_api import app

    return OwnPages(app)


def _listen(port: int | None) -> socket.socket:
    """Return a socket that listens at a port, or at a free one: what comes in waits for the server.

    Raises:
        StoreError: The port is in use, or may not be had.
    """
    for choice in (port,) if port else (USUAL_PORT, 0):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, choice))
            listening.listen()
        except OSError as error:
            listening.close()
            reason = error.strerror
        else:
            return listening
    raise StoreError(f"Port {port} cannot be listened at ({reason}). Name another one, or none for a free one.")


if __name__ == "__main__":
    main()
