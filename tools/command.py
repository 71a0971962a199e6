"""The frame of every command line here: flags in groups, errors as one sentence, exit codes, ``--verbose``.

A command ends with 0, with 2 for a mistake in the request, 1 for what failed while it ran, and 130 for Ctrl-C.
"""

import errno
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, TypeVar

import click
from rich.console import Console

from llm_engineering.errors import PipelineError, StoreError, TrainingError, no_space
from llm_engineering.interrupts import hear_interrupts, ignore_interrupts
from llm_engineering.plain_text import plain

INTERRUPTED = 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
VERBOSE = "llm_engineering.verbose"
REPOSITORY = Path(__file__).parents[1]
SHOWN = ("zenml", "torch", "transformers", "trl", "peft")
"""Packages whose versions say most about a run."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Refusal(click.ClickException):
    """A command line that cannot be understood, said as every other error is."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print the sentence."""
        print_error(f"Error: {self.format_message()}")


def print_error(text: str) -> None:
    """Print an error to stderr, without characters that could do something to a terminal."""
    Console(stderr=True, highlight=False).print(plain(text), style="red", markup=False)


def say(error: PipelineError | OSError) -> int:
    """Print the one sentence of an error and return the exit code."""
    if not isinstance(error, PipelineError):
        error = no_space(error) or TrainingError(f"{error}. Mend the path, or its permissions.")
    print_error(f"Error: {error}")
    return error.exit_code


def verbose() -> bool:
    """Return whether the command that runs was asked for what the libraries log, and for tracebacks."""
    return bool(click.get_current_context().meta[VERBOSE])


class Command(click.Command):
    """A command whose flags stand in groups, which takes ``--verbose``, and whose errors are one sentence."""

    def __init__(
        self,
        *args: Any,
        groups: Mapping[str, Sequence[str]] | None = None,
        interrupted: str = "Interrupted.",
        **kwargs: Any,
    ) -> None:
        """Describe the command.

        Args:
            *args: As click's.
            groups: The names of the parameters of every group, in order; others follow as ``Options``.
            interrupted: What Ctrl-C, SIGTERM and SIGHUP are answered with.
            **kwargs: As click's.
        """
        super().__init__(*args, **{"context_settings": SETTINGS, **kwargs})
        self.groups, self.interrupted = groups or {}, interrupted
        text = "Show what the libraries log, and tracebacks."
        self.params.append(
            click.Option(["--verbose"], is_flag=True, expose_value=False, callback=_keep_verbose, help=text)
        )

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line.

        Raises:
            Refusal: It cannot be understood.
        """
        with _one_voice(" --help lists the flags."):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Do what is asked.

        Raises:
            Refusal: The flags do not say one thing.
        """
        with _one_voice(), _one_sentence(self.interrupted):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags in their groups."""
        group_of = {name: title for title, names in self.groups.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in [*self.groups, "Options"]}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                rows[group_of.get(param.name or "", "Options")].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """A tool with commands of its own, whose usage errors are one sentence."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Describe the tool, as click does."""
        super().__init__(*args, **{"context_settings": SETTINGS, **kwargs})

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line.

        Raises:
            Refusal: It cannot be understood.
        """
        with _one_voice(" --help lists the commands."):
            return super().make_context(*args, **kwargs)

    def resolve_command(self, *args: Any, **kwargs: Any) -> Any:
        """Find the command that is named.

        Raises:
            Refusal: There is none.
        """
        with _one_voice(f" The commands are {', '.join(self.commands)}."):
            return super().resolve_command(*args, **kwargs)


@contextmanager
def _one_voice(remedy: str = "") -> Iterator[None]:
    try:
        yield
    except click.NoSuchOption as error:
        near = " or ".join(error.possibilities or ())
        raise Refusal(f"There is no flag {error.option_name}.{f' Did you mean {near}?' if near else remedy}") from None
    except click.UsageError as error:
        sentence = error.format_message().rstrip(". ")
        raise Refusal(f"{sentence}{'' if sentence.endswith('?') else '.'}{remedy}") from None


def _keep_verbose(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    ctx.meta[VERBOSE] = asked


@contextmanager
def _one_sentence(interrupted: str) -> Iterator[None]:
    """End the process with a sentence and an exit code, whatever the block raises; with --verbose, by a traceback."""
    hear_interrupts()
    if not verbose():
        sys.excepthook = _say_unexpected
    try:
        yield
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error, click.Abort) and not isinstance(error.__context__, KeyboardInterrupt):
            raise  # a person who was asked said no
        ignore_interrupts()  # a second one would end this in a traceback
        Console(stderr=True, highlight=False).print(interrupted, markup=False)
        raise SystemExit(INTERRUPTED) from None
    except (PipelineError, OSError) as error:
        if verbose() or getattr(error, "errno", None) == errno.EPIPE:  # click knows what a reader that left means
            raise
        raise SystemExit(say(error)) from None


def _say_unexpected(kind: type[BaseException], error: BaseException, _: object) -> None:
    """Show an error that nobody foresaw as one sentence, too; Python exits with code 1 after it."""
    foreseen = no_space(error) or _no_memory(error)
    text = f"Error: {foreseen}" if foreseen else f"Unexpected {kind.__name__}: {error}"
    print_error(text if foreseen else f"{text} Run again with --verbose for the traceback.")


def _no_memory(error: BaseException) -> TrainingError | None:
    """Return what to say where memory ran out; training says so itself, and more of it."""
    from llm_engineering.training.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    return TrainingError("Memory ran out. Lower evaluation.batch_size and start again: finished work is kept.")


def write(path: Path, text: str, flag: str) -> None:
    """Write what a flag asks for.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{flag} {path} cannot be written: {error.strerror}. Name another file.") from error


def version_option(function: _Function) -> _Function:
    """Add ``--version``."""
    return click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show versions."
    )(function)


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo("\n".join(version_lines()))
        ctx.exit()


def version_lines() -> list[str]:
    """Return what runs here: this project with its commit, where it is a checkout, and the packages that matter."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    commit = _commit()
    packages = [f"{name} {_version(name)}" for name in SHOWN]
    return [
        f"{project['name']} {project['version']}{f' ({commit})' if commit else ''}",
        f"Python {python_version()} · {' · '.join(packages)}",
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _commit() -> str | None:
    """Return the checkout's commit, with a plus where files differ from it; None without git or a checkout."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--match=", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
