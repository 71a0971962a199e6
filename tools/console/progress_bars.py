"""The live lines at the foot of a terminal: one for the steps of the run, and one or two for the work inside."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llm_engineering.plain_text import plain
from llm_engineering.progress import Progress, time_text
from pipelines.launching.step_facts import StepFact

INDENT = "  "
LONGEST_LABEL = 26
LONGEST_BAR = 40
SHORTEST_BAR = 8
"""A shorter one is left out."""
SHOWN_WORKS = 2
"""Work inside work: a training, and the answers generated while it is evaluated."""


class Bars:
    """Steps and work under way, drawn anew at whatever width the terminal has now."""

    def __init__(self, count_steps: Callable[[], int | None] | None = None) -> None:
        """Ask for the number of steps once the first one begins; None: it is not known, or there are no steps."""
        self._count_steps = count_steps
        self._num_steps: int | None = None
        self._finished = 0
        self._running: dict[str, float] = {}
        self._works: dict[str, Progress] = {}

    def take(self, fact: StepFact) -> None:
        """Show a step that begins, or count one that has finished or was cached; the work inside goes with it."""
        if self._count_steps is not None:  # asked once
            self._num_steps, self._count_steps = self._count_steps(), None
        if fact.state == "begun":
            self._running[fact.name] = time.monotonic()
        else:
            self._running.pop(fact.name, None)
            self._finished += 1
        self._works.clear()

    def show(self, progress: Progress) -> None:
        """Show how far work has come, until it says that it has ended."""
        if progress.ended:
            self._works.pop(progress.what, None)
        else:
            self._works[progress.what] = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        found = [*self._step_row(), *map(_work_row, list(self._works.values())[-SHOWN_WORKS:])]
        if found:
            yield _table(found, options.max_width)

    def _step_row(self) -> Iterator["_Row"]:
        """Yield the step that began last; steps of a dynamic pipeline may run side by side."""
        for name, began in list(self._running.items())[-1:]:
            number, total = self._finished + 1, self._num_steps
            facts = [f"step {number}/{total}" if total else f"step {number}", time_text(time.monotonic() - began)]
            yield _Row(name, self._finished / total if total else None, facts)


@dataclass(frozen=True)
class _Row:
    """One line: a label, how much is done (None: nobody knows), and facts, of which the first has to be seen."""

    label: str
    share: float | None
    facts: list[str]


def _work_row(progress: Progress) -> _Row:
    share = progress.done / progress.total if progress.total else None
    facts = [progress.count, *([progress.left] if progress.left else []), *progress.measures]
    return _Row(plain(progress.what.rstrip(":")), share, facts)


def _table(rows: list[_Row], width: int) -> Table:
    """Return the lines with their bars below each other, none of them wider than the terminal.

    What does not fit is left out: all facts but two, from the last one on, then the bars, then the second fact.
    """
    labels = min(LONGEST_LABEL, width // 3, max(len(row.label) for row in rows))
    room = width - labels - len(INDENT) - 1
    told = [_fitting(row.facts, room) for row in rows]
    bar = min(LONGEST_BAR, room - max(map(cell_len, told)) - 1)
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    for row, text in zip(rows, told, strict=True):
        label, facts = Text(row.label), Text(text)
        label.truncate(labels, overflow="ellipsis")
        facts.truncate(max(1, room), overflow="ellipsis")
        bars = [_bar(row.share, bar)] if bar >= SHORTEST_BAR else []
        table.add_row(Text.assemble(INDENT, label), *bars, facts)
    return table


def _fitting(facts: list[str], room: int) -> str:
    """Return as many of the facts as fit, the first one in any case, and the third on only where a bar fits too."""
    for count in range(len(facts), 1, -1):
        text = " · ".join(facts[:count])
        if cell_len(text) <= (room if count == 2 else room - SHORTEST_BAR - 1):
            return text
    return facts[0]


def _bar(share: float | None, width: int) -> ProgressBar:
    if share is None:
        return ProgressBar(total=None, width=width, pulse=True)
    return ProgressBar(total=1.0, completed=min(1.0, share), width=width)
