"""What a platform was asked to run, in words that all platforms share."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class Posted:
    """A container that somebody asked a platform to run."""

    name: str
    image: str
    command: Sequence[str]
    environment: Mapping[str, str]
    """The variables whose values stand in the request; not those that it takes from a secret."""
    machine: str | None = None
    """The type of machine, where the platform is asked for one by name."""
    gpus: int | None = None
    """How many GPUs the request names; None where the type of the machine says it."""
    after: frozenset[str] | None = None
    """The steps that it has to wait for; None where the platform is not told and somebody else sees to the order."""

    @property
    def step(self) -> str | None:
        """The step that it runs; None for a process that starts the others."""
        return step_of(self.command)


def step_of(command: Sequence[str]) -> str | None:
    """Return the step that a command of ZenML's runs."""
    with suppress(ValueError, IndexError):
        return command[command.index("--step_name") + 1]
    return None


@dataclass(frozen=True)
class Limits:
    """What a platform allows of a container's environment."""

    variables: int
    characters: int
    """Of one value."""


class Cloud(Protocol):
    """An account of nobody's at a cloud, with an empty bucket."""

    @property
    def environment(self) -> Mapping[str, str]:
        """By which variables whoever submits finds it."""

    @property
    def job_environment(self) -> Mapping[str, str]:
        """By which variables a job finds it, and the server."""

    @property
    def values(self) -> Mapping[str, str]:
        """What stands for the values that stacks of this cloud ask for, by the placeholders' names."""

    @property
    def secrets(self) -> Mapping[str, str]:
        """What must stand in no request, by what it is."""

    def latest(self, prefix: str) -> BinaryIO | None:
        """Return the content of what was stored last under a prefix; None where there is nothing."""


class StandIn(Protocol):
    """What every stand-in can say and do."""

    @property
    def environment(self) -> Mapping[str, str]:
        """By which variables a client finds it."""

    @property
    def values(self) -> Mapping[str, str]:
        """What stands for the values that stacks of this platform ask for, by the placeholders' names."""

    @property
    def limits(self) -> Limits | None:
        """What it allows of environments; None where there is no limit that anybody meets."""

    def posted(self) -> list[Posted]:
        """Return what it was asked to run."""

    def finish(self) -> None:
        """Wait until nothing runs that it was asked for."""
