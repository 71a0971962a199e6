"""An OpenAI-compatible endpoint for one model, by an existing server: vLLM on a GPU, transformers' own elsewhere."""

import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.own_pages import HOST_VARIABLE, OwnPages, in_address
from llm_engineering.reports.folders import Checkpoint

STOPPING = 10.0
"""Seconds that a server gets to end before it is killed."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    model: str
    """What requests have to name."""
    url: str
    software: str
    process: "subprocess.Popen[bytes]"

    def wait(self) -> None:
        """Wait until the server ends.

        Raises:
            ModelError: It ended by itself.
        """
        code = self.process.wait()
        raise ModelError(f"{self.software} ended with exit code {code}. What it said above tells why.")


def require_address(host: str, port: int, *, expose: bool) -> int:
    """Return the port to serve on, a free one where 0 is asked for.

    Raises:
        ConfigError: Others would reach the address and nobody asked for that, or it cannot be listened at.
    """
    if not expose and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} may be reached from other machines, and there is no authentication. Add --expose if that "
            "is meant."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"{host}, port {port}, cannot be listened at: {error.strerror}. Name another with --host or --port; port 0 "
            "takes a free one."
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def serving(checkpoint: Checkpoint, name: str, host: str, port: int) -> Iterator[Server]:
    """Start a server, wait until it answers, and stop it in the end. It answers no page of a foreign origin.

    Args:
        checkpoint: The model; its folder is only read.
        name: What the model is called; requests name it without the characters that an address needs.
        host: Where to listen.
        port: Where to listen; not 0.

    Raises:
        ConfigError: No server is installed.
        ModelError: The server does not start, or answers foreign pages.
    """
    model = served_name(name)
    software, command = _command(model, host, port)
    with TemporaryDirectory(prefix="serving-") as folder:
        _lay_out(checkpoint, Path(folder) / model)
        # the server is named a folder relative to its own, so that requests need no path
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **_OFFLINE, **_guard(host)})
        server = Server(model, f"http://{in_address(host)}:{port}", software, process)
        try:
            _wait_until_it_answers(server)
            _require_guard(server)
            yield server
        finally:
            _stop(process)


def served_name(name: str) -> str:
    """Return what requests call a model: of a folder the last part of its path, without what an address needs."""
    called = Path(name).resolve().name if Path(name).exists() else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", called).strip("-.") or "model"


_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _guard(host: str) -> dict[str, str]:
    """Return the environment in which a server finds this package, and :class:`OwnPages` the address."""
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {HOST_VARIABLE: host, "PYTHONPATH": os.pathsep.join(path)}


def _command(model: str, host: str, port: int) -> tuple[str, list[str]]:
    """Return which server is used, and how it is started in the folder above the model's."""
    import torch
    from transformers.utils.import_utils import is_serve_available

    listen = ["--host", host, "--port", str(port)]
    if torch.cuda.is_available() and find_spec("vllm"):
        module = ["vllm.entrypoints.cli.main", "serve", f"./{model}", "--served-model-name", model]
        guard = ["--middleware", f"{OwnPages.__module__}.{OwnPages.__qualname__}"]
        return "vLLM", [sys.executable, "-m", *module, *listen, *guard]
    if is_serve_available():
        module = ["llm_engineering.models.transformers_server", "serve", model, "--log-level", "error"]
        return "transformers serve", [sys.executable, "-m", *module, *listen]
    raise ConfigError(
        "There is no server for models here. Install the extra serve (`pip install '.[serve]'`), or vLLM where there "
        "is a CUDA GPU."
    )


def _lay_out(checkpoint: Checkpoint, folder: Path) -> None:
    """Make a folder as a server wants it: links to the weights, the tokenizer that ends answers, and how to sample.

    Transformers' server samples only where the generation config says so, whatever temperature a request names. A
    request without one is sampled at temperature 1, as with OpenAI's; temperature 0 is greedy.
    """
    from transformers import GenerationConfig

    from llm_engineering.models.generation import listed_ends

    tokenizer = load_chat_tokenizer(checkpoint, ModelConfig(base=checkpoint.base)).tokenizer
    tokenizer.save_pretrained(folder)
    own = checkpoint.path / "generation_config.json"
    known = GenerationConfig.from_pretrained(checkpoint.path) if own.is_file() else None
    GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=listed_ends(tokenizer, known),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    for path in checkpoint.path.resolve().iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)


def _wait_until_it_answers(server: Server) -> None:
    import httpx

    while server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise ModelError(
        f"{server.software} cannot serve this model: it ended with exit code {server.process.returncode}. What it said "
        "above tells why."
    )


def _require_guard(server: Server) -> None:
    """Refuse a server that a page of a foreign origin could use."""
    import httpx

    answer = httpx.get(f"{server.url}/health", headers={"Origin": "null"}, timeout=10, trust_env=False)
    if answer.status_code != httpx.codes.FORBIDDEN:
        raise ModelError(
            f"{server.software} would let any web page use this model. Install the versions that constraints.txt names."
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOPPING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def example_request(server: Server) -> str:
    """Return a command that asks the server something."""
    body = {"model": server.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
    return f"curl {server.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
