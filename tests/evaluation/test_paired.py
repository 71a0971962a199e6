from math import isnan, nan, sqrt

import pytest

from llm_engineering.evaluation.paired import paired_difference, paired_differences
from llm_engineering.reports.evaluation import Metric, ModelScores


def binary(both, won, lost, neither):
    left = [1.0] * (both + won) + [0.0] * (lost + neither)
    right = [1.0] * both + [0.0] * won + [1.0] * lost + [0.0] * neither
    return paired_difference("dpo", "sft", "answer_accuracy", left, right)


def test_rates_get_the_exact_mcnemar_test() -> None:
    # 9 units that one model alone got right, 1 the other: 2 * (C(10,0) + C(10,1)) / 2**10
    assert binary(both=30, won=9, lost=1, neither=10).p_value == pytest.approx(2 * (1 + 10) / 1024)


def test_the_interval_of_a_difference_of_rates_is_newcombes() -> None:
    found = binary(both=20, won=12, lost=2, neither=16)
    assert (found.difference, found.low, found.high) == (pytest.approx(0.20), *map(pytest.approx, EXPECTED))


# Newcombe's method 10, 20, 12, 2, 16 units, written out: Wilson intervals of 32/50 and 22/50;
# phi = (20*16 - 12*2 - 25) / sqrt(32*18*22*28)
def wilson(hits, n, z=1.959963984540054):
    p, centre = hits / n, (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * sqrt(n * p * (1 - p) + z * z / 4)
    return p, centre - half, centre + half


P1, L1, U1 = wilson(32, 50)
P2, L2, U2 = wilson(22, 50)
PHI = (20 * 16 - 12 * 2 - 25) / sqrt(32 * 18 * 22 * 28)
EXPECTED = (
    P1 - P2 - sqrt((P1 - L1) ** 2 - 2 * PHI * (P1 - L1) * (U2 - P2) + (U2 - P2) ** 2),
    P1 - P2 + sqrt((U1 - P1) ** 2 - 2 * PHI * (U1 - P1) * (P2 - L2) + (P2 - L2) ** 2),
)


def test_no_unit_that_differs_still_leaves_an_interval() -> None:
    found = binary(both=10, won=0, lost=0, neither=0)
    assert found.p_value == 1.0
    assert found.low < -0.2
    assert found.high > 0.2


def test_other_values_get_a_sign_flip_test() -> None:
    # all 2**5 flips: the sum 15 and its mirror are the most extreme ones
    found = paired_difference("a", "b", "repetition", [0.1, 0.2, 0.3, 0.4, 0.5], [0.0] * 5)
    assert found.difference == pytest.approx(0.3)
    assert found.p_value == pytest.approx(2 / 32)
    assert 0.1 <= found.low <= 0.3 <= found.high <= 0.5


def test_one_unit_shows_a_difference_and_no_more() -> None:
    found = paired_difference("a", "b", "repetition", [0.5], [0.25])
    assert (found.difference, found.low, found.p_value, found.units) == (0.25, None, None, 1)


def test_only_metrics_that_both_models_have_are_compared() -> None:
    metric = Metric(value=1.0, units=2)
    left = ModelScores(checkpoint_sha256="a", metrics={"x": metric}, outcomes={"x": [1.0, 1.0], "y": [0.5, 0.5]})
    right = ModelScores(checkpoint_sha256="b", metrics={"x": metric}, outcomes={"x": [1.0, 0.0]})
    assert [(d.metric, d.difference) for d in paired_differences("a", "b", (left, right))] == [("x", 0.5)]


def test_numbers_that_are_none_give_no_difference_to_rely_on() -> None:
    found = paired_difference("a", "b", "held_out_loss", [1.0, nan], [1.0, 1.0])
    assert isnan(found.difference)
    assert (found.low, found.high, found.p_value) == (None, None, None)
