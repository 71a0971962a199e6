"""Verdicts on curves made by hand: each with its sign, just below it, too short, and with values that are no number."""

import math

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.config.watch import WatchActions, WatchConfig
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores
from llm_engineering.reports.training import TrainingReport
from llm_engineering.scoring.intervals import smoothed
from llm_engineering.training import dpo_watch, watch
from llm_engineering.training.dpo_watch import (
    collapsed,
    displaced,
    generations,
    log_ratio_high,
    no_signal,
    trivial_pairs,
)
from llm_engineering.training.verdicts import JUDGES, judged_anew, kl_high
from llm_engineering.training.watch import (
    acting,
    exploding_gradients,
    history_of,
    overfitting,
    plateau,
    series,
    unstable,
)

NAN = math.nan
PLAIN = WatchConfig()
UNSMOOTHED = WatchConfig(smoothing=1)
"""The average spans one point: what is logged is what is judged."""


def points(*values, every=10):
    return [(every * (i + 1), float(value)) for i, value in enumerate(values)]


def log(**curves):
    """Return a history of curves that are logged every 10 steps; ``__`` stands for ``/``, None for nothing logged."""
    count = max(map(len, curves.values()))
    rows = [{"step": 10.0 * (i + 1)} for i in range(count)]
    for name, values in curves.items():
        for row, value in zip(rows, values, strict=False):
            if value is not None:
                row[name.replace("__", "/")] = float(value)
    return rows


def report(history, stage="dpo", planned_steps=100):
    return TrainingReport(
        stage=stage,
        steps=int(history[-1]["step"]),
        planned_steps=planned_steps,
        epochs=1,
        seconds=1,
        rows=8,
        effective_batch=8,
        trainable_parameters=1,
        parameters=2,
        history=history,
        metrics={},
        hardware="CPU",
    )


def test_moving_average_by_hand():
    # weight 2 / (3 + 1) = 1/2; mean 4/2 = 2, then 2 + (0 - 2)/2 = 1; corrected by 1 - 1/2 and 1 - 1/4
    assert smoothed(points(4, 0), span=3) == [(10, 4.0), (20, pytest.approx(1 / 0.75))]


def test_series_leaves_out_what_is_no_number_or_was_not_logged():
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": NAN}, {"step": 3}, {"step": 4, "loss": math.inf}]
    assert series(history, "loss") == [(1, 2.0)]


def test_history_is_one_entry_a_step_without_clocks_and_summary():
    entries = [
        {"loss": 1.0, "step": 5},
        {"eval_loss": 2.0, "eval_runtime": 9.0, "eval_samples_per_second": 3.0, "step": 5, "note": "text"},
        {"train_runtime": 7.0, "step": 5},
    ]
    assert history_of(entries) == [{"loss": 1.0, "eval_loss": 2.0, "step": 5.0}]


# --- plateau: halves of the stretch after warm-up while the rate is at half its peak or more


def flat(before, after):
    """Return a loss that begins at 2 in the warm-up and then has these two means, for five points each."""
    return points(2.0, *[before] * 5, *[after] * 5)


def test_plateau():
    # after the warm-up 1.90, then 1.89: a fall of 0.5 %, and above half of the start ((2 + 1.9 + 1.9) / 3)
    found = plateau(flat(1.9, 1.89), points(1e-5, *[1e-4] * 10), [], PLAIN, PLAIN.plateau)
    assert found.evidence == (
        "From step 20 to 110, with the learning rate at half its peak or more, the training loss went from 1.9 to 1.89 "
        "(means of the halves); it began at 1.93."
    )
    assert found.remedy == watch.REMEDIES["plateau"]


