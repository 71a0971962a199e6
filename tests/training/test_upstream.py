"""What the library uses of other libraries' private names: each in one table, each looked at before a training."""

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from trl import DPOTrainer, SFTTrainer

import llm_engineering
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import LibraryError
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.dpo_arguments import dpo_arguments
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.sft import sft_arguments, train_sft
from llm_engineering.training.sft_trainer import PreparedSFTTrainer
from llm_engineering.training.upstream import NAMES, Name, require_upstream

STAGES = {
    "sft": (SFTTrainer, PreparedSFTTrainer, sft_arguments, SFTStageConfig(batch_size=2, max_steps=1)),
    "dpo": (DPOTrainer, PreparedDPOTrainer, dpo_arguments, DPOStageConfig(batch_size=2, max_steps=1)),
}
LIBRARIES = ("accelerate", "peft", "transformers", "trl")
OTHERS = {"torch", "os", "experiment"}
"""Whose private names are nobody's here: PyTorch's operators, a process's end, Comet's experiment."""


@pytest.fixture
def make_trainer(tiny_base, sft_rows, preference_rows, tmp_path):
    def make(stage):
        _, trainer_class, arguments, config = STAGES[stage]
        model = load_model(tiny_base.path, torch.float32)
        return trainer_class(
            model=model,
            args=arguments(config, ModelConfig(), tmp_path / "work", 3, evaluates=False, rows=8),
            train_dataset=read_rows(sft_rows if stage == "sft" else preference_rows, "train"),
            processing_class=load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer,
            peft_config=adapter_config(LoraAdapter(r=2), model),
        )

    return make


def holders(row: Name, stage: str) -> Iterator[object]:
    """Yield every class, module or object from which a name has to go to be gone."""
    module, _, name = row.place_in(stage).partition(":")
    holder = importlib.import_module(module)
    holder = getattr(holder, name) if name else holder
    found = inspect.getmro(holder if inspect.isclass(holder) else type(holder)) if name else (holder,)
    return (one for one in found if row.name in vars(one))


def remove(row: Name, stage: str, patch: pytest.MonkeyPatch) -> None:
    for holder in list(holders(row, stage)):
        patch.delattr(holder, row.name)


def change(row: Name, stage: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(next(holders(row, stage)), row.name, lambda self, another: None)


def alterations(stage: str, fast: bool) -> Iterator[tuple[Name, Callable[..., None]]]:
    for row in NAMES:
        if row.fast == fast and stage in row.stages:
            yield row, remove
            if row.takes is not None:
                yield row, change


@pytest.mark.parametrize(
    ("stage", "row", "alter"),
    [
        pytest.param(stage, row, alter, id=f"{stage}-{row.name}-{alter.__name__}")
        for stage in STAGES
        for row, alter in alterations(stage, fast=False)
        if not row.is_set
    ],
)
def test_a_training_ends_before_it_loads_a_model(
    stage, row, alter, sft_rows, preference_rows, make_inputs, monkeypatch
):
    alter(row, stage, monkeypatch)
    train, rows = (train_sft, sft_rows) if stage == "sft" else (train_dpo, preference_rows)
    with pytest.raises(LibraryError) as caught:
        train(STAGES[stage][3], make_inputs(rows))
    said = str(caught.value)
    assert said.startswith(f"{stage.upper()} cannot train: {row.place_in(stage).split(':')[0].split('.')[0]} ")
    assert row.name in said
    assert ("has no" if alter is remove else f"({row.takes}) is needed") in said
    assert said.endswith("; install the version that constraints.txt names.")
    assert "\n" not in said


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_trainer_sets_is_looked_at_once_there_is_one(stage, make_trainer):
    trainer = make_trainer(stage)
    require_upstream(stage, trainer)
    rows = [row for row in NAMES if row.is_set and stage in row.stages and not row.fast]
    assert rows
    for row in rows:
        kept = trainer.__dict__.pop(row.name)
        with pytest.raises(LibraryError, match=f"has no {stage.upper()}Trainer.{row.name};"):
            require_upstream(stage, trainer)
        setattr(trainer, row.name, kept)


def test_a_trainer_without_what_it_should_set_is_not_made(make_trainer, monkeypatch):
    whole = SFTTrainer.__init__

    def without(self, *args, **kwargs):
        whole(self, *args, **kwargs)
        del self._metrics

    monkeypatch.setattr(SFTTrainer, "__init__", without)
    with pytest.raises(LibraryError, match=r"has no SFTTrainer\._metrics"):
        make_trainer("sft")


@pytest.mark.parametrize("stage", STAGES)
def test_the_fast_path_alone_falls_back(stage, make_trainer):
    trainer = make_trainer(stage)
    assert trainer.path == "fast"
    for row, alter in alterations(stage, fast=True):
        trainer.path = ""
        with pytest.MonkeyPatch.context() as patch:
            if row.is_set:
                patch.delattr(trainer, row.name)
            else:
                alter(row, stage, patch)
            require_upstream(stage, trainer)
            trainer.choose_path()
        assert trainer.path.startswith("TRL's own: "), row
        assert row.name in trainer.path


def test_every_private_name_of_other_libraries_is_in_the_table():
    listed = {name for row in NAMES for name in (row.name, row.place.partition(":")[2])}
    assert {f"{path}: {name}" for path, name in used() if name not in listed} == set()


def used() -> set[tuple[str, str]]:
    root = Path(llm_engineering.__file__).parent
    trees = {str(path.relative_to(root)): ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}
    own = {name for tree in trees.values() for name in defined(tree)}
    upstream = {name for name in trainers_names()}
    found = set()
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = set(named(node))
            found |= {(path, name) for name in names if name in upstream or name not in own}
    return {(path, name) for path, name in found if is_private(name) and not hasattr(torch.nn.Module, name)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.isidentifier() and name != "_"


def named(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node uses of an object, or imports from another library."""
    match node:
        case ast.Attribute(value=value, attr=name) if ast.unparse(value).split(".")[0] not in OTHERS:
            yield name
        case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in LIBRARIES:
            yield from (alias.name for alias in names)
            yield from module.split(".")
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr"), args=[of, ast.Constant(name), *_]
        ):
            yield from (name,) if ast.unparse(of).split(".")[0] not in OTHERS else ()
        case ast.Subscript(value=ast.Attribute(attr="__dict__"), slice=ast.Constant(value=str(name))):
            yield name
        case ast.ClassDef(body=body):
            yield from (part.name for part in body if isinstance(part, ast.FunctionDef))


def defined(tree: ast.AST) -> Iterator[str]:
    """Yield what a module or class defines or sets."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def trainers_names() -> Iterator[str]:
    """Yield the private names that TRL's trainers and the classes above them have, or set."""
    for kind in {*inspect.getmro(SFTTrainer), *inspect.getmro(DPOTrainer)} - {object}:
        yield from filter(is_private, {*vars(kind), *defined(ast.parse(inspect.getsource(kind).lstrip()))})
