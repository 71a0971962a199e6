"""Two runs side by side: as one static page, where everything is escaped, and on the terminal."""

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_engineering.config.metrics import row_of
from llm_engineering.plain_text import plain
from llm_engineering.reporting.differences import AnswerPair, MetricPair, RunDifferences, Section
from llm_engineering.reporting.page import render_page
from llm_engineering.reporting.run_text import LONGEST_ANSWER
from llm_engineering.reporting.run_views import evidence
from llm_engineering.reporting.words import interval, model_label, quantity
from llm_engineering.reports.evaluation import Metric

HOW_MEASURED = {
    True: "Both were measured on the same questions, rows and settings: a difference is the second's value less the "
    "first's.",
    False: "They were measured on other questions, rows or settings: values stand side by side, and no test compares "
    "them.",
    None: "At least one run has no evaluation.",
}


def render_differences(found: RunDifferences) -> str:
    """Return the whole page."""
    prompts: dict[str, list[AnswerPair]] = {}
    for pair in found.answers:
        prompts.setdefault(pair.prompt, []).append(pair)
    return render_page(
        "differences.html.j2",
        found=found,
        metrics=[_metric_words(pair) for pair in found.metrics],
        prompts=prompts,
        how_measured=HOW_MEASURED[found.measured_alike],
    )


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
        table.add_row(*(Text(plain(word)) for word in _metric_words(pair)))
    return table


def _metric_words(pair: MetricPair) -> tuple[str, ...]:
    """Return model, metric, both values, and by how much they differ."""
    return (
        model_label(pair.model),
        row_of(pair.metric).label,
        _measured(pair.metric, pair.left),
        _measured(pair.metric, pair.right),
        evidence(pair.paired) if pair.paired else "",
    )


def _measured(metric: str, value: Metric | None) -> str:
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
