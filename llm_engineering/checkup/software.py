"""Python, the packages against their pins, and the commands beside them."""

import platform
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from llm_engineering.checkup.finding import Finding
from llm_engineering.requirements import canonical, read_pins

INSTALL = "Run `make install`, and use .venv/bin/python."
LISTED = 6
"""Packages that a line names; the others are counted."""


def examine_python(project: Path) -> Iterator[Finding]:
    """Compare Python with what the project asks for."""
    from packaging.specifiers import SpecifierSet

    wanted = _project(project)["requires-python"]
    text = f"{platform.python_version()} at {sys.executable}"
    if platform.python_version() in SpecifierSet(wanted):
        yield Finding("Python", "ok", text)
    else:
        yield Finding("Python", "problem", f"{text}; {wanted} is needed", "Run `make install PYTHON=python3.12`.")


def examine_packages(project: Path, constraints: Path) -> Iterator[Finding]:
    """Compare what is installed with the pins: every package that a run needs, directly or through others."""
    pins = read_pins(constraints.read_text(encoding="utf-8"))
    found = _project(project)
    installed, missing = installed_closure([*found["dependencies"], *found["optional-dependencies"]["pipeline"]])
    other = {name: f"{name} {version} (pinned: {pins[name]})" for name, version in installed.items() if name in pins}
    other = {name: text for name, text in other.items() if public(installed[name]) != pins[name]}
    if missing:
        yield Finding("packages", "problem", f"not installed: {_named(sorted(missing))}", INSTALL)
    if other:
        text = f"another version than the pinned one: {_named(list(other.values()))}"
        yield Finding("packages", "note", text, f"The tests know the pinned versions alone. {INSTALL}")
    if not missing and not other:
        yield Finding("packages", "ok", f"{len(installed)} packages, all as pinned")


def _project(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return found


def _named(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def public(version: str) -> str:
    """Return a version without its local part, such as ``+cpu``."""
    return version.partition("+")[0]


def installed_closure(requirements: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """Return the versions of what is installed of requirements and all that they require, and what is missing."""
    from packaging.requirements import Requirement

    installed: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        wanted, for_extra = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": for_extra}):
            continue
        for extra in ("", *wanted.extras):
            if (key := (canonical(wanted.name), extra)) in seen:
                continue
            seen.add(key)
            try:
                found = distribution(wanted.name)
            except PackageNotFoundError:
                missing.add(key[0])
                continue
            installed[key[0]] = found.version
            waiting += [(Requirement(text), extra) for text in found.requires or ()]
    return installed, missing


def examine_commands() -> Iterator[Finding]:
    """Look for the commands that the project calls."""
    lacks = {
        "make": "The commands of the Makefile can be run by hand: read them there, or install make.",
        "git": "Install git: without it, runs are not marked with the commit of this checkout.",
    }
    for name, remedy in lacks.items():
        if path := shutil.which(name):
            yield Finding(name, "ok", path)
        else:
            yield Finding(name, "note", "not found", remedy)
