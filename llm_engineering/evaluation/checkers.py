"""Programs that judge an answer against a reference."""

import importlib
import re
from collections.abc import Callable

from llm_engineering.artifacts import Judgement
from llm_engineering.errors import ConfigError

Checker = Callable[[str, str], Judgement]
_NUMBER = re.compile(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?")


def _verdict(correct: bool) -> Judgement:
    return Judgement(correct=correct, preferred=correct, score=float(correct))


def exact(answer: str, reference: str) -> Judgement:
    """Judge an answer right if it equals the reference, case and spacing apart."""
    return _verdict(" ".join(answer.casefold().split()) == " ".join(reference.casefold().split()))


def numeric(answer: str, reference: str) -> Judgement:
    """Judge an answer right if its last number equals the reference's last number."""
    numbers = [_NUMBER.findall(text) for text in (answer, reference)]
    values = [float(found[-1].replace(",", "")) if found else None for found in numbers]
    return _verdict(values[0] is not None and values[0] == values[1])


CHECKERS: dict[str, Checker] = {"exact": exact, "numeric": numeric}


def load_checker(name: str) -> Checker:
    """Return a checker by its name, or by ``package.module:function``.

    Raises:
        ConfigError: There is no such checker.
    """
    if name in CHECKERS:
        return CHECKERS[name]
    module, _, function = name.partition(":")
    try:
        checker = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"The checker {name!r} cannot be found ({error}). Use {', '.join(CHECKERS)} or package.module:function."
        ) from error
    if not callable(checker):
        raise ConfigError(f"The checker {name!r} is no function. Name one that takes an answer and a reference.")
    found: Checker = checker
    return found
