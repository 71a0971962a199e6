"""Programs that judge an answer against a reference."""

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING

from llm_engineering.config.own_functions import load_function
from llm_engineering.errors import ConfigError
from llm_engineering.reports.evaluation import Judgement

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

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


def regex(answer: str, reference: str) -> Judgement:
    """Judge an answer right if the pattern that the reference is matches somewhere in it.

    Raises:
        ConfigError: The reference is no pattern of Python's ``re``.
    """
    return _verdict(_pattern(reference).search(answer) is not None)


def json_schema(answer: str, reference: str) -> Judgement:
    """Judge an answer right if it is JSON, and nothing else, that the JSON schema in the reference allows.

    Raises:
        ConfigError: The reference is no JSON schema, or refers to one that it does not hold.
    """
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(answer, parse_constant=_no_json)
        return _verdict(_schema(reference).is_valid(value))
    except Unresolvable as error:
        raise ConfigError(
            f"The JSON schema {reference[:80]!r} refers to {error.ref!r}, which it does not hold. Put that into its "
            "`$defs`: nothing is fetched."
        ) from error
    except (ValueError, RecursionError):  # no JSON, or nested without end
        return _verdict(False)


@lru_cache(maxsize=1024)
def _pattern(reference: str) -> re.Pattern[str]:
    try:
        return re.compile(reference)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{reference[:80]!r} is no regular expression ({error})") from error


@lru_cache(maxsize=1024)
def _schema(reference: str) -> "Validator":
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    try:
        schema = json.loads(reference, parse_constant=_no_json)
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)
    except (SchemaError, ValueError, RecursionError) as error:
        reason = error.message if isinstance(error, SchemaError) else error
        raise ConfigError(f"{reference[:80]!r} is no JSON schema ({reason})") from error
    return kind(schema, registry=Registry())  # one of our own, else references are fetched from the network


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


CHECKERS: dict[str, Checker] = {"exact": exact, "numeric": numeric, "regex": regex, "json_schema": json_schema}
_REFERENCES: dict[Checker, Callable[[str], object]] = {regex: _pattern, json_schema: _schema}
"""What reads the references of checkers that cannot work with just any text."""


def require_references(checker: Checker, questions: Iterable[tuple[str, str]]) -> None:
    """Refuse references that a checker cannot work with, before anything is generated.

    Args:
        checker: One of this module, or a user's, which takes any text.
        questions: Each with its reference.

    Raises:
        ConfigError: Names the first question with such a reference.
    """
    read = _REFERENCES.get(checker)
    if read is None:
        return
    for question, reference in questions:
        try:
            read(reference)
        except ConfigError as error:
            raise ConfigError(
                f"The reference of the question {question[:80]!r} does not fit the checker: {error}. Correct the row's "
                "`reference`, or choose another checker."
            ) from error


def load_checker(name: str) -> Checker:
    """Return a checker by its name, or by ``package.module:function``.

    Raises:
        ConfigError: There is no such checker; the one that is returned raises it for an answer that it cannot judge.
    """
    if name in CHECKERS:
        return CHECKERS[name]
    found = load_function("checker", name, ", ".join(CHECKERS), "an answer and a reference")
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
                f"{answer[:80]!r}. Return llm_engineering.reports.evaluation.Judgement."
            )
        return verdict

    return judge
