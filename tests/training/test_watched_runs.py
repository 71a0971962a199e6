"""The watch on trainings that are made to fail, and on what it does about them: tiny models, for real."""

import json
import logging
import math
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from token_rows import CHOSEN, NEARLY, PROMPTS, REJECTED

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.watch import GradientWatch, WatchActions, WatchConfig
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.recovery import MANIFEST, last_checkpoint
from llm_engineering.training.sft import train_sft

DISPLACING = DPOStageConfig(
    max_steps=24, logging_steps=2, save_steps=3, evaluation_steps=4, warmup=6, beta=0.01, learning_rate=3e-2
)
# Checkpoints lie between two logs on purpose: what was not logged when one was written must not be lost.
QUESTION = '[{"role": "user", "content": "?"}]'


def pairs(*sides):
    rows = zip(*sides, strict=True)
    return [
        {"source": 0, "row": i, "prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for i, (p, c, r) in enumerate(rows)
    ]


def conversations(answers):
    rows = enumerate(zip(PROMPTS, answers, strict=True))
    return [{"source": 0, "row": i, "input_ids": p + a, "labels": [-100] * len(p) + a} for i, (p, a) in rows]


def names(report):
    return {verdict.name for verdict in report.verdicts}


def evidence(report, name):
    return next(verdict.evidence for verdict in report.verdicts if verdict.name == name)


@pytest.fixture
def displacing(knowing, make_inputs, tmp_path):
    """Return inputs with which DISPLACING unlearns the right answers; a checker judges while it trains."""
    tokenizer = load_chat_tokenizer(knowing, ModelConfig()).tokenizer
    asked = [
        {
            "unit": str(i),
            "prompt": QUESTION,
            "prompt_ids": p,
            "reference": tokenizer.decode(a[:-1]).strip(),
        }
        for i, (p, a) in enumerate(zip(PROMPTS, CHOSEN, strict=True))
    ]
    questions = write_rows(tmp_path / "questions", {"eval": asked}, QUESTIONS)
    rows = pairs(PROMPTS, CHOSEN, NEARLY)
    preferences = write_rows(tmp_path / "nearly", {"train": rows, "eval": rows}, PREFERENCE)
    evaluation = EvaluationConfig(checker="exact", max_new_tokens=6)

    def make(work="work", **on):
        watch = WatchConfig(on=WatchActions(**on))
        return make_inputs(
            preferences, work=work, base=knowing, questions=questions, evaluation=evaluation, watch=watch
        )

    return make


def test_log_ratios_are_rewards_over_beta(make_inputs, preference_rows):
    config = DPOStageConfig(max_steps=3, logging_steps=1, evaluation_steps=3, beta=0.25, loss="ipo", learning_rate=1e-3)
    _, report = train_dpo(config, make_inputs(preference_rows))
    first, last = report.history[0], report.history[-1]
    for name in ("chosen", "rejected"):
        assert last[f"log_ratio/{name}"] == pytest.approx(last[f"rewards/{name}"] / 0.25)
        assert last[f"eval_log_ratio/{name}"] == pytest.approx(last[f"eval_rewards/{name}"] / 0.25)
        # eight pairs make one batch: its log-probabilities were the reference's at the first step
        moved = last[f"logps/{name}"] - first[f"logps/{name}"]
        assert last[f"log_ratio/{name}"] == pytest.approx(moved, rel=1e-3)
    assert last["log_ratio/chosen"] > 0.01


def test_displacement_is_seen_in_log_ratios_and_generations_and_said_once(displacing, caplog):
    with caplog.at_level(logging.WARNING):
        _, report = train_dpo(DISPLACING, displacing())
    assert {"displaced", "collapsed"} <= names(report)
    assert "right answers fell from 100.0% at step 4 to 0.0% at step 24" in evidence(report, "displaced")
    said = [message for message in caplog.messages if "displaced" in message]
    assert len(said) == 1
    first = next(verdict.first_seen for verdict in report.verdicts if verdict.name == "displaced")
    assert said[0].startswith(f"DPO step {first}: displaced. At step {first} chosen answers are")
    assert (report.steps, report.stopped_by, report.stopped_early) == (24, None, False)


def test_falling_log_ratios_alone_are_no_displacement_where_answers_stay_right(displacing, monkeypatch):
    from llm_engineering.training import dpo_probes

    monkeypatch.setattr(dpo_probes, "probes", lambda *_: [lambda trainer: {"answer_accuracy": 0.9}])
    _, report = train_dpo(DISPLACING, displacing())
    assert report.metrics["log_ratio/chosen"] < -5
    assert report.metrics["log_ratio/rejected"] < -5
    assert not {"displaced", "collapsed"} & names(report)


def test_stop_ends_the_stage_and_names_the_verdict_also_when_it_is_taken_up_again(displacing, weights_of):
    adapter, report = train_dpo(DISPLACING, displacing(displaced="stop"))
    assert report.stopped_by.name == "displaced"
    assert report.stopped_by.first_seen == report.steps < 24
    assert report.stopped_early
    stopped = last_checkpoint(displacing().work_dir)
    assert stopped.name == f"checkpoint-{report.steps}"
    again_adapter, again = train_dpo(DISPLACING, displacing(displaced="stop"))
    assert (again.steps, again.stopped_by, again.verdicts) == (report.steps, report.stopped_by, report.verdicts)
    assert same(weights_of(adapter), weights_of(again_adapter))


def test_restart_keeps_the_right_answers_and_both_attempts(displacing, weights_of, tiny_base):
    inputs = displacing(displaced="restart_with_nll")
    _, report = train_dpo(DISPLACING, inputs)
    first = report.first_attempt
    assert (first.stopped_by.name, first.restarted_with_nll) == ("displaced", None)
    assert (report.restarted_with_nll, report.steps, report.stopped_by) == (1.0, 24, None)
    assert not {"displaced", "collapsed"} & names(report)
    assert report.metrics["eval_answer_accuracy"] == 1.0
    assert report.reference.sft_sha256 == first.reference.sft_sha256 == inputs.base.weights_sha256
    assert report.reference.expected_loss > first.reference.expected_loss == pytest.approx(math.log(2))


@pytest.mark.slow
def test_restart_is_the_run_with_the_nll_term_and_killed_it_ends_in_the_same_weights(displacing, killed_at, weights_of):
    whole, report = train_dpo(DISPLACING, displacing("whole", displaced="restart_with_nll"))
    alone, _ = train_dpo(DISPLACING.model_copy(update={"nll_weight": 1.0}), displacing("alone"))
    assert same(weights_of(whole), weights_of(alone))

    inputs = displacing("killed", displaced="restart_with_nll")
    with killed_at(8):  # in the first attempt, between two checkpoints
        train_dpo(DISPLACING, inputs)
    assert report.first_attempt.steps < 20
    with killed_at(20):  # in the second: the first had stopped before
        train_dpo(DISPLACING, inputs)
    assert (inputs.work_dir / "with-nll" / "checkpoint-18").is_dir()
    resumed, resumed_report = train_dpo(DISPLACING, inputs)
    assert resumed_report.resumed_from == 18
    assert same(weights_of(whole), weights_of(resumed))
    assert curves(resumed_report) == curves(report)
    assert curves(resumed_report.first_attempt) == curves(report.first_attempt)
    assert resumed_report.first_attempt.stopped_by == report.first_attempt.stopped_by


@pytest.mark.slow
def test_restart_survives_a_real_kill_in_its_second_attempt(displacing, weights_of, tmp_path):
    whole, report = train_dpo(DISPLACING, displacing("whole", displaced="restart_with_nll"))
    inputs = displacing("killed", displaced="restart_with_nll")
    (tmp_path / "task").write_bytes(pickle.dumps((DISPLACING, inputs)))
    code = (
        "import pickle, sys; from llm_engineering.training.dpo import train_dpo; "
        "train_dpo(*pickle.load(open(sys.argv[1], 'rb')))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "task")])
    while not (inputs.work_dir / "with-nll" / "checkpoint-6" / MANIFEST).is_file():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.wait()
    resumed, resumed_report = train_dpo(DISPLACING, inputs)
    assert 6 <= resumed_report.resumed_from < 24
    assert same(weights_of(whole), weights_of(resumed))
    assert curves(resumed_report) == curves(report)


def test_killed_before_it_would_be_stopped_a_training_is_stopped_where_it_would_have_been(displacing, killed_at):
    _, whole = train_dpo(DISPLACING, displacing("whole", displaced="stop"))
    inputs = displacing("killed", displaced="stop")
    with killed_at(8):
        train_dpo(DISPLACING, inputs)
    _, resumed = train_dpo(DISPLACING, inputs)
    assert resumed.resumed_from == 6
    assert (resumed.steps, resumed.stopped_by, curves(resumed)) == (whole.steps, whole.stopped_by, curves(whole))


def test_second_attempt_that_is_displaced_too_is_not_followed_by_a_third(displacing):
    inputs = displacing(displaced="restart_with_nll")
    strict = inputs.watch.displaced.model_copy(update={"nats": 1e-9, "nll_weight": 1e-9, "drop": 0.0})
    _, report = train_dpo(DISPLACING, replace(inputs, watch=inputs.watch.model_copy(update={"displaced": strict})))
    assert "displaced" in names(report)
    assert report.first_attempt is not None
    assert report.first_attempt.first_attempt is None


@pytest.mark.parametrize(
    ("prompts", "chosen", "rejected"),
    [(PROMPTS, CHOSEN, CHOSEN), (PROMPTS + PROMPTS, CHOSEN + REJECTED, REJECTED + CHOSEN)],
    ids=["identical answers", "every pair both ways"],
)
def test_pairs_without_a_preference_give_no_signal(prompts, chosen, rejected, make_inputs, tmp_path):
    rows = write_rows(tmp_path / "rows", {"train": pairs(prompts, chosen, rejected)}, PREFERENCE)
    config = DPOStageConfig(max_steps=12, logging_steps=2, learning_rate=1e-3)
    _, report = train_dpo(config, make_inputs(rows))
    assert names(report) == {"no_signal"}


def test_pairs_told_apart_at_once_are_trivial(make_inputs, preference_rows):
    config = DPOStageConfig(max_steps=20, logging_steps=1, learning_rate=1e-2)
    _, report = train_dpo(config, make_inputs(preference_rows))
    assert names(report) == {"trivial_pairs"}


def test_memorised_rows_are_overfitting(make_inputs, tmp_path):
    splits = {"train": conversations(CHOSEN), "eval": conversations(REJECTED)}
    rows = write_rows(tmp_path / "rows", splits, SFT)
    config = SFTStageConfig(max_steps=40, logging_steps=2, evaluation_steps=8, learning_rate=2e-2)
    _, report = train_sft(config, make_inputs(rows))
    assert names(report) == {"overfitting"}


def test_huge_rate_has_exploding_gradients(make_inputs, sft_rows):
    config = SFTStageConfig(
        max_steps=7, logging_steps=1, learning_rate=0.1, schedule="constant", warmup=0, max_grad_norm=1e9
    )
    high = GradientWatch(high=1.5)  # the first norms are 2 to 5; how later ones go, differs from processor to processor
    _, report = train_sft(config, make_inputs(sft_rows, watch=WatchConfig(exploding_gradients=high)))
    assert "exploding_gradients" in names(report), report.verdicts
    watch = WatchConfig(exploding_gradients=high, on=WatchActions(exploding_gradients="stop"))
    _, stopped = train_sft(config, make_inputs(sft_rows, work="stopped", watch=watch))
    assert stopped.stopped_by.name == "exploding_gradients"
    assert stopped.steps < 7


def test_sane_rate_is_healthy(make_inputs, sft_rows):
    config = SFTStageConfig(max_steps=12, logging_steps=2, learning_rate=1e-2)
    _, report = train_sft(config, make_inputs(sft_rows))
    assert names(report) == {"healthy"}


def test_report_survives_its_way_through_json(displacing):
    _, report = train_dpo(DISPLACING, displacing(displaced="restart_with_nll"))
    assert type(report).model_validate(json.loads(report.model_dump_json())) == report


def curves(report):
    """Return everything that was logged, save TRL's count of tokens, which starts anew when a training is resumed."""
    return [{name: value for name, value in entry.items() if "num_tokens" not in name} for entry in report.history]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
