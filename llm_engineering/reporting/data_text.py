"""The ledger and the audit as the terminal shows them, before anything is trained."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.plain_text import plain
from llm_engineering.reporting.data_views import Finding, Problem, findings, kinds, mix, problems
from llm_engineering.reporting.words import KINDS, count, counted
from llm_engineering.reports.data import DatasetReport, SourceLedger

LONGEST_PROBLEM = 160
"""Characters of a first problem that are shown; the data preview has all of it."""
INDENT = "  "
GAP = 2
_ELLIPSIS = "…"


def ledger_and_audit(report: DatasetReport) -> Group:
    """Return every source's fates and what was found in its rows, the tokens, the audit and the notes."""
    return Group(*_parts(report))


def _parts(report: DatasetReport) -> Iterator[RenderableType]:
    for kind, sources, sums in kinds(report.sources):
        yield _Fates(KINDS[kind], sources, sums)
        for source in sources:
            if lines := list(_details(source)):
                yield Padding(_list(_name(source) if len(sources) > 1 else None, lines), (1, 0, 0, len(INDENT)))
        yield Text()
    if report.tokens:
        yield Padding(_tokens(report), (0, 0, 1, len(INDENT)))
    said = [*(findings(report.audit) if report.audit else []), *map(Finding, report.notes)]
    if said:
        yield Padding(_sentences(said), (0, 0, 0, len(INDENT)))


@dataclass(frozen=True)
class _Fates:
    """One line a source; names are shortened in the middle where the terminal is narrow."""

    label: str
    sources: list[SourceLedger]
    together: SourceLedger

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heads = ("rows", "train", "eval", "test", "dropped")
        numbers = [_numbers(ledger) for ledger in (*self.sources, self.together)]
        widths = [max(map(len, column)) for column in zip(heads, *numbers, strict=True)]
        room = max(options.max_width - len(INDENT) - sum(widths) - GAP * len(widths), 8)
        table = _table(self.label, *heads)
        for ledger, cells in zip(self.sources, numbers, strict=False):
            table.add_row(Text(shortened(_name(ledger), room)), *map(Text, cells))
        if len(self.sources) > 1:
            table.add_row(Text("together"), *map(Text, numbers[-1]), style="bold")
        yield Padding.indent(table, len(INDENT))


def _table(label: str, *heads: str) -> Table:
    """Return an empty table of numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold")
    table.add_column(Text(label), no_wrap=True)
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=True)
    return table


def _numbers(ledger: SourceLedger) -> list[str]:
    fates = ledger.rows, ledger.train, ledger.eval, ledger.test, sum(ledger.dropped.values())
    return [count(rows) for rows in fates]


def _name(ledger: SourceLedger) -> str:
    return f"{_line(ledger.source)} ({_line(ledger.format)})"


def _details(ledger: SourceLedger) -> Iterator[tuple[str, str, str]]:
    """Yield number, what it counts, and the first of them."""
    for problem in problems(ledger):
        yield from _found(problem)
    if ledger.truncated or ledger.tokens_lost:
        cut = f"; {counted(ledger.answers_cut, 'answer')} cut" if ledger.answers_cut else ""
        lost = f"{counted(ledger.tokens_lost, 'token')} lost, {count(ledger.trained_tokens_lost)} trained{cut}"
        yield count(ledger.truncated), "cut to fit", lost
    if ledger.repeated_prompts:
        yield count(ledger.repeated_prompts), "repeated prompts", "kept: the answers differ"
    if asked := mix(ledger):
        yield "", "mix", _line(asked)


def _found(problem: Problem) -> Iterator[tuple[str, str, str]]:
    first = _line(problem.first or "")
    if len(first) > LONGEST_PROBLEM:
        first = first[:LONGEST_PROBLEM] + " " + _ELLIPSIS
    if problem.dropped:
        yield count(problem.dropped), problem.reason, first
    if problem.kept:
        yield count(problem.kept), f"{problem.reason}, kept", "" if problem.dropped else first


def _list(title: str | None, lines: list[tuple[str, str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(justify="right", no_wrap=True, min_width=7)
    table.add_column(overflow="fold")
    longest = max(len(what) for _, what, _ in lines)
    for number, what, first in lines:
        table.add_row(Text(number), Text.assemble(what.ljust(longest + GAP) if first else what, (first, "dim")))
    return Group(Text(title, no_wrap=True, overflow="ellipsis"), table) if title else table


def _tokens(report: DatasetReport) -> Table:
    table = _table("Tokens", "all", "trained", "longest row")
    for name, tokens in report.tokens.items():
        others = (counts.get(name) for counts in (report.trained_tokens, report.longest))
        table.add_row(Text(plain(name)), Text(count(tokens)), *(Text("-" if n is None else count(n)) for n in others))
    return table


def _sentences(said: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for finding in said:
        style = "yellow" if finding.warning else ""
        table.add_row(Text("!" if finding.warning else "·", style=style), Text(plain(finding.text), style=style))
    return table


def shortened(text: str, width: int) -> str:
    """Return text that fits into a width in cells; of a longer one the middle is left out."""
    if cell_len(text) <= width:
        return text
    tail = text
    while cell_len(tail) > (width - 1) // 2:
        tail = tail[1:]
    return set_cell_size(text, width - 1 - cell_len(tail)) + _ELLIPSIS + tail


def _line(text: str) -> str:
    """Return text on one line."""
    return " ".join(plain(text).split())
