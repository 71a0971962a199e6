"""Losses that are not TRL's: what they may ask for, how a user's is found, and that training takes it."""

import math
import sys

import pytest
import torch

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.losses import LOSSES
from llm_engineering.errors import ConfigError, ProofError
from llm_engineering.scoring.likelihood import ScoredTokens
from llm_engineering.training import dpo
from llm_engineering.training.dpo import train_dpo, untrained_loss
from llm_engineering.training.dpo_arguments import stores_reference
from llm_engineering.training.losses import OwnLoss, load_loss, uses_reference


def hinge(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    """TRL's ``hinge``, as a user would write it."""
    ratios = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return (1 - beta * ratios).relu()


def lengths(chosen_logps, rejected_logps, chosen_tokens, rejected_tokens, slope=2.0):
    return slope * rejected_logps / rejected_tokens - chosen_logps / chosen_tokens


def of_weights(chosen_logps, rejected_logps, weights):
    """Asks for what nobody gives."""


def of_chosen(chosen_logps):
    """Compares nothing."""


def scalar(chosen_logps, rejected_logps):
    return (rejected_logps - chosen_logps).mean()


def broken(chosen_logps, rejected_logps):
    raise RuntimeError("no such thing")


NO_FUNCTION = 3


def config_of(function, **settings):
    return DPOStageConfig(loss=f"{__name__}:{function}", **settings)


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_simpo_is_the_papers() -> None:
    # -log sigma(2 * -8/4 - 2 * -9/3 - 0.5) = log(1 + e^(-1.5))
    loss = load_loss(DPOStageConfig(loss="simpo", beta=2.0, simpo_gamma=0.5))
    found = loss(dict(zip(loss.asks, (values(-8), values(-9), values(4), values(3)), strict=True)))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_orpo_is_the_papers() -> None:
    # p = e^(-4/4) chosen and e^(-6/3) rejected; odds p / (1 - p); -log p(chosen) - 0.1 log sigma(log odds ratio)
    loss = load_loss(DPOStageConfig(loss="orpo"))
    found = loss(dict(zip(loss.asks, (values(-4), values(-6), values(4), values(3)), strict=True)))
    ratio = (math.exp(-1) / (1 - math.exp(-1))) / (math.exp(-2) / (1 - math.exp(-2)))
    assert float(found) == pytest.approx(1 - 0.1 * math.log(ratio / (1 + ratio)))


def test_orpo_of_a_certain_answer_is_a_number_with_a_gradient() -> None:
    logps = torch.zeros(1, requires_grad=True)
    loss = load_loss(DPOStageConfig(loss="orpo"))
    given = (logps, torch.tensor([-3.0]), torch.tensor([2]), torch.tensor([2]))
    found = loss(dict(zip(loss.asks, given, strict=True)))
    found.sum().backward()
    assert found.isfinite().all()
    assert logps.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if row.function])
