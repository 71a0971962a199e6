"""Programs that judge an answer against a reference."""

import importlib
import re
from collections.abc import Callable
from functools import wraps

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
        ConfigError: There is no such checker; the one that is returned raises it for an answer that it cannot judge.
    """
    if name in CHECKERS:
        return CHECKERS[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigError(
            f"The checker {name!r} cannot be loaded ({type(error).__name__}: {error}). Use {', '.join(CHECKERS)} or "
            "package.module:function; a module of yours is looked for in the working directory too."
        ) from error
    if not callable(found):
        raise ConfigError(f"The checker {name!r} is no function. Name one that takes an answer and a reference.")
    return _guarded(name, found)


def _guarded(name: str, checker: Callable[[str, str], object]) -> Checker:
    """Return a checker whose faults name it and the answer that it stumbled over."""

    @wraps(checker)
    def judge(answer: str, reference: str) -> Judgement:
        try:
            verdict = checker(answer, reference)
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise ConfigError(
                f"The checker {name} raised {type(error).__name__} ({error}) on the answer {answer[:80]!r}. Mend it; "
                "finished steps are kept."
            ) from error
        if not isinstance(verdict, Judgement):
            raise ConfigError(
                f"The checker {name} returned {type(verdict).__name__}, not a Judgement, for the answer "
                f"{answer[:80]!r}. Return llm_engineering.artifacts.Judgement."
            )
        return verdict

    return judge
