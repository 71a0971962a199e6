"""How findings are shown: a line each, the remedy below it, and the counts."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_engineering.checkup.finding import Check, Finding, examine
from llm_engineering.plain_text import plain

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def show_findings(checks: Mapping[str, Check], console: Console, *, as_json: bool) -> int:
    """Examine, show what is found as it is found or as one JSON object, and return the number of problems."""
    found = []
    for finding in examine(checks):
        found.append(finding)
        if not as_json:
            show(finding, console)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        console.out(json.dumps({"problems": problems, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        notes = sum(finding.level == "note" for finding in found)
        console.print(f"\n{_counted(problems, 'problem')}, {_counted(notes, 'note')}.", style="bold")
    return problems


def show(finding: Finding, console: Console) -> None:
    """Print one line, and the remedy below it; words tell the level, colours only repeat it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=7)
    table.add_column(width=15)
    table.add_column(overflow="fold")
    text = Text(plain(finding.text))
    if finding.remedy:
        text.append(f"\n{plain(finding.remedy)}", style="italic")
    table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(finding.check), text)
    console.print(table)


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
