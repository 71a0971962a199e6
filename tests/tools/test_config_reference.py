"""docs/configuration.md is what the schema says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from llm_engineering.config.block import Block
from llm_engineering.config.run import RunConfig
from tools.config_reference import DEFAULT_OUT, main, render


def test_the_committed_reference_is_what_the_schema_gives() -> None:
    assert DEFAULT_OUT.read_text(encoding="utf-8") == render(), "run `python tools/config_reference.py`"


def blocks(block: type[Block]) -> list[type[Block]]:
    return [inner for child in block.__subclasses__() for inner in (child, *blocks(child))]


def test_every_block_of_the_schema_lists_every_one_of_its_keys() -> None:
    part_of_a_run = {"RunConfig", *RunConfig.model_json_schema()["$defs"]}
    inner = [block for block in blocks(Block) if block.__name__ in part_of_a_run]
    assert len(inner) > 15
    text = render()
    for block in inner:
        assert block.__doc__ is not None
        table = text.partition(f"\n{block.__doc__}\n")[2].partition("\n## ")[0]
        listed = {line.split("|")[1].strip(" `") for line in table.splitlines() if line.startswith("| `")}
        assert listed == set(block.model_fields), block.__name__


@pytest.mark.parametrize(
    "line",
    [
        "| `beta` | `0.1` | number > 0, ≤ 100 | How strongly the policy is held to the reference;",
        "| `pad` | `null` | text or null | The token that fills up a batch. |",
        "| `too_long` | `truncate_prompt` | `truncate_prompt`, `drop`, `error` | ",
        "| `path` | required | text | ",
        "| `prompts` | `[]` | list of text | ",
        "| `embedded` | required | `true` | ",
        "| `seed` | `42` | whole number ≥ 0, < 4,294,967,296 | ",
    ],
)
def test_a_line_tells_default_and_accepted_values(line: str) -> None:
    assert line in render()


def test_blocks_that_may_stand_in_one_place_get_a_section_each_and_shared_ones_get_one() -> None:
    text = render()
    assert "## `adapter`, `type: lora`" in text
    assert "## `adapter`, `type: dora`" in text
    assert text.count("## `data.sft[]` and `data.preference[]`, with `path`") == 1


def test_the_command_writes_the_file_it_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "keys.md")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "keys.md").read_text(encoding="utf-8") == render()
