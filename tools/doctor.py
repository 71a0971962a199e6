"""Examine this machine: what a run needs, what of it is there, and what to do about the rest."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever calls it by another Python is told so
    sys.exit("Error: Python 3.11 or 3.12 is needed. Run `make install PYTHON=python3.12`, and use .venv/bin/python.")

import json
import os
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

try:
    import click
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    sys.exit(f"Error: {error.name} is not installed. Run `make install`, and use .venv/bin/python.")

from llm_engineering.checkup.compute import examine_compute
from llm_engineering.checkup.finding import Check, Finding, examine
from llm_engineering.checkup.machine import examine_disk, examine_memory, examine_threads
from llm_engineering.checkup.services import examine_comet, examine_hub
from llm_engineering.checkup.software import examine_commands, examine_packages, examine_python
from pipelines.checkup import examine_zenml
from tools.command import Command
from tools.environment import keep_calm
from tools.printable import printable
from tools.terminal import open_console

REPOSITORY = Path(__file__).parents[1]
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--network", is_flag=True, help="Ask the Hugging Face hub and Comet too, each for a few seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def main(network: bool, as_json: bool) -> None:
    """Examine this machine: what a run needs, what of it is there, and what to do about the rest.

    Nothing is changed, and nothing but --network leaves the machine. The exit code is 1 if there is a problem.
    """
    keep_calm()
    os.environ.update(ZENML_LOGGING_VERBOSITY="ERROR")
    console = click.get_current_context().with_resource(
        open_console(quiet=True)
    )  # what libraries print is not asked for
    console.speak()
    found = []
    for finding in examine(checks(network=network)):
        found.append(finding)
        if not as_json:
            show(finding, console)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        console.out(json.dumps({"problems": problems, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        notes = sum(finding.level == "note" for finding in found)
        console.print(f"\n{_counted(problems, 'problem')}, {_counted(notes, 'note')}.", style="bold")
    raise SystemExit(1 if problems else 0)


def checks(*, network: bool) -> dict[str, Check]:
    """Return all checks by the name of what they look at, the quick ones first."""
    project = REPOSITORY / "pyproject.toml"
    return {
        "Python": partial(examine_python, project),
        "packages": partial(examine_packages, project, REPOSITORY / "constraints.txt"),
        "commands": examine_commands,
        "threads": partial(examine_threads, os.environ),
        "memory": examine_memory,
        "temporary files": partial(examine_disk, "temporary files", Path(tempfile.gettempdir())),
        "torch": examine_compute,
        "ZenML": examine_zenml,
        "hub": partial(examine_hub, network=network),
        "Comet": partial(examine_comet, network=network),
    }


def show(finding: Finding, console: Console) -> None:
    """Print one line, and the remedy below it; words tell the level, colours only repeat it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=7)
    table.add_column(width=15)
    table.add_column(overflow="fold")
    text = Text(printable(finding.text))
    if finding.remedy:
        text.append(f"\n{printable(finding.remedy)}", style="italic")
    table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(finding.check), text)
    console.print(table)


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
