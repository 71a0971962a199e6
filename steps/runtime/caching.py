"""What a cached result depends on, beside parameters and inputs: the code that a step uses, and packages.

ZenML's own cache key holds the text of the step function alone. Here every step depends on what the modules mean that
it imports, directly or through others, on the templates beside them, and on the versions of the packages that compute.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zenml.config.cache_policy import CachePolicy
from zenml.steps import BaseStep

from llm_engineering.errors import ConfigError
from steps.runtime.meaning import meaning_of

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl")
BACKEND_PACKAGES = ("unsloth", "unsloth_zoo")
"""Count where they are imported: they patch the others."""
SHAPES_NOTHING = (
    "llm_engineering.errors",
    "llm_engineering.progress",
    "llm_engineering.tracking",
    "llm_engineering.config.tracking",
    "llm_engineering.config.hardware",
    "llm_engineering.training.launcher",
    "llm_engineering.training.upstream",
    "llm_engineering.training.processes.link",
    "llm_engineering.training.processes.task",
    "steps.runtime",
)
"""Rooms and modules that say what happens, check, keep or fetch files, or start processes; with their settings."""
SHAPING = {"steps.runtime.stages"}
"""What of these rooms shapes results all the same."""


def package_versions() -> str:
    """Return the versions of :data:`PACKAGES` as the one text that a cache key takes.

    A build's own suffix (``2.13.0+cpu``) is no part of it: the key is computed by the machine that submits and by the
    one that runs the step, and torch has another build on each.
    """
    return _as_text(PACKAGES)


def package_versions_with_backend() -> str:
    """Return the same with the packages of the backend that patches the others, imported here or not."""
    installed = {name for name in BACKEND_PACKAGES if any(True for _ in distributions(name=name))}
    return _as_text((*PACKAGES, *sorted(installed)))


def _as_text(names: Iterable[str]) -> str:
    from packaging.version import Version

    return " ".join(f"{name}={Version(version(name)).public}" for name in names)


def packages() -> dict[str, str]:
    """Return the versions of the packages that decide about a step's result."""
    names = (*PACKAGES, *(name for name in BACKEND_PACKAGES if name in sys.modules))
    return {name: version(name) for name in names}


def with_code_dependencies(step: BaseStep) -> BaseStep:
    """Return the step with a cache policy that covers the code it uses, by what it means and not by its text."""
    module = step.resolve().module
    patched = any(name in sys.modules for name in BACKEND_PACKAGES)
    function = f"{__name__}.{_PATCHED if patched else ''}{module.rpartition('.')[2]}"
    return step.with_options(cache_policy=CachePolicy(include_step_code=False, cache_func=function))


_PATCHED = "patched_"


def __getattr__(name: str) -> Callable[[], str]:
    """Return the function for a step's cache key: ``train_sft``, and ``patched_train_sft`` under a backend's patches.

    ZenML calls it without arguments and finds it by its import path, where a run is submitted and where a step runs.
    """
    module = f"steps.{name.removeprefix(_PATCHED)}"
    if find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(_key_of, module, package_versions_with_backend if name.startswith(_PATCHED) else package_versions)


def _key_of(module: str, versions: Callable[[], str]) -> str:
    return "\n".join([versions(), *(f"{file} {digest}" for file, digest in code_digests(module).items())])


def code_digests(module: str) -> dict[str, str]:
    """Return the hash of what each file means that a module depends on, by its path from the root."""
    return {file: _digest_of(REPOSITORY / file) for file in code_dependencies(module)}


def _digest_of(path: Path) -> str:
    state = path.stat()
    return _digest(path, state.st_mtime_ns, state.st_size)


@cache
def _digest(path: Path, changed: int, size: int) -> str:
    content = path.read_bytes()
    return meaning_of(content) if path.suffix == ".py" else hashlib.sha256(content).hexdigest()


@cache
def code_dependencies(module: str) -> tuple[str, ...]:
    """Return the files that shape the results of a module, relative to the root: its own, and of what it imports."""
    files: set[Path] = set()
    for name in _shaping(module):
        path = REPOSITORY.joinpath(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        files |= {source, *(p for p in (source.parent / "templates").glob("*") if p.is_file())}
    return tuple(sorted(file.relative_to(REPOSITORY).as_posix() for file in files))


@cache
def _import_graph() -> Any:
    import grimp

    return grimp.build_graph("llm_engineering", "steps", exclude_type_checking_imports=True, cache_dir=None)


def _shaping(module: str) -> set[str]:
    """Return the modules that shape the results of one: it and, through those that do, what they import."""
    graph, found, ahead = _import_graph(), set[str](), {module}
    while ahead:
        found |= ahead
        imported = {name for each in ahead for name in graph.find_modules_directly_imported_by(each)}
        ahead = {name for name in imported - found if name in SHAPING or not _is_among(name, SHAPES_NOTHING)}
    return found


def _is_among(module: str, rooms: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


def checker_hash(name: str | None, kind: str = "checker") -> str:
    """Return the hash of what the module means that a checker, or a loss, is in: it is named, and no import shows it.

    Raises:
        ConfigError: The module cannot be found, or is no Python.
    """
    if name is None or ":" not in name:
        return ""
    module = name.partition(":")[0]
    try:
        found = find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise ConfigError(f"The {kind} {name!r} cannot be found. Check the module's name and that it is importable.")
    try:
        return _digest_of(Path(found.origin))
    except SyntaxError as error:
        raise ConfigError(f"The {kind} {name!r} cannot be read: {error}. Mend the module.") from error
