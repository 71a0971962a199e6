import math

import pytest

from llm_engineering.reporting.data_views import findings, length_bias
from llm_engineering.reports.data import DataAudit, DatasetReport, Overlap, PreferenceAudit


def audit_of(longer_wins: float, **changes: float) -> PreferenceAudit:
    values = {"pairs": 100, "identical": 0, "contradictory": 0, "chosen_longer": 0.5, "overlap": 0.25} | changes
    return PreferenceAudit.model_validate(values | {"longer_wins": longer_wins})


def said(audit: DataAudit) -> str:
    return "\n".join(f"{'!' if finding.warning else '·'} {finding.text}" for finding in findings(audit))


@pytest.mark.parametrize(
    ("longer_wins", "warning", "words"),
    [
        (0.65, True, "DPO may learn to write at length"),
        (0.649, False, "length alone does not predict the preference"),
        (0.351, False, "length alone does not predict the preference"),
        (0.35, True, "the shorter one wins"),
    ],
)
def test_a_strong_length_bias_is_a_warning(longer_wins: float, warning: bool, words: str) -> None:
    finding = length_bias(audit_of(longer_wins))
    assert finding.warning is warning
    assert words in finding.text


def test_pairs_without_a_signal_are_named() -> None:
    audit = DataAudit(similarity=0.9, texts={}, preference=audit_of(0.5, identical=1, contradictory=1200))
    assert "Pairs without a signal: 1 pair prefers an answer to itself and 1,200 contradict an earlier one." in said(
        audit
    )
    clean = DataAudit(similarity=0.9, texts={}, preference=audit_of(0.5))
    assert "without a signal" not in said(clean)
    assert "share 25.0 % of their words" in said(clean)


def test_a_preference_set_without_pairs_says_nothing() -> None:
    empty = PreferenceAudit(
        pairs=0, identical=0, contradictory=0, chosen_longer=math.nan, longer_wins=math.nan, overlap=math.nan
    )
    assert findings(DataAudit(similarity=0.9, texts={}, preference=empty)) == []


def test_leaks_are_a_warning_and_sets_that_may_share_prompts_are_not() -> None:
    shared = Overlap(first="preference/train", second="sft/train", exact=9, near=9)
    leak = Overlap(first="sft/train", second="preference/test", exact=5, near=2)
    clean = leak.model_copy(update={"exact": 0, "near": 0})
    assert said(DataAudit(similarity=0.9, texts={}, overlaps=[shared, leak])) == (
        "! Held-out prompts stood in training sets: 5 of sft/train in preference/test and nearly 2 more. "
        "Such training rows are left out."
    )
    assert said(DataAudit(similarity=0.9, texts={}, overlaps=[shared, clean])) == (
        "· No prompt of a training set is held out elsewhere, exactly or nearly."
    )
    assert "; 2 more such overlaps." in said(DataAudit(similarity=0.9, texts={}, overlaps=[leak] * 5))


def test_secret_keys_and_invisible_characters_are_warnings(rich_data: DatasetReport) -> None:
    assert rich_data.audit is not None
    lines = said(rich_data.audit).splitlines()
    assert (
        "! Among 219,100 SFT examples there is something like an e-mail address in 122, a telephone number in 31, "
        "a secret key in 2; it is masked in reports, not in what is trained on."
    ) in lines
    assert "! 17 of 219,100 SFT examples have control or invisible characters." in lines
    assert [line[0] for line in lines if "Among 25,000 preference pairs" in line] == ["·"]
