from math import exp, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.scoring.intervals import by_unit, mean, proportion, rate
from llm_engineering.scoring.measures import sum_metrics, summarise


def divergence(nats, tokens, units):
    return sum_metrics("sample sums", nats, tokens, units)[0]


def held_out_loss(nats, tokens, units):
    return sum_metrics("row sums", nats, tokens, units)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3: Wilson's score interval at 95 %
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_is_that_of_the_literature(hits, of, low, high):
    metric = proportion([1.0] * hits + [0.0] * (of - hits))
    assert (metric.value, metric.units) == (hits / of, of)
    assert (metric.low, metric.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_perfect_rate_has_an_interval_below_one():
    # 4 of 4: the lower end is n / (n + z^2) = 4 / (4 + 3.8415)
    metric = proportion([1.0] * 4)
    assert (metric.value, metric.high) == (1.0, 1.0)
    assert metric.low == pytest.approx(4 / (4 + 3.8415), abs=1e-4)


def test_bootstrap_is_the_same_at_every_call_and_holds_the_mean():
    values = [0.0, 1.0, 2.0, 3.0, 10.0]
    metric = mean(values)
    assert metric == mean(values)
    assert (metric.value, metric.units) == (3.2, 5)
    assert 0.0 <= metric.low < 3.2 < metric.high <= 10.0


def test_bootstrap_comes_near_the_normal_interval_on_many_values():
    # 0, 1, ..., 999: mean 499.5, standard error 288.7 / sqrt(1000) = 9.13, 1.96 of them are 17.9
    metric = mean([float(i) for i in range(1000)])
    assert metric.low == pytest.approx(499.5 - 17.9, abs=2)
    assert metric.high == pytest.approx(499.5 + 17.9, abs=2)


def test_one_value_has_no_interval():
    metric = mean([0.25])
    assert (metric.value, metric.low, metric.high, metric.units) == (0.25, None, None, 1)


def test_equal_values_have_an_interval_of_no_width():
    assert (mean([2.0, 2.0, 2.0]).low, mean([2.0, 2.0, 2.0]).high) == (2.0, 2.0)


def test_rate_takes_wilson_for_zeros_and_ones_and_the_bootstrap_for_shares():
    assert rate([0.0, 1.0, 1.0]) == proportion([0.0, 1.0, 1.0])
    assert rate([0.0, 0.5, 1.0]) == mean([0.0, 0.5, 1.0])


def test_answers_of_one_unit_are_averaged_in_the_order_of_the_units():
    # b: (1 + 0) / 2, a: (1 + 1 + 0.25) / 3
    assert by_unit([1.0, 1.0, 0.0, 1.0, 0.25], ["b", "a", "b", "a", "a"]) == [0.5, 0.75]


def test_values_and_units_have_to_match():
    with pytest.raises(ValueError, match="shorter"):
        by_unit([1.0, 2.0], ["a"])


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_wilson_interval_holds_the_rate(outcomes):
    metric = proportion(outcomes)
    assert 0.0 <= metric.low <= metric.value + 1e-12
    assert metric.value - 1e-12 <= metric.high <= 1.0


def test_kl_a_token_is_all_nats_over_all_tokens_and_a_long_answer_weighs_as_it_is_long():
    # 4 nats in 2 tokens, 2 in 8: 6 / 10 a token, 6 / 2 an answer; the mean of the two rates would be 1.125
    found = divergence([4.0, 2.0], [2, 8], ["a", "b"])
    assert found["kl_per_token"].value == pytest.approx(0.6)
    assert found["kl_per_answer"].value == pytest.approx(3.0)
    # resampled units give 2 / 8 at least and 4 / 2 at most
    assert (found["kl_per_token"].low, found["kl_per_token"].high) == (0.25, 2.0)
    assert (found["kl_per_answer"].low, found["kl_per_answer"].high) == (2.0, 4.0)


def test_answers_of_one_unit_are_resampled_together():
    found = divergence([4.0, 2.0, 3.0], [2, 8, 5], ["a", "b", "a"])
    assert {metric.units for metric in found.values()} == {2}
    assert found["kl_per_answer"].value == pytest.approx(3.0)
    assert found["kl_per_answer"].high == 3.5  # a alone: (4 + 3) / 2
    alone = divergence([4.0, 3.0], [2, 5], ["a", "a"])["kl_per_token"]
    assert (alone.value, alone.low, alone.high) == (1.0, None, None)


def test_kl_of_answers_without_a_token_is_not_measured():
    assert divergence([0.0], [0], ["a"]) == {}


def test_held_out_loss_is_all_nats_over_all_tokens_with_an_interval_over_the_units():
    # unit a: 4 + 2 nats in 2 + 4 tokens, unit b: 6 nats in 2 tokens; 12 / 8 a token, 4 tokens a unit
    metrics, outcomes = held_out_loss([4.0, 6.0, 2.0], [2, 2, 4], ["a", "b", "a"])
    loss, perplexity = metrics["held_out_loss"], metrics["perplexity"]
    assert (loss.value, loss.units) == (1.5, 2)
    assert (loss.low, loss.high) == (1.0, 3.0)  # a alone, b alone
    assert outcomes == {"held_out_loss": [6 / 4, 6 / 4]}
    assert sum(outcomes["held_out_loss"]) / 2 == loss.value
    assert (perplexity.value, perplexity.low, perplexity.high) == (exp(1.5), exp(1.0), exp(3.0))


def test_one_unit_has_a_loss_without_an_interval():
    metrics, _ = held_out_loss([4.0], [2], ["a"])
    assert (metrics["held_out_loss"].value, metrics["held_out_loss"].low) == (2.0, None)
    assert (metrics["perplexity"].value, metrics["perplexity"].low) == (exp(2.0), None)


def test_numbers_that_are_none_are_never_averaged_away():
    assert isnan(mean([1.0, nan]).value)
    assert mean([1.0, nan, 1.0]).low is None
    assert isnan(rate([1.0, nan]).value)
    metrics, outcomes = held_out_loss([1.0, nan], [1, 1], ["a", "b"])
    assert isnan(metrics["held_out_loss"].value)
    assert isnan(metrics["perplexity"].value)
    assert outcomes["held_out_loss"][0] == 1.0
    assert isnan(divergence([nan, 1.0], [1, 1], ["a", "b"])["kl_per_token"].value)


def test_rates_have_wilson_intervals_and_the_rest_the_bootstrap_sampled_or_not():
    values = [1.0, 0.0, 1.0]
    rates = ("answer_accuracy", "sampled_refusals", "ranking_accuracy_like_length", "preference_accuracy")
    found = summarise(dict.fromkeys((*rates, "answer_tokens", "preference_margin"), values))
    assert {name for name, metric in found.items() if metric == proportion(values)} == set(rates)
    assert found["answer_tokens"] == mean(values)
