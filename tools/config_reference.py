"""Write docs/configuration.md, the list of all keys, from the schema of the configuration."""

import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from ruamel.yaml import YAML

from llm_engineering.config.run import RunConfig
from tools.command import Command, write

Schema: TypeAlias = dict[str, Any]
"""A part of the JSON schema that pydantic makes of the configuration."""

DEFAULT_OUT = Path(__file__).parents[1] / "docs" / "configuration.md"
KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
CONSTANT = "Names this kind of block."
INTRODUCTION = """\
# Configuration

<!-- Written by `python tools/config_reference.py` from the blocks in llm_engineering/config. Change them there. -->

A run is described by one tree of settings. Every key is optional over its default, and an unknown key is an error that
names file, line and the nearest known key.

- Without `--config`, `tools/run.py` reads `configs/training.yaml`. With it, it reads the files that you name
  *instead*, each laid over the defaults below. A shipped file goes by its name: `--config training --config mine.yaml`
  lays yours over the offline default.
- Later files win. Blocks merge key by key. Lists are replaced whole, and so is a block whose `type` changes.
- `--set KEY=VALUE` lays one value over the files: `--set dpo.beta=0.2`, `--set data.sft.0.path=rows.jsonl`. The value
  is YAML. Entries of lists go by number, from 0.
- Relative paths of data files, model folders and templates start at the folder of the file that names them; in `--set`
  and in `export.dir` they start at the working directory.
- Files are YAML 1.2: `2e-5` is a number, `no` is text.

The defaults below are the schema's. `configs/training.yaml` changes some of them for the embedded model.
"""


@click.command(cls=Command)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_OUT,
    help="File to write instead of docs/configuration.md.",
)
def main(out: Path) -> None:
    """Write the list of all configuration keys, with their defaults, as Markdown."""
    write(out, render(), "--out")
    click.echo(f"Wrote {out}.")


def render() -> str:
    """Return the list of all keys as Markdown: one section a block, one line a key."""
    schema = RunConfig.model_json_schema()
    blocks: Schema = schema["$defs"]
    places: dict[str, list[str]] = {}
    for name, place in _places("", schema, blocks):
        places.setdefault(name, []).append(f"`{place}`")
    lines = ["## Top level\n", *_table(schema, blocks)]
    for name, where in places.items():
        lines += [f"## {' and '.join(where)}{_variant(blocks[name])}\n", *_table(blocks[name], blocks)]
    return "\n".join([INTRODUCTION, *lines])


def _places(path: str, block: Schema, blocks: Schema) -> Iterator[tuple[str, str]]:
    """Yield the name of every block below a block, and where it stands in the tree."""
    for key, field in block["properties"].items():
        inside = ".".join(part for part in (path, key) if part) + ("[]" if field.get("type") == "array" else "")
        named = [(name, f"{inside}.KEY") for name in _references(field.get("additionalProperties") or {})]
        for name, place in [*((name, inside) for name in _references(field)), *named]:
            yield name, place
            yield from _places(place, blocks[name], blocks)


def _table(block: Schema, blocks: Schema) -> Iterator[str]:
    """Yield the lines that describe one block."""
    yield f"{_plain(block.get('description', ''))}\n"
    yield "| key | default | takes | meaning |"
    yield "|---|---|---|---|"
    for key, field in block["properties"].items():
        yield "| " + " | ".join(_cells(key, field, key in block.get("required", []), blocks)) + " |"
    yield ""


def _cells(key: str, field: Schema, required: bool, blocks: Schema) -> tuple[str, str, str, str]:
    names, many = _references(field), field.get("type") == "array"
    meaning = field.get("description", "")
    if not names:
        default = "required" if required else _code(field.get("default"))
        return f"`{key}`", default, _takes(field), _plain(meaning or CONSTANT * ("const" in field))
    if any("type" in form and form["type"] != "null" for form in field.get("anyOf", [])):  # a plain value, or a block
        return f"`{key}`", _code(field.get("default")), _takes(field), _plain(meaning)
    default = "required" if required else _code([]) if many else "see below"
    meaning = meaning or (blocks[names[0]].get("description", "") if len(names) == 1 else "One of the kinds below.")
    return f"`{key}`", default, "list of blocks" if many else "block", _plain(meaning)


def _references(field: Schema) -> list[str]:
    """Return the names of the blocks that a value may be, or that a list's entries may be."""
    inside = field.get("items", field)
    found = [inside["$ref"].rpartition("/")[2]] if "$ref" in inside else []
    return found + [name for form in (*inside.get("oneOf", []), *inside.get("anyOf", [])) for name in _references(form)]


def _variant(block: Schema) -> str:
    """Return what tells a block from the others that may stand in its place."""
    kind = block["properties"].get("type", {}).get("const")
    keys = [key for key in ("path", "hub", "embedded", "sample") if key in block.get("required", [])]
    return f", `type: {kind}`" if kind else f", with `{keys[0]}`" if keys else ""


def _takes(field: Schema) -> str:
    """Return in words what a value may be."""
    if "anyOf" in field:
        return " or ".join(_takes(form) for form in field["anyOf"])
    if "const" in field:
        return _code(field["const"])
    if "enum" in field:
        return ", ".join(_code(value) for value in field["enum"])
    if "$ref" in field:
        return "block"
    if "type" not in field:
        return "value"
    if field["type"] == "array":
        return f"list of {_takes(field['items'])}"
    if field["type"] == "object":
        return f"names with {_takes(field['additionalProperties'])}"
    limits = [f"{sign} {field[name]:,}" for name, sign in LIMITS.items() if name in field]
    limits += [f"at most {field['maxLength']} characters"] if "maxLength" in field else []
    return f"{KINDS[field['type']]} {', '.join(limits)}".strip()


def _code(value: object) -> str:
    """Return a value as YAML on one line, marked as code."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # untyped there: None until set
    yaml.width = 2**16
    stream = StringIO()
    yaml.dump(value, stream)
    text = stream.getvalue().removesuffix("...\n").strip()
    return f"`{text}`"


def _plain(text: str) -> str:
    """Return a docstring as one line of Markdown that fits a table."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    main()
