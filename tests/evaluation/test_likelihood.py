"""Likelihoods by hand where a table gives the logits, and against a plain forward on the embedded base."""

import math

import pytest
import torch

from llm_engineering.scoring import likelihood
from llm_engineering.scoring.likelihood import Divergence, ScoredTokens, divergences, labelled, score_rows

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)
# After token 0: p = 1/2, 1/4, 1/4. After 1: 1/4, 1/4, 1/2. After 2: all alike.
LOGITS = [[LN2, 0.0, 0.0], [0.0, 0.0, LN2], [5.0, 5.0, 5.0]]
UNIFORM = [[0.0, 0.0, 0.0]] * 3


def test_answer_of_a_prompt_is_scored_and_the_prompt_is_not():
    assert labelled([5, 6], [7, 8, 9]) == ([5, 6, 7, 8, 9], [-100, -100, 7, 8, 9])


def test_scores_are_sums_of_log_probabilities_of_the_labelled_tokens(table_model):
    rows = [
        ([0, 1, 2, 0], [-100, 1, 2, 0]),  # 1/4 after 0, 1/2 after 1, 1/3 after 2
        ([0, 0], [-100, 0]),  # 1/2 after 0
        ([0, 1, 2, 1], [-100, -100, -100, 1]),  # 1/3 after 2
        ([1, 2], [-100, -100]),
    ]
    scores = score_rows(table_model(LOGITS), rows)
    assert [score.tokens for score in scores] == [3, 1, 1, 0]
    assert [score.logp for score in scores] == pytest.approx([-LN4 - LN2 - LN3, -LN2, -LN3, 0.0])


def test_first_token_is_never_scored(table_model):
    # nothing predicts it, whatever its label
    (score,) = score_rows(table_model(LOGITS), [([1, 2], [1, 2])])
    assert score == ScoredTokens(pytest.approx(-LN2), 1)


def test_kl_of_a_model_from_itself_is_zero(table_model):
    model = table_model(LOGITS)
    assert divergences(model, model, [([0, 1, 2, 0], [-100, 1, 2, 0])]) == [Divergence(0.0, 3)]


@pytest.mark.parametrize("at_once", [1, 2**23])
def test_kl_is_summed_over_the_labelled_tokens(at_once, table_model, monkeypatch):
    # After 0 or 1 the policy has 1/2, 1/4, 1/4 in some order, the reference 1/3 each:
    # 1/2 ln(3/2) + 2 * 1/4 ln(3/4) = 0.2027 - 0.1438. After 2 both are uniform: 0.
    monkeypatch.setattr(likelihood, "LOGITS_IN_FLOAT32", at_once)
    one = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    rows = [([0, 1, 2, 0], [-100, 1, 2, 0]), ([0, 0], [-100, 0]), ([2, 0], [-100, 0]), ([2, 0], [-100, -100])]
    found = divergences(table_model(LOGITS), table_model(UNIFORM), rows)
    assert [row.nats for row in found] == pytest.approx([2 * one, one, 0.0, 0.0], abs=1e-7)
    assert [row.tokens for row in found] == [3, 1, 1, 0]


def test_kl_is_taken_from_the_policy(table_model):
    # the other way round: 1/3 (ln(2/3) + 2 ln(4/3))
    (row,) = divergences(table_model(UNIFORM), table_model(LOGITS), [([0, 0], [-100, 0])])
    assert row.nats == pytest.approx((math.log(2 / 3) + 2 * math.log(4 / 3)) / 3)


def test_kl_over_whole_answers_is_the_mean_of_those_along_sampled_ones(table_model):
    # Answers of two tokens after 0, listed with their probabilities: the chain rule, in float64
    policy, reference = table_model(LOGITS), table_model([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0], [0.0, 0.0, 2.0]])
    logp, logq = (model.table.detach().double().log_softmax(-1) for model in (policy, reference))
    exact = expected = 0.0
    for first in range(3):
        for second in range(3):
            probability = float((logp[0, first] + logp[first, second]).exp())
            ratio = (logp[0, first] + logp[first, second]) - (logq[0, first] + logq[first, second])
            (row,) = divergences(policy, reference, [labelled([0], [first, second])])
            exact += probability * float(ratio)
            expected += probability * row.nats
    assert exact > 0.2
    assert expected == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("at_once", [1, 1152 * 40, 2**26])
def test_scores_in_batches_equal_a_plain_forward_of_every_row(at_once, monkeypatch, embedded_model, embedded_tokenizer):
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", at_once)
    texts = [
        "The zebra is black.",
        "Where does the otter live? It lives by the river.",
        "Hello",
        "The bear eats honey.",
    ]
    rows = []
    for text in texts:
        ids = embedded_tokenizer(text)["input_ids"]
        rows.append(labelled(ids[:1], ids[1:]))
    expected = []
    for ids, _ in rows:
        with torch.no_grad():
            logits = embedded_model(torch.tensor([ids])).logits[0].double()
        expected.append(sum(float(logits[i].log_softmax(0)[ids[i + 1]]) for i in range(len(ids) - 1)))
    scores = score_rows(embedded_model, rows)
    assert [score.logp for score in scores] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert [score.tokens for score in scores] == [len(ids) - 1 for ids, _ in rows]


def test_rows_are_batched_by_length_within_the_limit(monkeypatch):
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 60)
    rows = [([0] * length, [0] * length) for length in (2, 6, 3, 3, 1)]
    # 10 logits a token: one row of 6 is 60; then 3 tokens wide, two rows; then the rest
    assert list(likelihood._batches(rows, 10)) == [[1], [2, 3], [0, 4]]


def test_row_beyond_the_limit_has_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 5)
    assert list(likelihood._batches([([0] * 9, [0] * 9), ([0] * 8, [0] * 8)], 10)) == [[0], [1]]
