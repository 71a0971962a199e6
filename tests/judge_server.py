"""A local server that speaks the protocol of chat completions, and judges by a rule that a test writes down."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Parts = dict[str, str]
"""What the judge is shown: ``conversation``, ``answer A``, ``answer B``, ``answer``, ``reference answer ...``."""
BLOCK = re.compile(r"<<begin (\w+): ([^>]+)>>\n(.*?)\n<<end \1>>", re.DOTALL)


@dataclass
class Response:
    """What the server sends, in place of a verdict."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0


Rule = Callable[[Parts, dict[str, Any]], "str | Response"]
"""Takes what is shown and the whole request, and returns what the judge writes."""


@dataclass
class JudgeServer:
    """What a running server has been asked, and where it listens."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The Authorization headers, in order."""


def completion(text: str, **message: object) -> dict[str, object]:
    return {
        "id": "verdict-1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def verdict(value: object) -> str:
    return json.dumps({"reasons": "Because.", "verdict": value})


def parts_of(request: dict[str, Any]) -> Parts:
    return {name: text for _, name, text in BLOCK.findall(request["messages"][-1]["content"])}


@contextmanager
def serving(rule: Rule) -> Iterator[JudgeServer]:
    """Serve verdicts by a rule until the block ends."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(request)
            served.keys.append(self.headers["Authorization"])
            said = rule(parts_of(request), request)
            answer = said if isinstance(said, Response) else Response(body=completion(said))
            stopped.wait(answer.wait)
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # the client waited no longer
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = JudgeServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
