"""Where the steps of a run are executed, as the active ZenML stack says."""

from collections.abc import Iterable
from dataclasses import dataclass

from zenml.client import Client
from zenml.enums import StackComponentType

LOCAL = "local"
"""The flavor of the orchestrator that runs steps in the process that submits them."""


@dataclass(frozen=True)
class Place:
    """Where steps are executed."""

    here: bool
    """All in the process that submits the run, so that they see its files, its GPU and its environment."""
    orchestrated_here: bool
    """The process that submits the run starts the steps: the run ends with it."""
    variables: frozenset[str] = frozenset()
    """The environment variables that the stack gives its steps, from its settings or from ZenML secrets."""


HERE = Place(here=True, orchestrated_here=True)


def place_of_steps(environment: Iterable[str] = (), secrets: Iterable[str] = ()) -> Place:
    """Return where the active stack executes steps; a stack with a step operator has them elsewhere.

    Args:
        environment: Variables that a run gives its steps beside those of the stack.
        secrets: ZenML secrets whose values become variables likewise.
    """
    stack = Client().active_stack_model
    orchestrator = stack.components[StackComponentType.ORCHESTRATOR][0]
    is_local = orchestrator.flavor_name == LOCAL
    if is_local and not stack.components.get(StackComponentType.STEP_OPERATOR):
        return HERE
    components = [component for several in stack.components.values() for component in several]
    named = {*secrets, *stack.secrets, *(secret for component in components for secret in component.secrets)}
    given = {*environment, *stack.environment, *(name for component in components for name in component.environment)}
    given |= {name for secret in named for name in Client().get_secret(str(secret)).secret_values}
    return Place(here=False, orchestrated_here=is_local, variables=frozenset(given))
