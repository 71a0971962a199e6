"""What a step needs of its machine and its run, declared at the step: ``@traits(gpu=True)`` above ``@step``.

ZenML keeps it in the step's configuration, among what is ``extra``: it travels with the step, and is in no cache key.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules

from zenml.config.step_configurations import PartialStepConfiguration
from zenml.steps import BaseStep

_KEY = "traits"


@dataclass(frozen=True)
class Traits:
    """What a step declares; one that declares nothing needs nothing."""

    gpu: bool = False
    """It loads a model's weights: a stack gives it the GPU machine."""
    tracked: str | None = None
    """What its experiment is called in the tracker; None where it has none."""
    resumable: bool = False
    """Its work folder is the same for whoever does the same work, so that a killed run is taken up again."""


def traits(*, gpu: bool = False, tracked: str | None = None, resumable: bool = False) -> Callable[[BaseStep], BaseStep]:
    """Declare what a step needs."""
    declared = asdict(Traits(gpu, tracked, resumable))
    return lambda step: step.configure(extra={_KEY: declared})


def traits_of(configuration: PartialStepConfiguration) -> Traits:
    """Return what a step declares, from its configuration: that of another step of the run is there, too."""
    return Traits(**configuration.extra.get(_KEY, {}))


def all_steps() -> dict[str, BaseStep]:
    """Return every step of this project by its name; for this their modules are imported."""
    folders = import_module("steps").__path__  # by name: an import would make every step depend on all others
    modules = [import_module(f"steps.{found.name}") for found in iter_modules(folders)]
    return {one.name: one for module in modules for one in vars(module).values() if isinstance(one, BaseStep)}


def gpu_steps() -> list[str]:
    """Return the names of the steps that need a GPU."""
    return sorted(name for name, step in all_steps().items() if traits_of(step.configuration).gpu)
