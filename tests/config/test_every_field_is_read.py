"""Every key of the configuration is read by something: a key without a reader would turn nothing."""

import ast
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from llm_engineering.config.block import Block
from llm_engineering.config.export import ExportFormat
from llm_engineering.config.run import RunConfig
from llm_engineering.config.stacks import KINDS, StackConfig
from llm_engineering.config.watch import DPO_VERDICTS, SFT_VERDICTS
from llm_engineering.training.losses import SETTINGS

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "llm_engineering" / "config"
BY_NAME = {
    "WatchActions": {*SFT_VERDICTS, *DPO_VERDICTS},
    "DPOStageConfig": {*SETTINGS},
    "ParityConfig": {*get_args(ExportFormat)},
    "StackConfig": {*KINDS},
}
"""Blocks some of whose fields are read by name: of a verdict, a loss's parameter, a format, a component."""


@cache
def attributes() -> set[str]:
    """Return the names of all attributes that the code reads, the schema's own rules left out."""
    files = [
        file for room in ("llm_engineering", "steps", "pipelines", "tools") for file in (ROOT / room).rglob("*.py")
    ]
    trees = [ast.parse(file.read_text()) for file in files if file.parent != SCHEMA or file.name == "stacks.py"]
    return {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@cache
def derived() -> set[str]:
    """Return the fields that the schema's properties hand on in another form."""
    trees = [ast.parse(file.read_text()) for file in SCHEMA.glob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {node.attr for function in functions for node in ast.walk(function) if isinstance(node, ast.Attribute)}


def blocks(block: type[Block]) -> list[type[Block]]:
    """Return the blocks of a run and of a stack, whose modules are imported here."""
    assert issubclass(RunConfig, Block)
    assert issubclass(StackConfig, Block)
    return [block, *(inner for child in block.__subclasses__() for inner in blocks(child))]


@pytest.mark.parametrize("block", blocks(Block)[1:], ids=lambda block: block.__name__)
def test_every_key_has_a_reader(block: type[Block]) -> None:
    by_name = BY_NAME.get(block.__name__, set())
    tags = {name for name, field in block.model_fields.items() if len(get_args(field.annotation)) == 1}
    unread = set(block.model_fields) - tags - by_name - attributes() - derived()
    assert not unread
