"""Examine this machine: what a run needs, what of it is there, and what to do about the rest."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever calls it by another Python is told so
    sys.exit("Error: Python 3.11 or 3.12 is needed. Run `make install PYTHON=python3.12`, and use .venv/bin/python.")

import os
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

try:
    import click

    from tools.findings import show_findings
except ImportError as error:
    sys.exit(f"Error: {error.name} is not installed. Run `make install`, and use .venv/bin/python.")

from llm_engineering.checkup.compute import examine_compute
from llm_engineering.checkup.finding import Check
from llm_engineering.checkup.machine import examine_disk, examine_memory, examine_threads
from llm_engineering.checkup.services import examine_comet, examine_hub
from llm_engineering.checkup.software import examine_commands, examine_packages, examine_python
from pipelines.checkup import examine_zenml
from tools.command import Command
from tools.console.terminal import open_console
from tools.environment import keep_calm

REPOSITORY = Path(__file__).parents[1]


@click.command(cls=Command)
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
    problems = show_findings(checks(network=network), console, as_json=as_json)
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


if __name__ == "__main__":
    main()
