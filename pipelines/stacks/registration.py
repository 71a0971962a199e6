"""Make a stack's components in ZenML, keep them as its file says, and remove them again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import ComponentResponse, ServiceConnectorResponse, StackResponse
from zenml.stack.utils import validate_stack_component_config

from llm_engineering.config.block import Block
from llm_engineering.config.stacks import Component, ComponentKind, StackConfig
from llm_engineering.errors import ConfigError, StoreError
from pipelines.stacks.settings import require_honest_gpus
from pipelines.store import server_of_store

LABEL = "llm-engineering"
"""The label of a ZenML stack that holds its :class:`Registered`, so that all who share the server submit alike."""
Does = Literal["create", "update", "keep", "delete"]


@dataclass(frozen=True)
class Action:
    """One thing that is done to ZenML's store."""

    does: Does
    kind: str
    """A component's type, ``service_connector`` or ``stack``."""
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it is made of; no secrets."""


class Registered(Block):
    """What a stack was made from."""

    values: dict[str, str]
    """Of its placeholders; those of secrets are not kept."""
    config: StackConfig
    """Its secrets hidden."""


@dataclass(frozen=True)
class Order:
    """A stack that is to be registered."""

    name: str
    made_from: Registered
    connector: Mapping[str, str] | None
    """The connector's configuration with its secrets; None: every step uses the credentials that it finds."""

    @property
    def config(self) -> StackConfig:
        """What is registered."""
        return self.made_from.config

    @property
    def shown_connector(self) -> dict[str, str]:
        """The connector's configuration, secrets hidden."""
        assert self.config.connector is not None
        return dict(self.config.connector.configuration)


def planned(order: Order) -> list[Action]:
    """Return what registering would do, in order.

    Raises:
        ConfigError: A configuration is invalid.
        StoreError: A component or connector of that name is there, and of another kind.
    """
    require_honest_gpus(order.name, order.config)
    actions = []
    if order.connector is not None:
        actions.append(Action(_does_connector(order), "service_connector", order.name, order.shown_connector))
    for kind, component in order.config.components.items():
        wanted = validated(kind, component)
        found = find_component(order.name, kind)
        _require_flavor(order.name, kind, component, found)
        is_same = found is not None and found.configuration == wanted and _is_linked(order, component, found)
        does: Does = "create" if found is None else "keep" if is_same else "update"
        actions.append(Action(does, kind, order.name, {"flavor": component.flavor, **wanted}))
    stack = find_registered(order.name)
    is_same = stack is not None and _labelled(stack) == order.made_from and not any(a.does == "create" for a in actions)
    actions.append(Action("create" if stack is None else "keep" if is_same else "update", "stack", order.name))
    return actions


def register(order: Order) -> list[Action]:
    """Do what :func:`planned` says; a second time it finds nothing to do.

    Raises:
        StoreError: ZenML is on a local store, which no remote step reaches, or the platform refuses the credentials.
    """
    require_server(order.name)
    actions = planned(order)
    connector = _register_connector(order, actions) if order.connector is not None else None
    for action in actions:
        if action.kind in order.config.components and action.does != "keep":
            _register_component(order, action, connector)
    _register_stack(order, actions[-1])
    return actions


def require_server(name: str) -> None:
    """Refuse a local store.

    Raises:
        StoreError: ZenML is on one.
    """
    if server_of_store() is None:
        raise StoreError(
            f"The steps of the stack {name} run elsewhere and need a ZenML server that they reach; this client is on a "
            "local store. docs/stacks.md says how to get a server; `zenml login URL` connects to it."
        )


def validated(kind: ComponentKind, component: Component) -> dict[str, Any]:
    """Return a component's configuration as ZenML stores it; nothing of the platform's own packages is needed.

    Raises:
        ConfigError: The flavour has no such setting, or misses one.
    """
    try:
        found = validate_stack_component_config(
            dict(component.configuration), component.flavor, StackComponentType(kind)
        )
    except ValidationError as error:
        first = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ConfigError(f"{kind} of the flavor {component.flavor} cannot be configured so: {first}") from None
    except (ValueError, KeyError) as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{kind} of the flavor {component.flavor} cannot be configured so: {first}") from None
    assert found is not None
    return dict(found.model_dump(mode="json", exclude_unset=True))


def find_component(name: str, kind: str) -> ComponentResponse | None:
    """Return a registered component."""
    found = Client().list_stack_components(name=name, type=kind, size=1, hydrate=True).items
    return found[0] if found else None


def find_registered(name: str) -> StackResponse | None:
    """Return a registered ZenML stack."""
    found = Client().list_stacks(name=name, size=1, hydrate=True).items
    return found[0] if found else None


def known_values(name: str) -> dict[str, str]:
    """Return the values that a stack was registered with before; none where it was not."""
    stack = find_registered(name)
    made_from = _labelled(stack) if stack else None
    return made_from.values if made_from else {}


def registered_names() -> set[str]:
    """Return the names of the stacks that :func:`register` made."""
    return {str(stack.name) for stack in Client().list_stacks(size=1000, hydrate=True).items if _labelled(stack)}


