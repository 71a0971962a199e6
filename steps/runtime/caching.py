"""What a cached result depends on, beside parameters and inputs: the library code that a step uses, and packages.

ZenML's own cache key holds the source of the step function alone. Here every step depends on all modules that it
imports, directly or through others, on the templates beside them, and on the versions of the packages that compute.
"""

import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zenml.config.cache_policy import CachePolicy
from zenml.steps import BaseStep

from llm_engineering.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl")
BACKEND_PACKAGES = ("unsloth", "unsloth_zoo")
"""Count where they are imported: they patch the others."""


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
    """Return the step with a cache policy that covers the code it uses."""
    module = step.resolve().module
    patched = any(name in sys.modules for name in BACKEND_PACKAGES)
    versions = package_versions_with_backend if patched else package_versions
    policy = CachePolicy(file_dependencies=list(code_dependencies(module)), cache_func=versions)
    return step.with_options(cache_policy=policy)


@cache
def code_dependencies(module: str) -> tuple[str, ...]:
    """Return the files that a module and everything it imports of this project consist of, relative to the root."""
    graph = _import_graph()
    files: set[Path] = set()
    for name in {module, *graph.find_upstream_modules(module)}:
        path = REPOSITORY.joinpath(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        files |= {source, *(p for p in (source.parent / "templates").glob("*") if p.is_file())}
    return tuple(sorted(file.relative_to(REPOSITORY).as_posix() for file in files))


@cache
def _import_graph() -> Any:
    import grimp

    return grimp.build_graph("llm_engineering", "steps", exclude_type_checking_imports=True, cache_dir=None)


def checker_hash(name: str | None, kind: str = "checker") -> str:
    """Return the hash of the module that a checker, or a loss, is in: it is found by name, so that no import shows it.

    Raises:
        ConfigError: The module cannot be found.
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
    import hashlib

    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
