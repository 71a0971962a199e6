"""Two runs side by side on the terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.checks import evidence
from llm_engineering.reporting.differences import AnswerPair, MetricPair, RunDifferences, Section
from llm_engineering.reporting.scores_text import plain
from llm_engineering.reporting.text import LONGEST_ANSWER
from llm_engineering.reporting.wording import interval, model_label, quantity
from llm_engineering.reports.evaluation import Metric

HOW_MEASURED = {
    True: "Both were measured on the same questions, rows and settings: a difference is the second's value less the "
    "first's.",
    False: "They were measured on other questions, rows or settings: values stand side by side, and no test compares "
    "them.",
    None: "At least one run has no evaluation.",
}


def differences_text(found: RunDifferences) -> Group:
    """Return the first line, what differs, the metrics and the answers."""
    return Group(*_parts(found))


def _parts(found: RunDifferences) -> Iterator[RenderableType]:
    yield Text(plain(found.headline), style="bold")
    yield Text(plain(f"first   {found.left}"), style="dim")
    yield Text(plain(f"second  {found.right}"), style="dim")
    for section in found.sections:
        yield from _section(section)
    yield Text()
    yield Text("Metrics", style="bold")
    yield Text(HOW_MEASURED[found.measured_alike], style="dim")
    if found.metrics:
        yield _metrics(found.metrics)
    if found.answers:
        yield Text()
        yield Text("Answers", style="bold")
        yield from map(_answers, found.answers)


def _section(section: Section) -> Iterator[RenderableType]:
    unknown = (plain(section.unknown or ""), "dim")
    if not section.differences:
        yield Text.assemble(("unknown   " if section.unknown else "same      ", "dim"), section.subject, " ", unknown)
        return
    yield Text.assemble(("differs   ", "yellow"), (section.subject, "bold"), " ", unknown)
    table = Table.grid(padding=(0, 2))
    for each in section.differences:
        style = "" if each.shapes_results else "dim"
        values = Text(plain(f"{each.left} → {each.right}"), style=style)
        table.add_row(Text(plain(each.what), style=style), values)
    yield Padding(table, (0, 0, 0, 10))


def _metrics(pairs: list[MetricPair]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in ("Model", "Metric", "First", "Second", "Difference"):
        table.add_column(head)
    for pair in pairs:
        words = (
            model_label(pair.model),
            row_of(pair.metric).label,
            measured(pair.metric, pair.left),
            measured(pair.metric, pair.right),
            evidence(pair.paired) if pair.paired else "",
        )
        table.add_row(*(Text(plain(word)) for word in words))
    return table


def measured(metric: str, value: Metric | None) -> str:
    """Return a value with its interval, or a dash where it was not measured."""
    if value is None:
        return "-"
    ends = interval(metric, value)
    return quantity(metric, value.value) + (f" ({ends})" if ends else "")


def _answers(pair: AnswerPair) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    shown = [("first", pair.left), ("second", pair.right)]
    if pair.left == pair.right:
        shown = [("both", pair.left)]
    for name, answer in shown:
        text = plain(answer or "-")
        table.add_row(name, Text(text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER] + " ..."))
    title = Text.assemble((plain(pair.prompt), "bold"), (plain(f"  {model_label(pair.model)}"), "dim"))
    return Group(title, Padding(table, (0, 0, 0, 2)))
