"""What becomes of the steps of a run, for whoever shows it: facts that travel as records of the log.

ZenML calls its hooks for steps that it executes and not for those that it takes from its cache, so of runs in this
process its log is read. Only this module knows how ZenML words it.
"""

import logging
import re
from dataclasses import dataclass
from typing import Literal

State = Literal["begun", "finished", "cached"]
_log = logging.getLogger(__name__)
_SENTENCES: dict[State, re.Pattern[str]] = {
    "begun": re.compile(r"Step `(?P<name>.+)` has started"),
    "finished": re.compile(r"Step `(?P<name>.+)` has finished in `(?P<took>.+)`"),
    "cached": re.compile(r"Using cached version of step `(?P<name>.+)`"),
}


@dataclass(frozen=True)
class StepFact:
    """What has become of one step."""

    name: str
    state: State
    took: str = ""
    """The time that a finished step took, in words."""


def tell(fact: StepFact) -> None:
    """Say what has become of a step that runs elsewhere."""
    _log.info("%s", fact)


def fact_of(record: logging.LogRecord) -> StepFact | None:
    """Return what a record says of a step; None where it says something else."""
    if isinstance(record.args, tuple) and record.args and isinstance(record.args[0], StepFact):
        return record.args[0]
    if record.name.startswith("zenml."):
        for state, sentence in _SENTENCES.items():
            if found := sentence.search(record.getMessage()):
                return StepFact(state=state, **found.groupdict())
    return None
