"""The endpoint that a judge is asked at: requests in parallel, replies that survive an interruption, faults in words.

Retries, their pauses and time-outs are those of the official client; here it is counted what came of them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.data.private import mask_private
from llm_engineering.progress import Work
from llm_engineering.scoring.judge.prompts import Message, Mode, response_format

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI
    from openai.types.chat import ChatCompletion

GIVE_UP = 5
"""So many requests without a reply, one after the other: the rest is not asked."""
HOPELESS = (401, 403, 404)
"""Statuses that the next request would get as well."""
LONGEST_REPLY = 20_000
"""Characters of a reply that are kept, its end; verdicts stand there."""
LONGEST_REASON = 200


@dataclass(frozen=True)
class JudgeRequest:
    """One request, in both forms that a verdict can be asked for."""

    mode: Mode
    in_json: list[Message]
    in_text: list[Message]


class JudgeReply(BaseModel):
    """What the server sent back; one line of the log of replies."""

    key: str
    text: str
    refused: bool = False
    cut_off: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class Endpoint:
    """Asks the configured judge, and keeps every reply in a file.

    Replies to requests that an interrupted run had sent are read from the file: they are neither waited for nor paid
    for again.
    """

    config: OpenAIJudge
    api_key: str | None
    log: Path
    """JSON lines, one a reply; the file may exist."""
    failures: Counter[str] = field(default_factory=Counter)
    """What the server did instead of replying, and how often."""
    error: str | None = None
    """Why the judge was given up."""
    _replies: dict[str, JudgeReply] = field(default_factory=dict)
    _in_json: bool = True
    _settled: bool = False
    """The server has replied to a request in this form."""
    _failed_in_a_row: int = 0

    def key(self, request: JudgeRequest) -> str:
        """Return what a request is known by: the hash of everything that shapes the reply."""
        shaping: list[Any] = [self.config.model, self.config.verdicts, self.config.temperature]
        shaping += [self.config.max_tokens, request.mode, self.config.scale, request.in_json]
        return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()

    def ask(self, requests: Iterable[JudgeRequest]) -> dict[str, JudgeReply]:
        """Return the replies by the requests' keys; a request that got none is missing.

        Nothing is raised for what the server does: :attr:`failures` and :attr:`error` say it.
        """
        from anyio.from_thread import start_blocking_portal

        self._replies = self._read()
        wanted = {self.key(request): request for request in requests}
        missing = {key: request for key, request in wanted.items() if key not in self._replies}
        if missing:
            with start_blocking_portal() as portal:  # a loop of its own: a notebook's is running already
                portal.call(self._ask_all, missing)
        return {key: self._replies[key] for key in wanted if key in self._replies}

    def _read(self) -> dict[str, JudgeReply]:
        """Return the replies in the file; a line that a dying process left unfinished is none."""
        replies = {}
        for line in self.log.read_text(encoding="utf-8").split("\n") if self.log.is_file() else ():
            try:
                reply = JudgeReply.model_validate_json(line)
            except ValidationError:
                continue
            replies[reply.key] = reply
        return replies

    async def _ask_all(self, requests: dict[str, JudgeRequest]) -> None:
        import anyio
        from openai import AsyncOpenAI

        self._in_json = self.config.verdicts != "text"
        places = anyio.Semaphore(self.config.concurrency)
        client = AsyncOpenAI(
            api_key=self.api_key or "none",
            base_url=self.config.base_url,
            timeout=self.config.timeout,
            max_retries=self.config.retries,
        )
        with self.log.open("a", encoding="utf-8") as log, Work("judged", len(requests), "requests") as work:
            if log.tell():
                log.write("\n")  # ends a line that may be torn

            async def one(key: str, request: JudgeRequest) -> None:
                async with places:
                    reply = None if self.error else await self._ask_one(client, key, request)
                if reply is not None:
                    self._replies[key] = reply
                    log.write(reply.model_dump_json() + "\n")
                    log.flush()
                work(1)

            first, *others = requests.items()
            async with client, anyio.create_task_group() as group:
                await one(*first)  # alone: it shows whether the server is there, and takes JSON
                for key, request in others:
                    group.start_soon(one, key, request)

    async def _ask_one(self, client: "AsyncOpenAI", key: str, request: JudgeRequest) -> JudgeReply | None:
        from openai import APIError, APIStatusError

        in_json = self._in_json
        try:
            completion = await self._send(client, request, in_json=in_json)
        except APIStatusError as error:
            if in_json and self._may_be_the_form(error):
                self._in_json = False
                return await self._ask_one(client, key, request)
            self._count(error)
            return None
        except (APIError, ValueError) as error:  # the client lets some bodies that are no JSON through
            self._count(error)
            return None
        reply = self._read_completion(key, completion)
        if reply is None:
            self._count(ValueError("no choices"))
            return None
        self._failed_in_a_row, self._settled = 0, True
        return reply

    def _may_be_the_form(self, error: "APIStatusError") -> bool:
        """Return whether the server may refuse a request because it does not know ``response_format``."""
        return self.config.verdicts == "auto" and not self._settled and error.status_code in (400, 422, 501)

    async def _send(self, client: "AsyncOpenAI", request: JudgeRequest, *, in_json: bool) -> "ChatCompletion":
        options: dict[str, Any] = {self.config.token_limit: self.config.max_tokens}
        if self.config.temperature is not None:
            options["temperature"] = self.config.temperature
        if in_json:
            options["response_format"] = response_format(request.mode, self.config.scale)
        messages: Any = request.in_json if in_json else request.in_text
        completion: ChatCompletion = await client.chat.completions.create(
            model=self.config.model, messages=messages, **options
        )
        return completion

    def _count(self, error: "APIError | ValueError") -> None:
        """Count a request that got no reply, and give the judge up where the next would get none either."""
        said = self._describe(error)
        self.failures[said] += 1
        self._failed_in_a_row += 1
        if getattr(error, "status_code", None) in HOPELESS or self._failed_in_a_row >= GIVE_UP:
            self.error = self.error or f"The judge was given up: {said}."

    def _describe(self, error: "APIError | ValueError") -> str:
        """Return in words what the server did; neither the key nor private data stands in them."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        where = urlsplit(self.config.base_url).netloc
        if isinstance(error, APITimeoutError):
            return f"{where} did not reply within {self.config.timeout:g} s (evaluation.judge.timeout)"
        if isinstance(error, APIConnectionError):
            return f"{where} cannot be reached (evaluation.judge.base_url)"
        if isinstance(error, APIStatusError):
            hint = _HINTS.get(error.status_code, "")
            return f"{where} answered with status {error.status_code}{hint}{self._reason(error)}"
        return f"{where} sent something that is no chat completion"

    def _reason(self, error: Any) -> str:
        """Return what the server says itself, shortened."""
        if error.status_code in (401, 403):
            return ""
        text = " ".join(str(error.body.get("message", "") if isinstance(error.body, dict) else "").split())
        text = mask_private(self._without_key(text))
        return f": {text[:LONGEST_REASON]}" if text else ""

    def _without_key(self, text: str) -> str:
        """Return what the server wrote without the key; some repeat what they are sent."""
        return text.replace(self.api_key, "•••") if self.api_key else text

    def _read_completion(self, key: str, completion: "ChatCompletion") -> JudgeReply | None:
        """Return what of a completion counts; servers leave out much that the protocol promises."""
        choices = getattr(completion, "choices", None) or []
        message = choices[0].message if choices else None
        if message is None:
            return None
        refusal, usage = getattr(message, "refusal", None), getattr(completion, "usage", None)
        return JudgeReply(
            key=key,
            text=self._without_key(str(refusal or message.content or ""))[-LONGEST_REPLY:],
            refused=bool(refusal) or choices[0].finish_reason == "content_filter",
            cut_off=choices[0].finish_reason == "length",
            input_tokens=getattr(usage, "prompt_tokens", None),
            output_tokens=getattr(usage, "completion_tokens", None),
        )


_HINTS = {
    401: " (it refuses the key; see evaluation.judge.api_key_env)",
    403: " (the key may not use this model)",
    404: " (it has no such address or model; see evaluation.judge.base_url and evaluation.judge.model)",
    429: " (too many requests; lower evaluation.judge.concurrency)",
}