def registered_config(name: str) -> tuple[StackResponse, StackConfig]:
    """Return a stack that :func:`register` made, and what it was made from.

    Raises:
        StoreError: There is none, or somebody else made it.
    """
    found = find_registered(name)
    if found is None:
        raise StoreError(
            f"ZenML has no stack {name!r}; registered here are: {', '.join(sorted(registered_names())) or 'none'}. "
            f"`python tools/stacks.py register {name}` makes one of those that `python tools/stacks.py list` shows."
        )
    made_from = _labelled(found)
    if made_from is None:
        raise StoreError(
            f"The stack {name!r} was not made by `python tools/stacks.py register`, so that it is not known which "
            "machines and image its steps get. Write a file for it (docs/stacks.md) and register that."
        )
    return found, made_from.config


def _labelled(stack: StackResponse) -> Registered | None:
    text = (stack.labels or {}).get(LABEL)
    return Registered.model_validate_json(text) if text else None


def delete(name: str) -> list[Action]:
    """Remove a stack with the components and the connector that no other stack uses; what they point at stays.

    Raises:
        StoreError: There is no such stack, or it is the active one.
    """
    stack, config = registered_config(name)
    client = Client()
    if stack.id == client.active_stack_model.id:
        raise StoreError(f"The stack {name} is active. Choose another first: `zenml stack set default`.")
    client.delete_stack(stack.id)
    done = [Action("delete", "stack", name)]
    for kind in reversed(config.components):
        component = find_component(name, kind)
        if component is not None and not client.list_stacks(component_id=component.id, size=1).items:
            client.delete_stack_component(component.id, StackComponentType(kind))
            done.append(Action("delete", kind, name))
    connector = _find_connector(name)
    if connector is not None and not client.list_stack_components(connector_id=connector.id, size=1).items:
        client.delete_service_connector(connector.id)
        done.append(Action("delete", "service_connector", name))
    return done


def _require_flavor(name: str, kind: str, component: Component, found: ComponentResponse | None) -> None:
    if found is not None and found.flavor_name != component.flavor:
        raise StoreError(
            f"ZenML has a component {name!r} of the type {kind} already, and its flavor is {found.flavor_name}, not "
            f"{component.flavor}. Rename it (`zenml {kind.replace('_', '-')} rename`), or name your file otherwise."
        )


def _find_connector(name: str) -> ServiceConnectorResponse | None:
    found = Client().list_service_connectors(name=name, size=1, hydrate=True).items
    return found[0] if found else None


def _does_connector(order: Order) -> Does:
    wanted, found = order.config.connector, _find_connector(order.name)
    assert wanted is not None
    if found is None:
        return "create"
    if (found.type, found.auth_method) != (wanted.type, wanted.auth_method):
        raise StoreError(
            f"ZenML has a service connector {order.name!r} already, and it is of another kind ({found.type}, "
            f"{found.auth_method}). Delete it (`zenml service-connector delete {order.name}`), or rename your file."
        )
    return "update"


def _is_linked(order: Order, component: Component, found: ComponentResponse) -> bool:
    """Return whether a component has a connector exactly where it is to have one."""
    return (found.connector is not None) == (component.resource is not None and order.connector is not None)


def _register_connector(order: Order, actions: list[Action]) -> ServiceConnectorResponse:
    from zenml.exceptions import AuthorizationException

    wanted, client = order.config.connector, Client()
    assert wanted is not None
    try:
        made: Any
        if actions[0].does == "create":
            made, _ = client.create_service_connector(
                order.name,
                wanted.type,
                auth_method=wanted.auth_method,
                configuration=dict(order.connector or {}),
                list_resources=False,
            )
        else:
            made, _ = client.update_service_connector(
                order.name, configuration=dict(order.connector or {}), list_resources=False
            )
    except (AuthorizationException, ValueError, NotImplementedError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise StoreError(f"The service connector of {order.name} cannot be made: {first}") from error
    assert isinstance(made, ServiceConnectorResponse)
    return made


def _register_component(order: Order, action: Action, connector: ServiceConnectorResponse | None) -> None:
    kind, component, client = StackComponentType(action.kind), getattr(order.config, action.kind), Client()
    if action.does == "create":
        client.create_stack_component(order.name, component.flavor, kind, dict(component.configuration))
    else:
        found = find_component(order.name, action.kind)
        assert found is not None
        gone = dict.fromkeys(set(found.configuration) - set(component.configuration))  # None removes a setting
        client.update_stack_component(order.name, kind, configuration={**component.configuration, **gone})
    if connector is not None and component.resource:
        _, _, resource = component.resource.partition("/")
        client.update_stack_component(
            order.name, kind, connector_id=connector.id, connector_resource_id=resource or None
        )
    elif action.does == "update":
        client.update_stack_component(order.name, kind, disconnect=True)


def _register_stack(order: Order, action: Action) -> None:
    components = {StackComponentType(kind): order.name for kind in order.config.components}
    labels = {LABEL: order.made_from.model_dump_json()}
    if action.does == "create":
        Client().create_stack(order.name, components, labels=labels)
    elif action.does == "update":
        Client().update_stack(order.name, component_updates=components, labels=labels)
