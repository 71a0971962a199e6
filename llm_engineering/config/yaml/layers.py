"""Layers of settings: YAML that remembers where every key stands, and how one layer is laid over another."""

import warnings
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.reader import ReaderError

from llm_engineering.errors import ConfigError

MAX_NODES = 20_000
"""Values in one file, aliases counted each time: no configuration has so many, an alias bomb has."""

Scalar = str | int | float | date | None


@dataclass(frozen=True)
class Place:
    """Where a setting was made: a line of a file, or a ``--set``."""

    source: str
    """The file as the user named it, or ``--set KEY``."""
    folder: Path
    """Relative paths in this layer start here."""
    layer: int = 0
    """Later layers win; the defaults are layer 0."""
    line: int | None = None
    """1-based; none outside files."""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}, line {self.line}"

    def at(self, line: int) -> "Place":
        """Return the place at another 1-based line of the same file; a ``--set`` has no lines."""
        return self if self.line is None else replace(self, line=line)


@dataclass(frozen=True)
class Node:
    """One value with its places: one for a scalar or a list, one for each layer that touched it for a mapping."""

    value: "dict[str, Node] | list[Node] | Scalar"
    places: tuple[Place, ...]

    @property
    def place(self) -> Place:
        """Where the value was last set."""
        return self.places[-1]

    def child(self, key: str | int) -> "Node | None":
        """Return the value below ``key``, an entry of a list by its number."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def plain(self) -> object:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


class _Converter:
    """Turns what ruamel.yaml read into nodes."""

    def __init__(self, origin: Place) -> None:
        self._origin = origin
        self._nodes_left = MAX_NODES

    def node(self, value: object, line: int) -> Node:
        place = self._origin.at(line)
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise ConfigError(f"{self._origin.source} holds more than {MAX_NODES} values, aliases included.")
        self._refuse_tag(value, place)
        if isinstance(value, CommentedMap):
            return Node({self._key(key, place): self._member(value, key, line) for key in value}, (place,))
        if isinstance(value, CommentedSeq):
            lines = [value.lc.item(index)[0] + 1 for index in range(len(value))]
            return Node([self.node(item, at) for item, at in zip(value, lines, strict=True)], (place,))
        return Node(_scalar(value, place), (place,))

    def _member(self, mapping: CommentedMap, key: object, line: int) -> Node:
        # A key that came in by a merge (`<<: *anchor`) has no line of its own.
        own = mapping.lc.data or {}
        return self.node(mapping[key], own[key][0] + 1 if key in own else line)

    def _key(self, key: object, place: Place) -> str:
        if isinstance(key, str):
            return str(key)
        named = f"the key {key}" if isinstance(key, int | float | date) else "every key"
        raise ConfigError(f"{place}: {named} must be text; put it in quotes.")

    def _refuse_tag(self, value: object, place: Place) -> None:
        tagged = isinstance(value, CommentedMap | CommentedSeq | TaggedScalar) and value.tag.value
        if tagged:
            raise ConfigError(f"{place}: YAML tags such as {tagged} are not used here; write the plain value.")


def _scalar(value: object, place: Place) -> Scalar:
    # ruamel.yaml's own scalar types keep the notation; only the value counts here.
    if value is None or isinstance(value, bool | date):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise ConfigError(f"{place}: a value is neither text, number, true, false, null, list nor mapping.")


def _syntax_error(error: Exception, text: str, origin: Place) -> ConfigError:
    if isinstance(error, DuplicateKeyError):
        # The error's own text shows the values, which may be secrets.
        mark = error.problem_mark
        name = text.splitlines()[mark.line][mark.column :].split(":")[0].strip()
        return ConfigError(f"{origin.at(mark.line + 1)}: {name} is given twice in one block; keep one of them.")
    if isinstance(error, MarkedYAMLError):
        line, problem = _mark(error)
        return ConfigError(f"{origin.at(line)}: not valid YAML: {problem}.")
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return ConfigError(f"{origin.at(line)}: not valid YAML: a control character.")
    problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return ConfigError(f"{origin.source}: not valid YAML: {problem}.")


def _mark(error: MarkedYAMLError) -> tuple[int, str]:
    problem = error.problem or error.context or "it cannot be read"
    if error.context_mark and ("end of stream" in problem or "<stream end>" in problem):
        return error.context_mark.line + 1, "what starts here is not closed"
    if problem.startswith("but "):
        problem = f"{error.context} {problem}"
    mark = error.problem_mark or error.context_mark
    return (mark.line + 1 if mark else 1), problem


def parse(text: str, origin: Place) -> Node:
    """Return the nodes of one YAML 1.2 text, in which ``2e-5`` is a number.

    Raises:
        ConfigError: It is not valid YAML, gives a key twice, or uses tags.
    """
    try:
        return _Converter(origin).node(_load(text), 1)
    # ValueError: a date or a number that has the form but is none, such as 2024-99-99.
    except (YAMLError, ValueError, RecursionError) as error:
        raise _syntax_error(error, text, origin) from None


def _load(text: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)
        try:
            return YAML().load(text)
        # What ruamel.yaml 0.19 fails with on tags and keys of the wrong kind, such as `!!bool maybe`.
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError("a tag or a key of a kind that is not used here") from error


def read_file(path: Path, origin: Place) -> Node:
    """Return the nodes of one file; an empty one holds no settings.

    Raises:
        ConfigError: It cannot be read, is not UTF-8, is not valid YAML, or is no mapping.
    """
    if path.is_dir():
        raise ConfigError(f"{origin.source} is a folder; name a YAML file in it.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{origin.source} cannot be read: {error.strerror}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = origin.at(raw.count(b"\n", 0, error.start) + 1)
        raise ConfigError(f"{place}: not UTF-8 text; save the file as UTF-8.") from None
    node = parse(text, origin)
    if node.value is None:
        return Node({}, node.places)
    if not isinstance(node.value, dict):
        raise ConfigError(f"{origin}: the top level must be keys with values, such as `seed: 42`.")
    return node


def from_plain(value: object, place: Place) -> Node:
    """Return plain data as nodes that all have the same place."""
    if isinstance(value, dict):
        return Node({key: from_plain(child, place) for key, child in value.items()}, (place,))
    if isinstance(value, list):
        return Node([from_plain(child, place) for child in value], (place,))
    return Node(_scalar(value, place), (place,))


def merge(earlier: Node, later: Node) -> Node:
    """Lay one node over another: mappings key by key, all else whole.

    A mapping that names another ``type`` replaces the earlier one, whose keys belong to the earlier type.
    """
    below, above = earlier.value, later.value
    if not (isinstance(below, dict) and isinstance(above, dict)) or _changes_type(below, above):
        return later
    merged = dict(below)
    for key, child in above.items():
        merged[key] = merge(below[key], child) if key in below else child
    return Node(merged, earlier.places + later.places)


def _changes_type(below: dict[str, Node], above: dict[str, Node]) -> bool:
    return "type" in below and "type" in above and below["type"].value != above["type"].value


def apply_overrides(tree: Node, overrides: list[str], layer: int) -> Node:
    """Lay ``dotted.key=value`` settings over a tree; the order matters only between settings of the same key.

    Args:
        tree: The settings so far.
        overrides: The settings to lay over them, as the user wrote them.
        layer: The number of the first one's layer.

    Raises:
        ConfigError: An override lacks its ``=``, its value is not valid YAML, or it names a list entry there is not.
    """
    split = [_split_override(text) for text in overrides]
    # A new `type` clears its block, so it comes before the block's other keys.
    for number, (keys, value) in enumerate(sorted(split, key=lambda item: item[0][-1] != "type")):
        place = Place(f"--set {'.'.join(keys)}", Path.cwd(), layer + number)
        tree = _assign(tree, keys, 0, parse(value, place))
    return tree


def assign(tree: Node, key: str, leaf: Node) -> Node:
    """Lay one value over a tree, at a dotted key.

    Raises:
        ConfigError: The key names a list entry that there is not.
    """
    return _assign(tree, key.split("."), 0, leaf)


def _split_override(text: str) -> tuple[list[str], str]:
    key, equals, value = text.partition("=")
    keys = [part.strip() for part in key.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set {key!r} needs the form KEY=VALUE, such as --set dpo.beta=0.2.")
    return keys, value


def _assign(target: Node | None, keys: list[str], depth: int, leaf: Node) -> Node:
    if depth == len(keys):
        return leaf if target is None else merge(target, leaf)
    key = keys[depth]
    if target is not None and isinstance(target.value, list):
        index = _entry(target.value, keys, depth, leaf.place)
        entries = list(target.value)
        entries[index] = _assign(entries[index], keys, depth + 1, leaf)
        return Node(entries, target.places)
    child = None if target is None else target.child(key)
    patch = Node({key: _assign(child, keys, depth + 1, leaf)}, leaf.places)
    return patch if target is None else merge(target, patch)


def _entry(entries: list[Node], keys: list[str], depth: int, place: Place) -> int:
    name, number = ".".join(keys[:depth]), keys[depth]
    if number.isascii() and number.isdigit() and int(number) < len(entries):
        return int(number)
    if not entries:
        raise ConfigError(f"{place}: {name} is an empty list; set it whole, such as --set '{name}=[...]'.")
    raise ConfigError(f"{place}: {name} has no entry {number!r}; its entries are numbered 0 to {len(entries) - 1}.")
