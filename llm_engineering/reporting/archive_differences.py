"""Why two experiments differ, from the offline archives that they left: without Comet and without the runs' store."""

from collections.abc import Iterator

from llm_engineering.reporting.differences import (
    Difference,
    MetricPair,
    RunDifferences,
    Section,
    headline,
    mapping_differences,
    setting_differences,
)
from llm_engineering.reports.evaluation import Metric
from llm_engineering.tracking.archives import ArchivedExperiment, last_values

OF_THE_MACHINE = "sys."
ROWS = ("held_out_fingerprint", "data_fingerprint")
"""What of an experiment tells which rows it saw."""


def compare_archives(left: ArchivedExperiment, right: ArchivedExperiment) -> RunDifferences:
    """Return how two archived experiments differ: settings, rows, code, and the last value of every series."""
    settings = setting_differences(*({k: str(v) for k, v in each.parameters.items()} for each in (left, right)))
    sections = [
        Section(subject="Configuration", differences=[each for each in settings if each.what.split(".")[-1] != "seed"]),
        Section(subject="Data", differences=_others(left, right, ROWS)),
        Section(subject="Code", differences=_others(left, right, ("git_commit",))),
        Section(subject="Seeds", differences=[each for each in settings if each.what.split(".")[-1] == "seed"]),
    ]
    held_out = [each.others.get(ROWS[0]) for each in (left, right)]
    return RunDifferences(
        left=left.name,
        right=right.name,
        headline=headline(sections),
        sections=sections,
        measured_alike=None if None in held_out else held_out[0] == held_out[1],
        metrics=list(_metrics(left, right)),
        answers=[],
    )


def _others(left: ArchivedExperiment, right: ArchivedExperiment, names: tuple[str, ...]) -> list[Difference]:
    told = [{name: str(each.others[name]) for name in names if name in each.others} for each in (left, right)]
    return mapping_differences(*told)


def _metrics(left: ArchivedExperiment, right: ArchivedExperiment) -> Iterator[MetricPair]:
    ends = [last_values(each) for each in (left, right)]
    for name in dict.fromkeys([*ends[0], *ends[1]]):
        if not name.startswith(OF_THE_MACHINE):
            values = [Metric(value=found[name], units=1) if name in found else None for found in ends]
            yield MetricPair(model="", metric=name, left=values[0], right=values[1])
