"""Functions that a configuration names by ``module:function``: the user's own, or this project's."""

import importlib
from collections.abc import Callable
from typing import Any

from llm_engineering.errors import ConfigError


def load_function(kind: str, name: str, others: str, takes: str) -> Callable[..., Any]:
    """Return the function that is named by ``package.module:function``.

    Args:
        kind: What it is to be, such as ``checker``.
        name: Its name.
        others: What else might be named, in words.
        takes: What such a function takes, in words.

    Raises:
        ConfigError: There is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigError(
            f"The {kind} {name!r} cannot be loaded ({type(error).__name__}: {error}). Use {others} or "
            "package.module:function; a module of yours is looked for in the working directory too."
        ) from error
    if not callable(found):
        raise ConfigError(f"The {kind} {name!r} is no function. Name one that takes {takes}.")
    function_found: Callable[..., Any] = found
    return function_found
