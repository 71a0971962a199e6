"""README and docs say what the code does: their commands parse, their YAML is valid, their links and paths exist."""

import importlib
import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from llm_engineering.config.data import FileSource
from llm_engineering.config.losses import LOSSES
from llm_engineering.config.metrics import METRICS
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.data.formats import FORMATS, Conversation, Example, choose_format
from llm_engineering.reports.data import DropReason
from tools import run

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
MODULES = [importlib.import_module(f"tools.{path.stem}") for path in sorted(REPOSITORY.glob("tools/[a-z]*.py"))]
TOOLS = {f"tools/{module.__name__.partition('.')[2]}.py": module.main for module in MODULES if hasattr(module, "main")}
ROOMS = ("benchmarks", "configs", "docs", "llm_engineering", "pipelines", "steps", "tests", "tools")
ROOT_FILES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "constraints.txt",
    "pyproject.toml",
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"python (?P<tool>tools/\w+\.py)(?P<arguments>[^`#\n]*)")


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(page)) if found == language]


def commands() -> list[tuple[str, str, str]]:
    """Return page, tool and arguments of every command in code, in line or in a block."""
    found = set()
    for page in PAGES:
        for code in [*blocks(page, "bash"), *CODE.findall(text_of(page))]:
            found |= {(name_of(page), match["tool"], match["arguments"].strip()) for match in COMMAND.finditer(code)}
    return sorted(found)


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "tool", "arguments"), commands())
def test_every_command_parses(page: str, tool: str, arguments: str) -> None:
    command = TOOLS[tool]
    if "NAME_OR_PATH" in arguments or "…" in arguments:
        pytest.skip("a pattern, not a command")
    try:
        context = command.make_context(tool, shlex.split(arguments))
    except click.ClickException as error:
        pytest.fail(f"{page}: {error.format_message()}")
    if tool == "tools/run.py":
        overrides = context.params["overrides"]
        assert len(context.params["jobs"]) == 1, f"{page}: the command says not what to run"
        load_config(["training"], overrides)


def test_the_readme_shows_commands_of_every_job() -> None:
    jobs = {"--run-training", "--run-sft", "--run-dpo", "--run-evaluation", "--run-comparison", "--run-sweep"}
    assert jobs <= {word for _, _, arguments in commands() for word in arguments.split()}


def test_the_readme_has_a_line_for_every_flag_and_no_other() -> None:
    table = re.findall(r"^\| `(--[\w-]+)", text_of(REPOSITORY / "README.md"), re.MULTILINE)
    flags = [flag for option in run.main.params for flag in option.opts if flag.startswith("--")]
    assert sorted(table) == sorted(flags)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPOSITORY / "Makefile"), re.MULTILINE))
    for page in PAGES:
        code = "\n".join([*blocks(page, "bash"), *CODE.findall(text_of(page))])
        assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets, name_of(page)


@pytest.mark.parametrize(
    ("page", "body"),
    [pytest.param(name_of(page), body, id=name_of(page)) for page in PAGES for body in blocks(page, "yaml")],
)
def test_every_yaml_block_is_a_configuration(page: str, body: str, tmp_path: Path) -> None:
    path = tmp_path / "block.yaml"
    path.write_text(body, encoding="utf-8")
    load_config([path])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(text_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name_of(page)} links to {target}"
        assert not anchor or anchor in headings(linked), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_in_backticks_exists(page: Path) -> None:
    outside_fences = FENCE.sub("", text_of(page))
    for code in CODE.findall(outside_fences):
        words = [word.rstrip("/,") for word in code.split()]
        paths = [word for word in words if word in ROOT_FILES or (word.split("/")[0] in ROOMS and "/" in word)]
        for path in paths:
            assert any(REPOSITORY.glob(path)), f"{name_of(page)} names {path}"


def test_the_rooms_that_are_drawn_are_the_rooms_there_are() -> None:
    drawing = blocks(REPOSITORY / "docs" / "architecture.md", "text")[0].partition("llm_engineering/ ")[2]
    library = REPOSITORY / "llm_engineering"
    drawn = {line.split()[0] for line in drawing.splitlines() if line.startswith("  ")}
    there = {f"{path.name}/" if path.is_dir() else path.name for path in library.iterdir()}
    assert drawn == {name for name in there if not name.startswith("__")}


def test_every_reason_to_drop_a_row_is_explained_and_no_other() -> None:
    page = text_of(REPOSITORY / "docs" / "data.md").partition("## What is dropped")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)) == set(get_args(DropReason))


def test_every_metric_is_explained_with_its_direction() -> None:
    page = text_of(REPOSITORY / "docs" / "evaluation.md").partition("\n## Metrics")[2].partition("\n### ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if "` | " in line]
    told = {name: line[-1] for line in lines for name in re.findall(r"`([^`]+)`", line[0])}
    rows = [row for row in METRICS.values() if row.takes or row.group == "Judge"]  # the others follow from these
    assert {row.name: row.better or "-" for row in rows}.items() <= told.items()
    assert [name for name in told if name not in METRICS] == ["sampled_…", "judge_win_rate/NAME", "harness/TASK/METRIC"]


def format_examples() -> list[tuple[str, str, str]]:
    """Return name, row and result of every format that docs/formats.md explains."""
    page = text_of(REPOSITORY / "docs" / "formats.md").partition("\n## Formats")[2].partition("\n## ")[0]
    parts = re.split(r"^### `(\w+)`$", page, flags=re.MULTILINE)[1:]
    found = []
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        row, result = (text for language, text in FENCE.findall(body) if language == "json")
        found.append((name, row, result))
    return found


def test_every_format_has_an_example() -> None:
    assert [name for name, _, _ in format_examples()] == [each.name for formats in FORMATS.values() for each in formats]


@pytest.mark.parametrize(("name", "row", "result"), format_examples())
def test_an_example_of_a_format_gives_what_it_says(name: str, row: str, result: str) -> None:
    kind = next(kind for kind, formats in FORMATS.items() if name in {each.name for each in formats})
    data = json.loads(row)
    reading = choose_format(FileSource(path="rows.jsonl"), kind, set(data), [data])
    assert reading.format.name == name
    examples = [shown(example) for example in reading.read(data)]
    assert (examples[0] if len(examples) == 1 else examples) == json.loads(result)


def shown(example: Example) -> object:
    """Return an example as the page writes it: what it does not have is left out."""
    if isinstance(example, Conversation):
        return example.messages
    return {name: value for name, value in asdict(example).items() if value is not None}


def test_the_help_names_pages_that_exist() -> None:
    output = CliRunner().invoke(run.main, ["--help"]).output
    named = re.findall(r"(?:docs/)?\w+\.md", output)
    assert named
    assert all((REPOSITORY / page).is_file() for page in named)


def test_every_loss_has_a_row_with_its_formula() -> None:
    table = text_of(REPOSITORY / "docs" / "losses.md").partition("## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(LOSSES)
