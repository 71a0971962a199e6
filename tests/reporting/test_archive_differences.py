from dataclasses import replace
from typing import Any

from llm_engineering.reporting.differences import compare_archives
from llm_engineering.tracking.archives import ArchivedExperiment

FIRST = ArchivedExperiment(
    key="a",
    name="toy-dpo",
    tags=("toy",),
    parameters={"dpo.beta": 0.1, "seed": 1},
    metrics={"loss": [(1, 0.7), (2, 0.5)], "sys.cpu": [(1, 3.0)]},
    others={"git_commit": "abc", "held_out_fingerprint": "rows"},
    assets=(),
)


def other(**changes: Any) -> ArchivedExperiment:
    return replace(FIRST, key="b", **changes)


def test_what_differs_is_said_in_one_line() -> None:
    found = compare_archives(FIRST, other(parameters={"dpo.beta": 0.3, "seed": 1}))
    assert found.headline == "dpo.beta 0.1 → 0.3; nothing else differs that shapes results."


def test_an_archive_does_not_differ_from_itself() -> None:
    assert compare_archives(FIRST, FIRST).headline == "Nothing differs."


def test_series_are_compared_by_their_ends_and_the_machine_is_left_out() -> None:
    (pair,) = compare_archives(FIRST, other(metrics={"loss": [(1, 0.6), (2, 0.25)]})).metrics
    assert (pair.metric, pair.left.value, pair.right.value) == ("loss", 0.5, 0.25)  # type: ignore[union-attr]


def test_other_rows_other_code_and_another_seed_are_told_apart() -> None:
    found = compare_archives(
        FIRST,
        other(parameters={"dpo.beta": 0.1, "seed": 2}, others={"git_commit": "def", "held_out_fingerprint": "more"}),
    )
    assert [section.subject for section in found.sections if section.differences] == ["Data", "Code", "Seeds"]
    assert found.measured_alike is False
