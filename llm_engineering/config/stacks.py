"""Stacks: where a run's steps run, what machines they ask for, and which values a file leaves open.

A stack's file holds ZenML's settings and no hyper-parameters. What belongs to one account (buckets, roles, registries)
stands in it as ``${name}``; the value comes from ``--set``, from the environment, or from whoever is asked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from llm_engineering.config.block import Block
from llm_engineering.config.yaml.layers import Node, Place, read_file
from llm_engineering.config.yaml.loader import CONFIGS_DIR
from llm_engineering.config.yaml.problems import describe, nearest
from llm_engineering.errors import ConfigError
from llm_engineering.requirements import image_tag

STACKS_DIR = CONFIGS_DIR / "stacks"
VERSIONS = "versions"
"""The placeholder that every stack has: the tag of images with the packages that this code is pinned to."""

ComponentKind = Literal[
    "artifact_store", "container_registry", "image_builder", "orchestrator", "step_operator", "experiment_tracker"
]
KINDS: tuple[ComponentKind, ...] = (
    "artifact_store",
    "container_registry",
    "image_builder",
    "orchestrator",
    "step_operator",
    "experiment_tracker",
)


def _whole_number(value: Any) -> Any:
    """Return a placeholder's value as the number it is written as."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _number(value: Any) -> Any:
    """Return a placeholder's value as a number, and nothing where it was left empty."""
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else (value or None)
    return value


_Schema = TypeVar("_Schema", bound=Block)
Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=0)]
Price = Annotated[float, Field(gt=0)] | None


class Placeholder(Block):
    """A value that a stack's file leaves open."""

    about: str
    """What it is, to be asked for by."""
    variable: str | None = None
    """Environment variable that it is read from."""
    default: str | None = None
    """What it is where nobody says; none: it has to be given."""
    secret: bool = False
    """It comes from the environment alone, goes into ZenML's service connector, and is shown nowhere."""


class Connector(Block):
    """How ZenML gets at the platform, for everyone who uses the stack."""

    type: Literal["aws", "azure", "gcp", "kubernetes"]
    auth_method: str
    """One of the connector's, as ``zenml service-connector describe-type`` lists them."""
    configuration: dict[str, str] = Field(default_factory=dict)


class Component(Block):
    """One component of a ZenML stack."""

    flavor: str
    configuration: dict[str, JsonValue] = Field(default_factory=dict)
    """As ``zenml FLAVOR register`` takes it."""
    resource: str | None = None
    """What it gets through the connector: ``TYPE`` or ``TYPE/ID``, such as ``s3-bucket/s3://my-bucket``."""


class Machine(Block):
    """What a group of steps runs on."""

    about: str
    """The machine, in the platform's words."""
    gpus: Count = 0
    """GPUs that a step may use; the settings below have to ask for as many, in the platform's own way."""
    price_per_hour: Annotated[Price, BeforeValidator(_number)] = None
    """What you pay for it in an hour, in the currency of your choice; a plan multiplies it by the estimated time."""
    resources: dict[str, JsonValue] = Field(default_factory=dict)
    """ZenML's resource settings: ``cpu_count``, ``memory``, ``gpu_count``."""
    orchestrator: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the orchestrator for these steps."""
    step_operator: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the step operator for these steps."""


class Retry(Block):
    """How often a step is tried again that failed or lost its machine."""

    max_retries: Annotated[int, Field(ge=1)] = 3
    delay: Annotated[int, Field(ge=0)] = 60
    """Seconds before the first."""
    backoff: Annotated[int, Field(ge=1)] = 2
    """Each wait is so many times the one before."""


class _Head(Block):
    """What a stack's file says of itself."""

    about: str
    """What runs where, in a sentence."""
    placeholders: dict[str, Placeholder] = Field(default_factory=dict)


class StackConfig(_Head):
    """One stack, its placeholders filled."""

    extras: list[str]
    """This project's extras that a submitter needs, and the image."""
    integrations: list[str]
    """ZenML's integrations that it is made of."""
    connector: Connector | None = None
    artifact_store: Component
    container_registry: Component | None = None
    image_builder: Component | None = None
    orchestrator: Component
    step_operator: Component | None = None
    """Where there is one, the GPU steps go to it and the others stay with the orchestrator."""
    experiment_tracker: Component | None = None
    image: str | None = None
    """What steps run in; none: they run where the orchestrator is. docs/containers.md says how to make it."""
    cpu: Machine
    """For steps that load no model for long."""
    gpu: Machine
    """For training, and for everything that generates or scores."""
    retry: Retry | None = Retry()
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of every step. ``LLM_ENGINEERING_WORK_DIR`` names a shared volume for trainings in progress."""
    secrets: list[str] = Field(default_factory=list)
    """Names of ZenML secrets whose values become variables of every step: a hub's token, Comet's key."""

    @model_validator(mode="after")
    def _check(self) -> "StackConfig":
        if self.resources_need_connector and self.connector is None:
            raise ValueError("a component names a resource, and there is no connector that could hand it over")
        if self.step_operator is None and (self.cpu.step_operator or self.gpu.step_operator):
            raise ValueError("a machine has settings of a step operator, and the stack has none")
        return self

    @property
    def components(self) -> dict[ComponentKind, Component]:
        """The components that the stack has, in the order in which they are made."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: component for kind, component in found.items() if component is not None}

    @property
    def resources_need_connector(self) -> bool:
        """Whether a component gets at its resource through the connector."""
        return any(component.resource for component in self.components.values())


