from typing import get_args

from llm_engineering.reporting.data_views import Problem, kinds, mix, problems, reconciliation, together
from llm_engineering.reporting.words import REASONS
from llm_engineering.reports.data import DatasetReport, DropReason, SourceLedger


def test_every_reason_has_plain_words_in_the_order_of_the_rules() -> None:
    assert tuple(REASONS) == get_args(DropReason)


def test_the_fates_are_written_as_a_sum_without_those_that_no_row_has() -> None:
    ledger = SourceLedger(kind="sft", source="s", format="f", rows=1100, train=1088, eval=5, dropped={"too long": 7})
    assert reconciliation(ledger) == "1,100 read = 1,088 train + 5 eval + 7 dropped"
    assert reconciliation(SourceLedger(kind="sft", source="s", format="f", rows=0)) == "0 read = 0"


def test_ledgers_add_up(rich_data: DatasetReport) -> None:
    sums = together(rich_data.ledger("sft"))
    assert (sums.rows, sums.train, sums.eval) == (250_350, 198_878, 9_305)
    assert sums.dropped["empty answer"] == 48 + 5
    assert sums.dropped["leaked into evaluation"] == 36 + 2
    assert sums.found == {"exact duplicate": 7}
    assert [(kind, len(own)) for kind, own, _ in kinds(rich_data.sources)] == [("sft", 2), ("preference", 1)]


def test_a_reason_tells_what_was_dropped_what_was_kept_and_the_first_row() -> None:
    ledger = SourceLedger(
        kind="sft",
        source="s",
        format="f",
        rows=3,
        train=2,
        dropped={"too long": 1},
        found={"exact duplicate": 2},
        first_problem={"exact duplicate": "line 2 repeats line 1"},
    )
    assert problems(ledger) == [
        Problem("exact duplicate", dropped=0, kept=2, first="line 2 repeats line 1"),
        Problem("too long", dropped=1, kept=0, first=None),
    ]


def test_the_mix_is_shown_as_asked_and_as_obtained() -> None:
    ledger = SourceLedger(kind="sft", source="s", format="f", rows=0)
    assert mix(ledger) is None
    assert mix(ledger.model_copy(update={"asked": "weight 2"})) == "weight 2 asked"
    assert mix(ledger.model_copy(update={"share": 0.354})) == "35.4 % of training"
    assert mix(ledger.model_copy(update={"asked": "weight 2", "share": 0.354})) == "weight 2 asked, 35.4 % of training"
