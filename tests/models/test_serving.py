import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models import serving
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.models.serving import require_address, served_name
from llm_engineering.models.streaming import Sampling
from llm_engineering.models.transformers_server import mend_server
from llm_engineering.own_pages import HOST_VARIABLE
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.conversation import open_conversation

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.10"])
def test_this_machine_s_own_addresses_are_served_on(host: str) -> None:
    assert 1024 <= require_address(host, 0, expose=False) <= 65535


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "models.example", "::"])
def test_addresses_that_others_reach_are_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=r"may be reached from other machines.*no authentication.*--expose"):
        require_address(host, 8000, expose=False)


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot be listened at"):
        require_address("127.0.0.1", taken.getsockname()[1], expose=False)


def test_a_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import import_utils

    monkeypatch.setattr(import_utils, "is_serve_available", lambda: False)
    with pytest.raises(ConfigError, match=r"There is no server for models here\. Install the extra serve"):
        serving._command("tiny", "127.0.0.1", 8000)


def test_what_is_served_samples_as_asked_ends_as_trained_and_leaves_the_model_as_it_is(
    model_checkpoints: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    model = model_checkpoints("gpt_neox")  # no template, and an end token that ChatML's replaces
    before = sorted(path.name for path in model.path.iterdir())
    serving._lay_out(model, tmp_path / "served")
    config = json.loads((tmp_path / "served" / "generation_config.json").read_text())
    assert (config["do_sample"], config["temperature"], config["top_k"], config["top_p"]) == (True, 1.0, 0, 1.0)
    tokenizer = open_conversation("x", model).tokenizer
    own = json.loads((model.path / "generation_config.json").read_text())["eos_token_id"]
    assert config["eos_token_id"] == [tokenizer.eos_token_id, own]
    assert "im_start" in (tmp_path / "served" / "chat_template.jinja").read_text()
    assert (tmp_path / "served" / "model.safetensors").resolve() == (model.path / "model.safetensors").resolve()
    assert sorted(path.name for path in model.path.iterdir()) == before


def test_a_server_that_foreign_pages_could_use_is_not_offered() -> None:
    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Open) as server:
        Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with subprocess.Popen(["true"]) as process, pytest.raises(ModelError, match="would let any web page use"):
            serving._require_guard(serving.Server("tiny", url, "vLLM", process))
        server.shutdown()


@pytest.fixture
def ask(
    model_checkpoints: Callable[[str], Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return what asks the mended server of transformers, in this process, and without a cache of the hub."""
    import uvicorn
    from fastapi.testclient import TestClient
    from huggingface_hub.utils import _cache_manager
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server
    from transformers.cli.serving.utils import GenerateManager

    for owner, name in (
        (server, "build_server"),
        (GenerateManager, "generate_streaming"),
        (GenerateManager, "generate_non_streaming"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is put back
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    monkeypatch.setenv(HOST_VARIABLE, "127.0.0.1")
    mend_server()
    serving._lay_out(model_checkpoints("qwen2"), tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    client = TestClient(Serve("tiny", device="cpu", log_level="error").server.config.app, "http://127.0.0.1")
    return client.request


def test_the_model_that_is_served_is_listed(ask: Callable[..., Any]) -> None:
    answer = ask("GET", "/v1/models")
    assert (answer.status_code, [model["id"] for model in answer.json()["data"]]) == (200, ["tiny"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_the_model_has_no_positions_for_is_refused_as_openai_does(
    ask: Callable[..., Any], stream: bool
) -> None:
    messages = [{"role": "user", "content": "otter " * 5000}]
    answer = ask("POST", "/v1/chat/completions", json={"model": "tiny", "messages": messages, "stream": stream})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "positions" in answer.json()["error"]["message"]


def test_an_answer_ends_where_the_positions_do(ask: Callable[..., Any], tmp_path: Path) -> None:
    ends = json.loads((tmp_path / "tiny" / "generation_config.json").read_text())["eos_token_id"]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 300}
    bias = {str(end): -100.0 for end in ends}
    answer = ask("POST", "/v1/chat/completions", json={**body, "logit_bias": bias}).json()
    assert (answer["usage"]["total_tokens"], answer["choices"][0]["finish_reason"]) == (256, "length")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The embedded base, served as a user serves it."""
    command = [sys.executable, str(REPOSITORY / "tools" / "chat.py"), "embedded", "--serve", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("curl "):
                break
        found = re.search(r"Serving (\S+) at (\S+) with transformers serve", said)
        assert found, said
        yield found[1], found[2]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.slow
def test_pages_of_other_origins_cannot_use_the_model(served: tuple[str, str]) -> None:
    import httpx

    name, address = served
    own = address.removeprefix("http://").removesuffix("/v1")
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
    expected = {
        ("application/json", own, f"http://{own}"): 200,
        ("application/json", own, "http://evil.example"): 403,
        ("text/plain", own, "http://127.0.0.1:1"): 403,
        ("text/plain", own, "null"): 403,
        ("application/json", "evil.example:8000", "http://evil.example:8000"): 400,
    }
    asked = {}
    for kind, host, origin in expected:
        headers = {"Content-Type": kind, "Host": host, "Origin": origin}
        answer = httpx.post(f"{address}/chat/completions", content=body, headers=headers, timeout=60, trust_env=False)
        asked[kind, host, origin] = answer.status_code
    assert asked == expected


@pytest.mark.slow
def test_an_openai_client_gets_the_answers_that_are_evaluated(served: tuple[str, str]) -> None:
    from openai import BadRequestError, OpenAI

    name, address = served
    client = OpenAI(base_url=address, api_key="none", max_retries=0)
    conversation = open_conversation("x", locate_base(ModelConfig()))
    for question in ("Where does the otter live?", "What colour is the zebra?"):
        expected = "".join(conversation.ask(question, Sampling(max_new_tokens=48), Event()))
        asked: Any = {"model": name, "messages": conversation.messages[:-1], "temperature": 0, "max_tokens": 48}
        whole = client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == expected
        assert whole.choices[0].finish_reason == "stop"  # at EOS
        ids = conversation.tokenizer(expected, add_special_tokens=False)["input_ids"]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == len(ids) + 1
        streamed = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
        assert "".join(choice.delta.content or "" for choice in streamed) == expected
        assert streamed[-1].finish_reason == "stop"
        assert len(streamed) > 3

    def sampled(seed: int) -> str | None:
        asked: Any = {"model": name, "messages": conversation.messages[:1], "max_tokens": 24}
        return client.chat.completions.create(**asked, temperature=1, seed=seed).choices[0].message.content

    answers = [sampled(seed) for seed in (1, 1, 2, 3, 4)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1

    with pytest.raises(BadRequestError):  # no other model is loaded, and none fetched
        client.chat.completions.create(model="gpt2", messages=[{"role": "user", "content": "Hello"}])


def test_a_model_is_called_by_its_folder_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "otter" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "otter" / "inner")
    assert [served_name(name) for name in ("..", ".", "small@2", "~/../..")] == ["otter", "inner", "small-2", "model"]
