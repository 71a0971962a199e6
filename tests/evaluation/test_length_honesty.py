from math import isnan, nan

import pytest

from llm_engineering.reports.evaluation import Metric
from llm_engineering.scoring.measures import length_baselines, pair_outcomes
from llm_engineering.scoring.pairs import ScoredPair, length_note

LENGTHS = [(10, 9), (10, 5), (4, 8), (5, 5)]
"""Like length and chosen longer; chosen longer; chosen shorter; equal."""
UNITS = ["a", "b", "c", "d"]


def ranking(logps, lengths, units):
    return pair_outcomes("pair", [ScoredPair(*each) for each in zip(logps, lengths, strict=True)], units)


def rewards(policy, parent, beta, lengths, units):
    pairs = [ScoredPair(own, of, before, beta) for own, before, of in zip(policy, parent, lengths, strict=True)]
    return pair_outcomes("rewarded pair", pairs, units)


def test_a_pair_is_ranked_by_log_probability_per_token():
    # per token: -1 against -1.1 right; -2 against -1 wrong; -0.5 against -1 right; -1 against -1 is a tie: wrong
    logps = [(-10.0, -9.9), (-20.0, -5.0), (-2.0, -8.0), (-5.0, -5.0)]
    assert ranking(logps, LENGTHS, UNITS) == {
        "ranking_accuracy": [1.0, 0.0, 1.0, 0.0],
        "ranking_accuracy_like_length": [1.0, 0.0],  # 10 and 9 tokens: a tenth of the longer one; 5 and 5
        "ranking_accuracy_chosen_longer": [1.0, 0.0],
        "ranking_accuracy_chosen_shorter": [1.0],
    }


def test_pairs_of_one_unit_are_averaged_first():
    logps = [(-10.0, -9.9), (-20.0, -5.0), (-2.0, -8.0), (-5.0, -5.0)]
    found = ranking(logps, LENGTHS, ["a", "a", "c", "c"])
    assert found["ranking_accuracy"] == [0.5, 0.5]
    assert found["ranking_accuracy_chosen_longer"] == [0.5]


def test_rewards_are_beta_times_the_log_ratios():
    policy, reference = [(-8.0, -12.0), (-9.0, -6.0)], [(-10.0, -10.0), (-10.0, -10.0)]
    found = rewards(policy, reference, 0.5, [(4, 4), (6, 3)], ["a", "b"])
    assert found["chosen_reward"] == [1.0, 0.5]  # .5 (-8 + 10), .5 (-9 + 10)
    assert found["rejected_reward"] == [-1.0, 2.0]  # .5 (-12 + 10), .5 (-6 + 10)
    assert found["preference_margin"] == [2.0, -1.5]
    assert found["preference_accuracy"] == [1.0, 0.0]
    assert found["preference_accuracy_like_length"] == [1.0]
    assert found["preference_accuracy_chosen_longer"] == [0.0]
    assert "preference_accuracy_chosen_shorter" not in found


def test_a_log_probability_that_is_no_number_is_no_win_and_no_loss():
    found = ranking([(nan, -1.0), (-1.0, -2.0)], [(2, 2), (2, 2)], ["a", "b"])
    assert isnan(found["ranking_accuracy"][0])
    assert found["ranking_accuracy"][1] == 1.0
    margins = rewards([(nan, -1.0)], [(-1.0, -1.0)], 0.1, [(2, 2)], ["a"])
    assert all(isnan(values[0]) for name, values in margins.items() if name != "rejected_reward")


def test_the_longer_answer_is_guessed_with_equal_lengths_as_a_half():
    found = length_baselines(LENGTHS, UNITS)
    assert found["chosen_longer"].value == 0.5  # 2 of 4
    assert found["longer_wins"].value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert isinstance(found["longer_wins"], Metric)
    assert found["longer_wins"].units == 4


def test_it_is_said_where_no_pair_has_answers_of_like_length():
    assert length_note(LENGTHS) is None
    assert length_note([]) is None
    note = length_note([(10, 5), (4, 8)])
    assert note is not None
    assert "within 10% of the longer one's tokens" in note