def test_a_row_says_of_its_function_what_its_signature_says(name: str) -> None:
    row, loss = LOSSES[name], load_loss(DPOStageConfig(loss=name))
    assert loss.has_reference is row.has_reference
    assert set(loss.settings) - {"beta"} == set(row.options) - {"nll_weight", "reference_free", "ld_alpha"}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("of_weights", "has the parameter weights, which nothing is given for"),
        ("of_chosen", "has no parameter rejected_logps"),
        ("NO_FUNCTION", "is no function"),
        ("nowhere", "cannot be loaded \\(AttributeError"),
    ],
)
def test_a_function_that_is_no_loss_is_refused_when_it_is_loaded(function: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_loss(config_of(function))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing": 0.1}, r"dpo\.label_smoothing does nothing for the loss .*:lengths"),
        ({"reference": "stored"}, r"dpo\.reference stored does nothing for the loss .*:lengths"),
    ],
)
def test_settings_that_a_users_loss_does_not_ask_for_are_refused(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        load_loss(config_of("lengths", **settings))


def test_a_users_loss_has_a_reference_where_it_asks_for_one() -> None:
    assert uses_reference(config_of("hinge"))
    assert not uses_reference(config_of("hinge", reference_free=True))
    assert not uses_reference(config_of("lengths"))
    assert stores_reference(config_of("hinge", epochs=2), rows=8)
    assert not stores_reference(config_of("lengths", epochs=2), rows=8)
    assert not stores_reference(DPOStageConfig(loss="simpo", epochs=2), rows=8)


def test_expected_loss_of_an_untrained_policy_is_the_formulas() -> None:
    # pairs of (-4 in 2 tokens, -9 in 3) and (-6 in 2, -5 in 5): 2 * -3 + 2 = -4 and 2 * -1 + 3 = 1, on average -1.5
    scores = [ScoredTokens(-4.0, 2), ScoredTokens(-6.0, 2), ScoredTokens(-9.0, 3), ScoredTokens(-5.0, 5)]
    assert untrained_loss(config_of("lengths"), scores) == pytest.approx(-1.5)
    assert untrained_loss(config_of("lengths", nll_weight=0.2), scores) == pytest.approx(-1.5 + 0.2 * 2.5)
    assert untrained_loss(config_of("hinge"), scores) == pytest.approx(1.0)


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("epochs", [1, 2], ids=["on the fly", "stored"])
def test_a_users_loss_trains_as_trls_own_does(epochs, fast_path, make_inputs, preference_rows, weights_of) -> None:
    trained = []
    for loss in ("hinge", f"{__name__}:hinge"):
        config = DPOStageConfig(loss=loss, epochs=epochs, batch_size=4, nll_weight=0.3, fast_path=fast_path)
        inputs = make_inputs(preference_rows, f"{loss}-{epochs}")
        checkpoint, report = train_dpo(config.model_copy(update={"learning_rate": 1e-2}), inputs)
        trained.append((weights_of(checkpoint), report))
    (stock, expected), (ours, found) = trained
    assert found.reference == expected.reference
    assert found.metrics["log_ratio/chosen"] == pytest.approx(expected.metrics["log_ratio/chosen"], rel=1e-4)
    assert all(torch.allclose(stock[name], ours[name], rtol=0, atol=1e-5) for name in stock)


@pytest.mark.parametrize("batch_size", [8, 3])
def test_a_loss_without_a_reference_trains_alike_however_its_batches_are_cut(
    batch_size, make_inputs, preference_rows, weights_of
) -> None:
    def train(batch_size, accumulation):
        config = config_of("lengths", max_steps=2, warmup=0, learning_rate=1e-3, logging_steps=1, nll_weight=0.1)
        config = config.model_copy(update={"batch_size": batch_size, "accumulation": accumulation})
        return weights_of(train_dpo(config, make_inputs(preference_rows, f"of-{batch_size}"))[0])

    together, apart = train(8, 1), train(batch_size, math.ceil(8 / batch_size))
    assert all(torch.allclose(values, apart[name], rtol=0, atol=1e-5) for name, values in together.items())


def test_nothing_of_a_reference_is_computed_or_logged_without_one(make_inputs, preference_rows, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("a reference was asked for")

    for name in ("_frozen_copy", "score_reference", "prove_reference"):
        monkeypatch.setattr(dpo, name, refuse)
    config = DPOStageConfig(loss="simpo", beta=2.0, epochs=2, evaluation_steps=1)
    _, report = train_dpo(config, make_inputs(preference_rows))
    assert report.reference is None
    assert report.first_loss.step0_loss == pytest.approx(report.first_loss.expected_loss, rel=1e-5)
    assert not [name for name in report.metrics if "log_ratio" in name or "kl_per" in name]
    assert {sample.reference for sample in report.samples} == {None}
    assert "rewards/accuracies" in report.metrics


def test_rewards_without_a_reference_are_of_a_token(make_inputs, preference_rows, tiny_base, exact_logps) -> None:
    from token_rows import CHOSEN, PROMPTS

    config = DPOStageConfig(loss="simpo", beta=2.0, max_steps=1, logging_steps=1, warmup=0)
    _, report = train_dpo(config, make_inputs(preference_rows))
    logps = exact_logps(tiny_base, list(zip(PROMPTS, CHOSEN, strict=True)))
    means = [float(each.mean()) for each in logps]
    assert report.series("rewards/chosen")[0][1] == pytest.approx(2.0 * sum(means) / len(means), rel=1e-4)


def test_a_loss_that_changes_between_two_calls_fails_the_proof(make_inputs, preference_rows, monkeypatch) -> None:
    calls = []

    def drifting(chosen_logps, rejected_logps):
        calls.append(1)
        return chosen_logps - rejected_logps + len(calls)

    monkeypatch.setattr(sys.modules[__name__], "lengths", drifting)
    with pytest.raises(ProofError, match=r"the formula of .*:lengths gives"):
        train_dpo(config_of("lengths", max_steps=1), make_inputs(preference_rows))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("scalar", r"returned a tensor of shape \(\)\. Return a tensor with one loss a pair"),
        ("broken", r"raised RuntimeError \(no such thing\)"),
    ],
)
def test_a_fault_of_a_users_loss_names_it(function: str, words: str) -> None:
    loss = load_loss(config_of(function))
    assert isinstance(loss, OwnLoss)
    with pytest.raises(ConfigError, match=words):
        loss({"chosen_logps": values(-1, -2), "rejected_logps": values(-3, -4)})
