"""Say why two runs differ. ``python tools/compare.py --help`` lists the flags."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import StoreError
from tools.command import Command, verbose, write
from tools.console.terminal import take_over_logging
from tools.environment import set_environment

if TYPE_CHECKING:
    from llm_engineering.reporting.differences import RunDifferences


@click.command(cls=Command)
@click.argument("run_a")
@click.argument("run_b")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the same as one page.")
@click.option("--json", "as_json", type=click.Path(path_type=Path, dir_okay=False), help="Write the same as JSON.")
def main(run_a: str, run_b: str, html: Path | None, as_json: Path | None) -> None:
    """Say why RUN_A and RUN_B differ: what went into them, then what was measured, then what they answer.

    A run is named by its name, its id, or the model version that it made: NAME@VERSION. Two offline archives of Comet
    (files that end in .zip) are compared as they are. docs/compare.md shows more.
    """
    from llm_engineering.reporting.differences_views import differences_text, render_differences

    set_environment(RunConfig())
    archived = [name.endswith(".zip") for name in (run_a, run_b)]
    if any(archived) and not all(archived):
        raise StoreError("A run and an archive do not compare. Name two runs, or two archives.")
    console = Console(highlight=False)
    found = _compare_archives(run_a, run_b) if all(archived) else _compare_runs(run_a, run_b, console)
    if html is not None:
        write(html, render_differences(found), "--html")
    if as_json is not None:
        write(as_json, found.model_dump_json(indent=2), "--json")
    console.print(differences_text(found))


def _compare_archives(left: str, right: str) -> "RunDifferences":
    from llm_engineering.reporting.differences import compare_archives
    from llm_engineering.tracking.archives import read_archive

    return compare_archives(read_archive(Path(left)), read_archive(Path(right)))


def _compare_runs(left: str, right: str, console: Console) -> "RunDifferences":
    from pipelines.store import open_store

    if not verbose():
        take_over_logging(console)
    open_store()
    from steps.runtime.run_records import compare_stored, find_run

    return compare_stored(find_run(left), find_run(right))


if __name__ == "__main__":
    main()