def shipped_stacks() -> dict[str, Path]:
    """Return the files of the stacks that come with the project, by name."""
    return {path.stem: path for path in sorted(STACKS_DIR.glob("*.yaml"))}


def find_stack(name: str) -> Path:
    """Return the file of a shipped stack, or of one's own.

    Raises:
        ConfigError: There is neither.
    """
    shipped = shipped_stacks()
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    meant = nearest(name, shipped)
    hint = f"; did you mean {meant}?" if meant else "."
    raise ConfigError(
        f"There is no stack {name!r} and no such file; stacks that are shipped: {', '.join(shipped)}{hint}"
    )


@dataclass(frozen=True)
class OpenStack:
    """A stack as its file has it, its placeholders without values."""

    name: str
    about: str
    placeholders: Mapping[str, Placeholder]
    tree: Node

    def fill(self, values: Mapping[str, str]) -> StackConfig:
        """Return the stack, a value in the place of each placeholder.

        Raises:
            ConfigError: A setting is invalid; one sentence a line names file, line and key.
        """
        return _validated(_filled(self.tree, {**values, VERSIONS: image_tag()}, kept="placeholders"), StackConfig)

    def known_values(self, *sources: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
        """Return the values that need not be asked for: as said, else of the environment, else as before or by default.

        Args:
            sources: What was said, then what was known before; a secret is taken from neither.
            environment: The variables of the process.
        """
        said, *before = sources
        found: dict[str, str] = {}
        for name, each in self.placeholders.items():
            own = {name: environment[each.variable]} if each.variable and environment.get(each.variable) else {}
            default = {} if each.default is None else {name: each.default}
            layers = [own] if each.secret else [said, own, *before, default]
            found |= next(({name: layer[name]} for layer in layers if name in layer), {})
        return found

    def shown(self, values: Mapping[str, str] | None = None) -> StackConfig:
        """Return the stack with defaults, and with ``<name>`` where a value is not known or is not to be seen."""
        known = {} if values is None else values
        return self.fill(
            {
                name: f"<{name}>"
                if each.secret
                else known.get(name, each.default if each.default is not None else f"<{name}>")
                for name, each in self.placeholders.items()
            }
        )


def read_stack(name: str) -> OpenStack:
    """Return a shipped stack, or that of a file.

    Raises:
        ConfigError: There is none, or something is wrong in it; one sentence a line names file, line and key.
    """
    path = find_stack(name)
    label = str(path.relative_to(CONFIGS_DIR.parent)) if path.is_relative_to(CONFIGS_DIR.parent) else str(path)
    tree = read_file(path, Place(label, path.parent, line=1))
    assert isinstance(tree.value, dict)
    head = Node({key: node for key, node in tree.value.items() if key in _Head.model_fields}, tree.places)
    declared = _validated(head, _Head)
    _require_declared(tree, {*declared.placeholders, VERSIONS})
    stack = OpenStack(path.stem, declared.about, declared.placeholders, tree)
    stack.shown()  # what can be said of it without values is said now
    return stack


def _validated(tree: Node, schema: type[_Schema]) -> _Schema:
    try:
        return schema.model_validate(tree.plain())
    except ValidationError as error:
        raise ConfigError(describe(error, tree, schema)) from None  # its own text shows values


def _require_declared(node: Node, names: set[str]) -> None:
    for child in _children(node):
        _require_declared(child, names)
    texts = list(node.value) if isinstance(node.value, dict) else [node.value]
    for template in (Template(text) for text in texts if isinstance(text, str)):
        if not template.is_valid():
            raise ConfigError(f"{node.place}: a single $ stands for nothing; write $$, or ${{name}} for a placeholder.")
        for name in template.get_identifiers():
            if name not in names:
                raise ConfigError(f"{node.place}: ${{{name}}} is none of the placeholders. Add it to them.")


def _filled(node: Node, values: Mapping[str, str], kept: str = "") -> Node:
    """Return a node whose text has its placeholders' values, save for the block ``kept``."""
    if isinstance(node.value, dict):
        filled = {
            Template(key).substitute(values): child if key == kept else _filled(child, values)
            for key, child in node.value.items()
        }
        return Node(filled, node.places)
    if isinstance(node.value, list):
        return Node([_filled(child, values) for child in node.value], node.places)
    if isinstance(node.value, str):
        return Node(Template(node.value).substitute(values), node.places)
    return node


def _children(node: Node) -> list[Node]:
    if isinstance(node.value, dict):
        return list(node.value.values())
    return node.value if isinstance(node.value, list) else []
