import io
import logging

import pytest
from rich.console import Console

from tools.console.terminal import Lines


@pytest.fixture
def console() -> Console:
    return Console(width=100, record=True, file=io.StringIO())


def shown(console: Console, name: str, level: int, message: str) -> str:
    Lines(console).emit(logging.LogRecord(name, level, __file__, 1, message, None, None))
    return console.export_text().rstrip()


def test_a_finished_step_is_one_line(console: Console) -> None:
    line = shown(
        console, "zenml.orchestrators.step_launcher", logging.INFO, "Step `train_sft` has finished in `31.2s`."
    )
    assert line == "✓ train_sft           31.2s"


def test_a_cached_step_is_one_line(console: Console) -> None:
    line = shown(console, "zenml.orchestrators", logging.INFO, "Using cached version of step `evaluate`.")
    assert line == "✓ evaluate            cached"


def test_messages_of_the_library_are_shown_as_they_are(console: Console) -> None:
    assert shown(console, "llm_engineering.training", logging.INFO, "loss [red]1[/red]") == "  loss [red]1[/red]"


@pytest.mark.parametrize("name", ["zenml.stack", "transformers", "py.warnings"])
def test_what_other_libraries_say_is_not_shown(console: Console, name: str) -> None:
    assert shown(console, name, logging.WARNING, "Setting the global active stack to default.") == ""