@pytest.mark.parametrize(
    ("loss", "rates"),
    [
        (flat(1.9, 1.88), points(1e-5, *[1e-4] * 10)),  # a fall of 1.05 %
        (flat(1.9, 1.89)[:10], points(1e-5, *[1e-4] * 9)),  # nine points after the warm-up make halves of four
        (points(4, *[0.9] * 10), points(1e-5, *[1e-4] * 10)),  # below half of (4 + 0.9 + 0.9) / 3 = 1.93
        (flat(1.9, 1.89), points(1e-5, *[1e-4] * 6, *[4e-5] * 4)),  # late, with a low rate
        ([], []),
    ],
    ids=["falls enough", "short", "converged", "late", "nothing"],
)
def test_no_plateau(loss, rates):
    assert plateau(loss, rates, [], PLAIN, PLAIN.plateau) is None


def test_plateau_names_a_weak_gradient():
    found = plateau(points(*[1.9] * 11), [], points(*[0.02] * 11), PLAIN, PLAIN.plateau)
    assert found.evidence.endswith("; the gradient norm is 0.02, below 0.1.")


# --- unstable: the smoothed loss above its lowest by a tenth of the start, or jumps

FALLING = [2.0, 2.0, 2.0, 1.5, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_unstable_by_a_lasting_rise():
    # most successive differences are 0, so that noise allows all; 1.25 - 1 > 0.1 * 2
    found = unstable(points(*FALLING, 1.25), UNSMOOTHED, UNSMOOTHED.unstable)
    assert found.evidence == ("The smoothed training loss rose from 1 at step 60 to 1.25 at step 110; it began at 2.")
    assert unstable(points(*FALLING, 1.15), UNSMOOTHED, UNSMOOTHED.unstable) is None


def test_rise_within_the_noise_is_no_instability():
    noisy = [2.0, 1.0] * 6  # differences of 1: sigma 1 / 0.954, and nothing is smoothed away
    assert unstable(points(*noisy, 1.0, 2.0), UNSMOOTHED, UNSMOOTHED.unstable) is None


def test_loss_that_rises_from_the_first_step_on_is_unstable():
    assert unstable(points(2, 2, 2, 6, 7, 7, 7, 7, 7), PLAIN, PLAIN.unstable)


def test_unstable_by_three_jumps_of_the_last_ten():
    # 2 at first; jumps to 4.5 and more from a smoothed loss below 2.5 are more than 2
    jumpy = [2, 2, 2, 1, 1, 5, 1, 1, 1, 6, 1, 1, 1, 5, 1]
    found = unstable(points(*jumpy), WatchConfig(smoothing=3), PLAIN.unstable)
    assert "jumped 3 times since step 60, to 6 at step 100" in found.evidence
    assert unstable(points(*jumpy[:13]), WatchConfig(smoothing=3), PLAIN.unstable) is None


def test_short_loss_is_not_judged():
    assert unstable(points(1, 2, 4, 8), PLAIN, PLAIN.unstable) is None


# --- overfitting


def test_overfitting():
    loss = points(*[2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.4])
    found = overfitting(loss, [(20, 1.5), (40, 1.4), (60, 1.5), (70, 1.6)], UNSMOOTHED, PLAIN.overfitting)
    assert found.evidence == (
        "The held-out loss rose from 1.4 at step 40 to 1.6 at step 70, while the training loss went from 1 to 0.4."
    )


@pytest.mark.parametrize(
    ("loss", "held_out"),
    [
        ([2, 1.5, 1.2, 1, 0.8, 0.6, 0.4], [1.4, 1.46, 1.6]),  # 1.46 is no 5 % above 1.4
        ([2, 1.5, 1.2, 1, 0.8, 0.6, 0.4], [1.4, 1.6]),  # two evaluations
        ([2, 1.5, 1.2, 1, 1.1, 1.2, 1.3], [1.4, 1.5, 1.6]),  # the training loss rises, too
        ([0.2, 0.1, 0.1, 0.05, 0.04, 0.03, 0.02], [0.010, 0.012, 0.014]),  # 40 % of next to nothing
        ([2, 1.5], [1.4, 1.6, 1.8]),  # a short log
        ([], [1.4, 1.6, 1.8]),  # evaluations alone
    ],
)
def test_no_overfitting(loss, held_out):
    evaluations = [(10 * (i + 3), float(value)) for i, value in enumerate(held_out)]
    assert overfitting(points(*loss), evaluations, UNSMOOTHED, PLAIN.overfitting) is None


# --- gradients


def test_exploding_gradients_by_the_median_of_the_last_five():
    found = exploding_gradients(points(1, 1, 9, 50, 11, 12, 9), PLAIN, PLAIN.exploding_gradients)
    assert found.evidence == (
        "From step 30 to 70 the median of the gradient norm before clipping is 11, above 10; it began at 1."
    )


@pytest.mark.parametrize("norms", [[1, 1, 1e6, 1, 1], [9, 9, 10, 11, 12], [50] * 4, [NAN] * 9])
def test_no_exploding_gradients(norms):
    # one spike, a median of 10 itself, four points, no numbers
    finite = series(log(grad_norm=norms), "grad_norm")
    assert exploding_gradients(finite, PLAIN, PLAIN.exploding_gradients) is None


# --- displaced, collapsed

DOWN, FURTHER = points(*[-6] * 5), points(*[-20] * 5)


def answers(*rates):
    return generations([{"step": 10 * (i + 1), "eval_answer_accuracy": rate} for i, rate in enumerate(rates)])


def test_displaced_with_worse_answers():
    found = displaced(DOWN, FURTHER, answers(0.9, 0.95, 0.7), PLAIN, PLAIN.displaced)
    assert found.evidence == (
        "At step 50 chosen answers are 6 nats and rejected ones 20 nats less likely than under the reference "
        "(smoothed); right answers fell from 95.0% at step 20 to 70.0% at step 30."
    )


def test_displaced_without_generations_says_so():
    found = displaced(DOWN, FURTHER, answers(), PLAIN, PLAIN.displaced)
    assert found.evidence.endswith("; no generations were measured.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "generated"),
    [
        (points(*[-4.9] * 5), FURTHER, ()),  # chosen answers not far enough
        (points(*[5] * 5), FURTHER, ()),  # what DPO should do
        (FURTHER, points(*[1] * 5), ()),  # rejected answers do not fall
        (DOWN[:4], FURTHER, ()),  # short
        (DOWN, FURTHER, (0.9, 0.95, 0.9)),  # answers are as good as before
        (DOWN, FURTHER, (0.9,)),  # measured once: nothing to compare with
    ],
)
def test_not_displaced(chosen, rejected, generated):
    assert displaced(chosen, rejected, answers(*generated), PLAIN, PLAIN.displaced) is None


def test_worst_of_both_shares_counts():
    history = [
        {"step": 10, "eval_answer_accuracy": 0.9, "eval_preferred_rate": 0.8},
        {"step": 20, "eval_answer_accuracy": 0.95, "eval_preferred_rate": 0.2},
    ]
    found = generations(history)
    assert (found.fall, found.kept) == (pytest.approx(0.6), pytest.approx(0.25))
    assert found.words == "preferred answers fell from 80.0% at step 10 to 20.0% at step 20"


def test_collapsed_by_a_loss_near_zero_or_broken_answers():
    near_zero = points(0.69, 0.69, 0.69, 0.01, 0.01)  # 0.01 < 0.05 * 0.69
    found = collapsed(near_zero, DOWN, FURTHER, answers(), UNSMOOTHED, PLAIN.collapsed)
    assert found.evidence.endswith("; the loss is 0.01 at step 50 (0.69 at first); no generations were measured.")
    assert collapsed(points(*[0.69] * 5), DOWN, FURTHER, answers(0.9, 0.45), UNSMOOTHED, PLAIN.collapsed)


@pytest.mark.parametrize(
    ("loss", "rejected", "generated"),
    [
        ([0.69, 0.69, 0.69, 0.04, 0.04], FURTHER, ()),  # 0.04 > 0.0345
        ([0.69, 0.69, 0.69, 0.01, 0.01], FURTHER, (0.9, 0.8)),  # answers weigh more than the loss
        ([0.69, 0.69, 0.69, 0.01, 0.01], points(*[5] * 5), ()),  # only chosen answers fell
        ([0.69, 0.69, 0.01, 0.01], FURTHER, ()),  # short
        ([0.69] * 5, FURTHER, (0.9, 0.46)),  # half of them are left
    ],
)
def test_not_collapsed(loss, rejected, generated):
    assert collapsed(points(*loss), DOWN, rejected, answers(*generated), UNSMOOTHED, PLAIN.collapsed) is None


# --- trivial pairs, no signal


def test_trivial_pairs_by_accuracy_whatever_the_tie_at_the_first_step_says():
    accuracy = [(1, 0.0), *points(1, 1, 0.99, 1, 1)]
    found = trivial_pairs([], accuracy, 100, PLAIN, PLAIN.trivial_pairs)
    assert found.evidence.startswith("The reward accuracy is 1 at step 10 of 100 already, and 1 at step 50;")


def test_trivial_pairs_by_a_loss_near_zero():
    found = trivial_pairs(points(0.69, 0.69, *[0.02] * 5), [], 200, PLAIN, PLAIN.trivial_pairs)
    assert "The loss is 0.02 at step 30 of 200 already" in found.evidence  # 0.02 < 0.05 * (0.69 + 0.69 + 0.02) / 3


@pytest.mark.parametrize(
    "accuracy", [[1, 1, 0.98, 1, 1, 1, 1], [0.7, 0.8, 0.9, 1, 1, 1, 1, 1], [1, 1, 1, 1]], ids=["once", "late", "short"]
)
def test_no_trivial_pairs(accuracy):
    # from step 40 on, that is, not within the first quarter of 100 steps
    assert trivial_pairs([], points(*accuracy), 100, PLAIN, PLAIN.trivial_pairs) is None


def test_no_signal():
    found = no_signal(points(0, *[0.52] * 5), points(0, *[0.01] * 5), [], 100, PLAIN, PLAIN.no_signal)
    assert (
        found.evidence
        == "From step 40 to 60 the reward accuracy on training pairs is 52% and the margin 0.01 on average."
    )


@pytest.mark.parametrize(
    ("accuracy", "margin", "planned"),
    [
        ([0.56] * 6, [0.01] * 6, 100),  # above chance
        ([0.5] * 6, [0.03] * 6, 100),  # a margin
        ([0.5] * 6, [0.01] * 6, 1000),  # step 60 of 1000 is early
        ([0.5] * 4, [0.01] * 4, 100),  # short
        ([], [], 100),
    ],
)
def test_signal_or_too_early_to_say(accuracy, margin, planned):
    assert no_signal(points(*accuracy), points(*margin), [], planned, PLAIN, PLAIN.no_signal) is None


def test_held_out_pairs_at_chance_are_no_signal_though_training_pairs_are_learned():
    learned = {"rewards__accuracies": [0.9] * 6, "rewards__margins": [1.0] * 6}
    chance = {"eval_rewards__accuracies": [0.5] * 6, "eval_rewards__margins": [-0.1] * 6}
    (found,) = JUDGES["dpo"](log(**learned, **chance), 100, PLAIN)
    assert found.name == "no_signal"
    assert "the reward accuracy on held-out pairs is 50% and the margin -0.1 on average" in found.evidence
    assert JUDGES["dpo"](log(**learned), 100, PLAIN) == []


# --- distances from the reference


def test_log_ratio_high_names_the_side_and_never_calls_it_kl():
    found = log_ratio_high(points(*[-3] * 5), points(*[-101] * 5), PLAIN, PLAIN.log_ratio_high)
    assert found.evidence == (
        "The smoothed log-ratio of rejected answers to the reference is -101 nats an answer at step 50, its size above "
        "100."
    )
    assert "KL" not in found.evidence + found.remedy
    assert log_ratio_high(points(*[-3] * 5), points(*[-99] * 5), PLAIN, PLAIN.log_ratio_high) is None
    assert log_ratio_high(points(*[200] * 4), [], PLAIN, PLAIN.log_ratio_high) is None


def evaluation(**values):
    metrics = {name: Metric(value=value, units=5) for name, value in values.items()}
    models = {"dpo": ModelScores(checkpoint_sha256="d", metrics=metrics)}
    return EvaluationReport(fingerprint="f", split="test", questions=5, pairs=5, models=models, samples=[], seconds=1)


def test_kl_is_judged_where_the_evaluation_measured_it():
    found = kl_high(evaluation(kl_per_token=0.5, answer_tokens=30), PLAIN.kl_high)
    assert "a KL of 15 nats an answer (0.5 a token, 30 tokens an answer), above 10" in found.evidence
    assert kl_high(evaluation(kl_per_answer=11.0, kl_per_token=0.1, answer_tokens=1), PLAIN.kl_high)
    for measured in ({"kl_per_token": 0.3, "answer_tokens": 30.0}, {"kl_per_token": 0.5}, {"kl_per_answer": NAN}, {}):
        assert kl_high(evaluation(**measured), PLAIN.kl_high) is None


# --- all of them

HEALTHY = log(
    loss=[0.69, 0.68, 0.65, 0.6, 0.55, 0.5, 0.48, 0.45, 0.42, 0.4],
    grad_norm=[0.5] * 10,
    rewards__accuracies=[0, 0.6, 0.65, 0.7, 0.72, 0.75, 0.75, 0.8, 0.8, 0.8],
    rewards__margins=[0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    log_ratio__chosen=[0, 0.1, 0.2, 0.5, 0.5, 0.4, 0.2, 0.0, -0.2, -0.5],
    log_ratio__rejected=[0, -0.1, -0.8, -2, -3, -4, -5, -6, -7, -8],
    eval_answer_accuracy=[None, 0.9, None, 0.92, None, 0.95, None, 0.94, None, 0.95],
)


def test_healthy_run():
    assert [verdict.name for verdict in judged_anew(report(HEALTHY), PLAIN, None).verdicts] == ["healthy"]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_too_few_points_or_no_numbers_give_no_verdict(stage):
    assert judged_anew(report(HEALTHY[:4], stage), PLAIN, None).verdicts == []
    nothing = [dict.fromkeys(entry, NAN) | {"step": entry["step"]} for entry in HEALTHY]
    assert judged_anew(report(nothing, stage), PLAIN, None).verdicts == []
    assert JUDGES[stage]([], 100, PLAIN) == []


def test_a_few_values_that_are_no_number_change_no_verdict():
    spoiled = [dict(entry) for entry in HEALTHY]
    spoiled[3]["loss"] = spoiled[5]["log_ratio/chosen"] = spoiled[6]["grad_norm"] = NAN
    assert [verdict.name for verdict in judged_anew(report(spoiled), PLAIN, None).verdicts] == ["healthy"]


def test_evaluations_alone_are_judged_on_their_own_series():
    held_out = log(
        eval_loss=[0.6] * 6,
        eval_log_ratio__chosen=[-9] * 6,
        eval_log_ratio__rejected=[-12] * 6,
        eval_rewards__accuracies=[0.8] * 6,
        eval_rewards__margins=[0.3] * 6,
    )
    assert [verdict.name for verdict in judged_anew(report(held_out), PLAIN, None).verdicts] == ["displaced"]


def test_plateau_is_sfts_and_preferences_are_dpos():
    still = log(loss=[2.0] * 12, log_ratio__chosen=[-9] * 12, log_ratio__rejected=[-9] * 12)
    assert [verdict.name for verdict in JUDGES["sft"](still, 120, PLAIN)] == ["plateau"]
    assert [verdict.name for verdict in JUDGES["dpo"](still, 120, PLAIN)] == ["displaced"]


def test_unstable_loss_is_not_called_a_plateau():
    risen = log(loss=[2.0] * 8 + [3.0] * 8)
    assert [verdict.name for verdict in JUDGES["sft"](risen, 160, PLAIN)] == ["unstable"]


def test_final_verdict_carries_the_step_at_which_it_was_first_seen():
    # log-ratios at -9 from step 40 on: the mean goes to -9 / 3 = -3 and then -3 - 6 / 3 = -5; the latter, corrected by
    # 1 - (2 / 3)^5 = 0.87, is -5.8, at step 50
    fallen = log(loss=[0.69] * 9, log_ratio__chosen=[0] * 3 + [-9] * 6, log_ratio__rejected=[0] * 3 + [-9] * 6)
    (found,) = judged_anew(report(fallen), PLAIN, None).verdicts
    first = next(i for i in range(1, 10) if JUDGES["dpo"](fallen[:i], 100, PLAIN))
    assert found.first_seen == fallen[first - 1]["step"] == 50


def test_verdict_that_no_longer_holds_is_not_final():
    recovered = log(grad_norm=[50] * 6 + [1] * 6, loss=[1.0] * 12)
    assert JUDGES["dpo"](recovered[:6], 120, PLAIN)
    assert [verdict.name for verdict in judged_anew(report(recovered), PLAIN, None).verdicts] == ["healthy"]


def test_long_history_is_judged_within_seconds():
    long = [{"step": float(i), "loss": 1 / i, "grad_norm": 50.0, "rewards/accuracies": 0.7} for i in range(1, 5001)]
    verdicts = judged_anew(report(long), PLAIN, None).verdicts
    assert {verdict.name: verdict.first_seen for verdict in verdicts}["exploding_gradients"] == 25  # 5000 / 200


def test_stored_curves_are_judged_by_the_thresholds_of_the_run_that_shows_them():
    stored = judged_anew(report(HEALTHY), PLAIN, None).model_copy(
        update={"first_attempt": judged_anew(report(HEALTHY), PLAIN, None)}
    )
    strict = WatchConfig.model_validate({"exploding_gradients": {"high": 0.4}})
    measured = evaluation(kl_per_answer=11.0)
    anew = judged_anew(stored, strict, measured)
    assert [verdict.name for verdict in anew.verdicts] == ["exploding_gradients", "kl_high"]
    assert [verdict.name for verdict in anew.first_attempt.verdicts] == ["exploding_gradients"]


# --- configuration


def test_only_what_acts_reaches_the_cached_step():
    thresholds = {"displaced": {"nats": 3}, "no_signal": {"margin": 0.5}, "smoothing": 9, "plateau": {"fall": 0.5}}
    warns = WatchConfig.model_validate(thresholds)
    assert warns.acting("sft") == warns.acting("dpo") == WatchConfig()

    stops = WatchConfig.model_validate({**thresholds, "on": {"displaced": "stop"}})
    assert stops.acting("sft") == WatchConfig()
    kept = stops.acting("dpo")
    assert (kept.displaced.nats, kept.smoothing, kept.on.displaced) == (3, 9, "stop")
    assert (kept.no_signal, kept.plateau) == (WatchConfig().no_signal, WatchConfig().plateau)
    assert [
        v.name
        for v in acting(JUDGES["dpo"](log(log_ratio__chosen=[-9] * 5, log_ratio__rejected=[-9] * 5), 50, kept), kept.on)
    ] == ["displaced"]


def test_every_action_belongs_to_a_verdict_with_thresholds_and_a_remedy():
    fields = set(WatchActions.model_fields)
    assert fields < set(WatchConfig.model_fields)
    assert {*watch.REMEDIES, *dpo_watch.REMEDIES, "kl_high"} == fields | {"healthy", "kl_high"}


def test_restart_with_the_same_nll_weight_is_refused():
    watch = {"on": {"displaced": "restart_with_nll"}}
    with pytest.raises(ValueError, match=r"watch.displaced.nll_weight \(1\) must be above dpo.nll_weight \(1\)"):
        RunConfig.model_validate({"watch": watch, "dpo": {"nll_weight": 1.0}})
    RunConfig.model_validate({"watch": watch, "dpo": {"nll_weight": 0.5}})


@pytest.mark.parametrize("on", [{"sft_only": "stop"}, {"plateau": "restart_with_nll"}, {"kl_high": "stop"}])
def test_actions_that_do_not_exist_are_refused(on):
    with pytest.raises(ValueError, match="watch"):
        RunConfig.model_validate({"watch": {"on": on}})
