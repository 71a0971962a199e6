"""How the command lines of this project look: flags in groups, errors in one voice, ``--version``."""

import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, TypeVar

import click
from rich.console import Console

from tools.console.printable import printable

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
    Console(stderr=True, highlight=False).print(printable(text), style="red", markup=False)


class Command(click.Command):
    """A command whose flags stand in groups, and whose usage errors are one sentence."""

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **kwargs: Any) -> None:
        """Take the names of the parameters of every group, in order; others follow as ``Options``."""
        super().__init__(*args, **kwargs)
        self.groups = groups or {}

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
        with _one_voice():
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
