"""Loads a run's configuration: files and ``--set`` values laid over the schema's defaults."""

import os
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML

from llm_engineering.config.run import RunConfig
from llm_engineering.config.sweeping import expand
from llm_engineering.config.yaml.layers import Node, Place, apply_overrides, from_plain, merge, read_file
from llm_engineering.config.yaml.problems import describe, nearest
from llm_engineering.errors import ConfigError

CONFIGS_DIR = Path(__file__).resolve().parents[3] / "configs"
DEFAULT_CONFIG = CONFIGS_DIR / "training.yaml"
_KEYWORDS = {"base": {"embedded"}, "chat_template": {"auto", "model", "chatml", "llama3", "alpaca"}}


def load_config(paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration that files and overrides make over the schema's defaults.

    Mappings merge key by key, later wins; lists, and blocks whose ``type`` changes, are replaced whole. Relative paths
    in a file start at its folder, those in an override at the working directory.

    Args:
        paths: YAML files, or names of shipped ones: ``training`` is ``configs/training.yaml``; ``configs/recipes``,
            ``configs/models`` and ``configs/hardware`` are searched too.
        overrides: ``dotted.key=value``, the value in YAML, entries of lists by number: ``data.sft.0.path=rows.jsonl``.

    Raises:
        ConfigError: Something is wrong, in the configuration or in a run of its sweep; one sentence a line names file,
            line and key.
    """
    tree = from_plain(RunConfig().model_dump(), Place("the defaults", Path.cwd()))
    for layer, path in enumerate(map(_find, paths), start=1):
        tree = merge(tree, read_file(path, Place(_label(path), path.parent, layer, 1)))
    tree = _resolve_paths(apply_overrides(tree, list(overrides), len(paths) + 1))
    try:
        config = RunConfig.model_validate(tree.plain(), strict=True)
    except ValidationError as error:
        # Its text shows values of unknown keys, which may be secrets.
        raise ConfigError(describe(error, tree, RunConfig)) from None
    if config.sweep is not None:
        expand(tree, config.sweep)
    return config


def dump_config(config: RunConfig) -> str:
    """Return the whole configuration as YAML that :func:`load_config` reads back, keys in the schema's order."""
    return dump_block(config)


def dump_block(config: RunConfig, only: set[str] | None = None) -> str:
    """Return the configuration, or only some blocks of it, as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # untyped there: None until set
    yaml.allow_unicode = True
    yaml.width = 2**16
    stream = StringIO()
    yaml.dump(config.model_dump(include=only), stream)
    return stream.getvalue()


def _shipped() -> dict[str, Path]:
    folders = tuple(CONFIGS_DIR / name for name in ("models", "hardware", "recipes", "."))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _find(name: Path | str) -> Path:
    path, shipped = Path(name), _shipped()
    if str(name) in shipped:
        return shipped[str(name)]
    if _is_there(path.exists):
        return path
    meant = nearest(path.stem, shipped)
    hint = f"; did you mean {meant}?" if meant else "."
    if not shipped:
        raise ConfigError(f"{name} does not exist. Name a file: the shipped configurations stay in the repository.")
    raise ConfigError(f"{name} does not exist; configurations with a name: {', '.join(sorted(shipped))}{hint}")


def _is_there(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # text too long for a file name, such as a template written where its path belongs
        return False


def _label(path: Path) -> str:
    root = CONFIGS_DIR.parent
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _resolve_paths(tree: Node) -> Node:
    """Make relative paths absolute, each from the folder of the layer that set it."""
    data, model, evaluation = (tree.child(name) for name in ("data", "model", "evaluation"))
    if data is not None:
        for kind in ("sft", "preference"):
            data = _replaced(data, kind, _resolve_sources(data.child(kind)))
        tree = _replaced(tree, "data", data)
    if model is not None:
        model = _replaced(model, "base", _resolve_existing(model.child("base"), "base"))
        model = _replaced(model, "chat_template", _resolve_existing(model.child("chat_template"), "chat_template"))
        tree = _replaced(tree, "model", model)
    harness = evaluation.child("harness") if evaluation is not None else None
    if evaluation is not None and harness is not None:
        harness = _replaced(harness, "include_path", _absolute(harness.child("include_path")))
        tree = _replaced(tree, "evaluation", _replaced(evaluation, "harness", harness))
    return _resolve_measured(tree)


def _resolve_measured(tree: Node) -> Node:
    """Make the folders among ``evaluation.models`` absolute."""
    evaluation = tree.child("evaluation")
    models = evaluation.child("models") if evaluation is not None else None
    if evaluation is None or models is None or not isinstance(models.value, dict):
        return tree
    for name in models.value:
        models = _replaced(models, name, _resolve_existing(models.child(name), "base"))
    return _replaced(tree, "evaluation", _replaced(evaluation, "models", models))


def _replaced(block: Node, key: str, child: Node | None) -> Node:
    if child is None or not isinstance(block.value, dict):
        return block
    return Node({**block.value, key: child}, block.places)


def _resolve_sources(sources: Node | None) -> Node | None:
    if sources is None or not isinstance(sources.value, list):
        return sources
    resolved = [_replaced(source, "path", _absolute(source.child("path"))) for source in sources.value]
    return Node(resolved, sources.places)


def _resolve_existing(node: Node | None, key: str) -> Node | None:
    """Make a model setting absolute if it is no keyword and such a file or folder exists; it may be a hub id."""
    if node is None or not isinstance(node.value, str) or not node.value or node.value in _KEYWORDS[key]:
        return node
    path = node.place.folder / node.value
    return _absolute(node) if _is_there(path.is_dir if key == "base" else path.is_file) else node


def _absolute(node: Node | None) -> Node | None:
    if node is None or not isinstance(node.value, str) or "://" in node.value:  # s3://bucket/rows.jsonl
        return node
    path = node.place.folder / os.path.expanduser(node.value)  # noqa: PTH111  # Path's own fails for unknown users
    # The file itself may be a link whose target has no telling suffix.
    return Node(str(path.parent.resolve() / path.name), node.places)
