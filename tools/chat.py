"""Talk to a model, or to several side by side, or serve one. ``python tools/chat.py --help`` lists the flags."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console
from rich.text import Text

from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.errors import ConfigError, PipelineError
from tools.command import Command, say
from tools.environment import set_environment

if TYPE_CHECKING:
    from llm_engineering.models.streaming import Sampling
    from llm_engineering.reports.folders import Checkpoint
    from llm_engineering.scoring.conversation import Conversation

NO_UTF8 = "What was asked is not UTF-8. Save it as UTF-8, and ask again."
HELP = {
    "/reset": "forget what was said",
    "/system TEXT": "begin anew with a system prompt; without TEXT: with none",
    "/seed N": "sample with another seed",
    "/save FILE": "write the conversations as JSONL, which data.sft reads",
    "/quit": "end the chat",
    "/help": "show these commands",
}


@dataclass
class Chat:
    """What is going on at the terminal."""

    conversations: "list[Conversation]"
    sampling: "Sampling"
    console: Console
    system: str | None
    interactive: bool
    over: bool = False

    def take(self, line: str) -> None:
        """Do what one line asks: a command, or a question to all models."""
        if not line.strip():
            return
        if any("\ud800" <= letter <= "\udfff" for letter in line):
            raise ConfigError(NO_UTF8)
        if not line.startswith("/"):
            self._ask(line)
            return
        name, _, rest = line.partition(" ")
        command = {
            "/reset": self._reset,
            "/system": self._set_system,
            "/seed": self._set_seed,
            "/save": self._save,
            "/quit": self._quit,
            "/help": self._help,
        }.get(name)
        if command is None:
            raise ConfigError(f"There is no command {name}. /help lists those that there are.")
        command(rest.strip())

    def _ask(self, text: str) -> None:
        from llm_engineering.plain_text import plain

        several = len(self.conversations) > 1
        for conversation in self.conversations:
            if several:
                self.console.print(Text(f"{plain(conversation.name)}: ", style="bold cyan"), end="")
            with _stoppable() as stop:
                for piece in _trimmed(conversation.ask(text, self.sampling, stop)):
                    self.console.print(Text(plain(piece)), end="", soft_wrap=True)
            self.console.print()

    def _reset(self, _: str) -> None:
        for conversation in self.conversations:
            conversation.begin(self.system)

    def _set_system(self, text: str) -> None:
        self.system = text or None
        self._reset("")

    def _set_seed(self, text: str) -> None:
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f"/seed takes a whole number, not {text!r}.")
        self.sampling = replace(self.sampling, seed=int(text) % 2**32)

    def _save(self, text: str) -> None:
        from llm_engineering.scoring.conversation import save_conversations

        if not text:
            raise ConfigError("/save takes the name of a file.")
        save_conversations(self.conversations, Path(text))

    def _quit(self, _: str) -> None:
        self.over = True

    def _help(self, _: str) -> None:
        for command, meaning in HELP.items():
            self.console.print(Text(f"  {command:<14} {meaning}"))


@click.command(cls=Command, interrupted="")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--system", help="A system prompt, if the model's template knows one.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=42, show_default=True, help="Of what is sampled.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--prompt", help="Ask this once and end.")
@click.option("--serve", is_flag=True, help="Serve the model with an OpenAI-compatible API instead.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to serve on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--expose", is_flag=True, help="Allow a --host that other machines reach; there is no authentication.")
def main(
    models: tuple[str, ...],
    system: str | None,
    temperature: float,
    top_p: float,
    seed: int,
    max_new_tokens: int,
    prompt: str | None,
    serve: bool,
    host: str,
    port: int,
    expose: bool,
) -> None:
    """Talk to one MODEL or to several side by side, or serve one.

    A MODEL is `embedded`, a folder, a hub id, NAME@VERSION_OR_STAGE, or NAME@VERSION_OR_STAGE:PART with base, sft or
    dpo as PART. Without one: the newest promoted model of configs/training.yaml. docs/serving.md shows examples.
    """
    if prompt is not None and not prompt.strip():
        raise click.UsageError("--prompt is empty: say what to ask.")
    _set_environment(models)
    found = _find(models)
    if serve:
        _serve(found, host, port, expose=expose)
        return
    from llm_engineering.models.streaming import Sampling

    _talk(found, Sampling(temperature, top_p, max_new_tokens, seed), system, prompt)


def _set_environment(models: tuple[str, ...]) -> None:
    """Keep libraries calm; the hub is off unless a model may lie there."""
    from_hub = [name for name in models if not (name == "embedded" or "@" in name or Path(name).exists())]
    set_environment(RunConfig(model=ModelConfig(base=from_hub[0] if from_hub else "embedded")))
    os.environ["ZENML_LOGGING_VERBOSITY"] = "ERROR"  # nothing runs here that would have something to say


def _find(models: tuple[str, ...]) -> "dict[str, Checkpoint]":
    """Return the models by what they are called; ZenML is only asked where its versions are named."""
    from llm_engineering.models.checkpoints import locate_base

    if models and not any("@" in name and not Path(name).exists() for name in models):
        return {name: locate_base(ModelConfig(base=name)) for name in models}
    from pipelines.store import open_store

    open_store()
    from pipelines.models import find_model, newest_promoted

    if models:
        return {name: find_model(name) for name in models}
    return dict([newest_promoted(load_config([DEFAULT_CONFIG]).name)])


def _talk(found: "dict[str, Checkpoint]", sampling: "Sampling", system: str | None, prompt: str | None) -> None:
    from llm_engineering.scoring.conversation import open_conversation

    console = Console(highlight=False)
    interactive = prompt is None and sys.stdin.isatty()
    conversations = [open_conversation(name, checkpoint) for name, checkpoint in found.items()]
    chat = Chat(conversations, sampling, console, system, interactive)
    chat.take("/reset")
    if prompt is not None:
        chat.take(f" {prompt}" if prompt.startswith("/") else prompt)
        return
    if interactive:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # makes input() editable, with a history
        console.print(Text(f"{', '.join(found)}: /help lists commands, Ctrl-D ends", style="dim"))
    while not chat.over:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            if interactive:
                console.print()
            return
        except UnicodeDecodeError as error:
            raise ConfigError(NO_UTF8) from error
        try:
            chat.take(line)
        except PipelineError as error:
            if not interactive:
                raise
            say(error)


def _trimmed(pieces: Iterator[str]) -> Iterator[str]:
    """Yield an answer without the blanks that it begins and ends with."""
    kept = ""
    begun = False
    for piece in pieces:
        text = kept + piece if begun else piece.lstrip()
        begun = begun or bool(text)
        kept = text[len(text.rstrip()) :]
        yield text.rstrip()


@contextmanager
def _stoppable() -> Iterator[Event]:
    """Give an event that the first Ctrl-C sets; the second interrupts as ever."""
    stop = Event()
    before: Callable[..., object] | int | None = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(found: "dict[str, Checkpoint]", host: str, port: int, *, expose: bool) -> None:
    from llm_engineering.models.serving import example_request, require_address, serving

    if len(found) > 1:
        raise ConfigError("--serve takes one model. Start it once for each, on ports of their own.")
    name, checkpoint = next(iter(found.items()))
    port = require_address(host, port, expose=expose)
    with serving(checkpoint, name, host, port) as server:
        click.echo(f"Serving {server.model} at {server.url}/v1 with {server.software}; Ctrl-C ends it.")
        if expose:
            click.echo("Everyone who reaches this address can use the model: there is no authentication.")
        click.echo(f"Try:\n{example_request(server)}")
        server.wait()


if __name__ == "__main__":
    main()
