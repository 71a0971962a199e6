"""What a person sees while a run goes on: a header, one line a step, progress, and no noise of libraries."""

import logging
import re

from rich.console import Console
from rich.table import Table
from rich.text import Text

_OURS = ("llm_engineering", "pipelines", "steps", "tools")
_FINISHED = re.compile(r"Step `(?P<step>.+)` has finished in `(?P<seconds>.+)`")
_CACHED = re.compile(r"Using cached version of step `(?P<step>.+)`")


class Lines(logging.Handler):
    """Shows the project's own messages, and of ZenML's only which step has finished or was cached."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, if it is one to show."""
        message = record.getMessage()
        if record.name.split(".")[0] in _OURS:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self.console.print(Text(f"  {message}", style=style))
        elif match := _FINISHED.search(message):
            self.console.print(_step_line(match["step"], match["seconds"]))
        elif match := _CACHED.search(message):
            self.console.print(_step_line(match["step"], "cached"))


def _step_line(step: str, how: str) -> Text:
    return Text.assemble(("✓ ", "green"), f"{step:<19} ", (how, "dim"))


def take_over_logging(console: Console) -> None:
    """Replace ZenML's console output by :class:`Lines`; ZenML's own step logs stay whole."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.StreamHandler):
            root.removeHandler(handler)
    root.addHandler(Lines(console))


def facts_table(facts: dict[str, str]) -> Table:
    """Return names and values in two columns, as text that is shown as it is."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def print_error(text: str) -> None:
    """Print the sentence of an error, without characters that could move the cursor or colour the terminal."""
    printable = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
    Console(stderr=True, highlight=False).print(printable, style="red", markup=False)
