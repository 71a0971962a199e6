"""Stored log-probabilities of the reference: what they are, who may take them, and that they change nothing."""

import logging
from types import SimpleNamespace

import pytest
import torch

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import FullFineTuning, LoraAdapter, ModelConfig, QloraAdapter
from llm_engineering.data.rowsets import PREFERENCE, REFERENCE, read_rows, write_rows
from llm_engineering.errors import ProofError
from llm_engineering.reports.folders import ReferenceLogProbs
from llm_engineering.training import dpo
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.dpo_arguments import stores_reference
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer, batches_of_like_length
from llm_engineering.training.reference import Scoring, store_reference

TWICE = DPOStageConfig(
    epochs=2,
    batch_size=2,
    learning_rate=1e-2,
    evaluation_steps=4,
    save_steps=3,
    logging_steps=1,
    kl_answers=0,
    samples=0,
)
"""Every pair is seen twice, in 8 updates."""


@pytest.fixture
def store(tiny_base, preference_rows, tmp_path):
    def make(folder="stored", rows=preference_rows, dtype="float32", pairs_seen=None, **how):
        scoring = Scoring(ModelConfig(dtype=dtype), **{"adapter": LoraAdapter()} | how)
        return store_reference(tiny_base, rows, scoring, pairs_seen, tmp_path / folder)

    return make


@pytest.fixture
def scored(monkeypatch):
    """Count the batches that the reference scores, on the fly or before."""
    calls = []
    compute = PreparedDPOTrainer._compute_ref_log_probs
    monkeypatch.setattr(
        PreparedDPOTrainer,
        "_compute_ref_log_probs",
        lambda self, *args: (calls.append(1), compute(self, *args))[1],
    )
    return calls


def sides(rows, split="train"):
    pairs = list(read_rows(rows, split))
    return [[(pair["prompt_ids"], pair[side]) for pair in pairs] for side in ("chosen_ids", "rejected_ids")]


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_stored_log_probabilities_are_the_models_in_the_order_of_the_rows(
    fast_path, split, store, preference_rows, tiny_base, exact_logps
):
    rows = read_rows(store(fast_path=fast_path), split)
    for name, side in zip(REFERENCE, sides(preference_rows, split), strict=True):
        exact = [float(logps.sum()) for logps in exact_logps(tiny_base, side)]
        assert list(rows[name]) == pytest.approx(exact, rel=1e-5)


def test_tokens_beyond_the_other_answers_length_weigh_ld_alpha(store, preference_rows, tiny_base, exact_logps):
    rows = read_rows(store(ld_alpha=0.25), "train")
    found = [exact_logps(tiny_base, side) for side in sides(preference_rows)]
    for name, own, other in zip(REFERENCE, found, reversed(found), strict=True):
        expected = []
        for logps, against in zip(own, other, strict=True):
            shared = min(len(logps), len(against))
            expected.append(float(logps[:shared].sum() + 0.25 * logps[shared:].sum()))
        assert list(rows[name]) == pytest.approx(expected, rel=1e-5)


def test_key_names_everything_that_the_numbers_depend_on(store, tiny_base, preference_rows):
    stored = store(ld_alpha=0.5, dtype="bfloat16")
    assert stored.key.model_dump() == {
        "weights_sha256": tiny_base.weights_sha256,
        "rows_sha256": preference_rows.sha256,
        "dtype": "bfloat16",
        "ld_alpha": 0.5,
    }
    assert stored.rows == {"train": 8, "eval": 4}


def test_equal_inputs_give_equal_bytes_whatever_the_training_is(store):
    assert store("one").sha256 == store("two", pairs_seen=1000).sha256


def test_runs_with_other_betas_and_losses_take_one_reference(store, scored, make_inputs, preference_rows):
    stored = store()
    assert len(scored) == 2  # one batch a split
    losses = []
    for number, changes in enumerate([{"beta": 0.1}, {"beta": 0.5}, {"loss": "ipo", "nll_weight": 0.3}]):
        config = TWICE.model_copy(update=changes)
        _, report = train_dpo(config, make_inputs(preference_rows, f"run-{number}", reference=stored))
        assert report.reference.stored_logps
        assert 0 <= report.reference.max_stored_difference < 1e-4
        losses.append(report.metrics["loss"])
    assert len(scored) == 2
    assert len(set(losses)) == 3


def test_stored_and_computed_in_memory_train_alike_to_the_bit(store, make_inputs, preference_rows, weights_of):
    adapters, histories = [], []
    for number, reference in enumerate([store(), None]):
        checkpoint, report = train_dpo(TWICE, make_inputs(preference_rows, f"memory-{number}", reference=reference))
        adapters.append(weights_of(checkpoint))
        histories.append(report.history)
    assert histories[0] == histories[1]
    assert all(torch.equal(adapters[0][name], values) for name, values in adapters[1].items())


def test_stored_and_on_the_fly_losses_agree(store, make_inputs, preference_rows):
    histories = []
    for kind in ("stored", "on_the_fly"):
        config = TWICE.model_copy(update={"reference": kind})
        _, report = train_dpo(config, make_inputs(preference_rows, kind, reference=store(kind)))
        assert report.reference.stored_logps == (kind == "stored")
        histories.append([loss for _, loss in report.series("loss")])
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)


def test_killed_dpo_on_a_stored_reference_resumes_to_the_same_weights(
    store, make_inputs, preference_rows, killed_at, weights_of
):
    stored = store()
    straight, _ = train_dpo(TWICE, make_inputs(preference_rows, "straight", reference=stored))
    inputs = make_inputs(preference_rows, "killed", reference=stored)
    with killed_at(5):
        train_dpo(TWICE, inputs)
    resumed, report = train_dpo(TWICE, inputs)
    assert report.resumed_from == 3
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())


def test_reference_of_other_rows_precision_or_weights_is_refused(store, make_inputs, preference_rows, tmp_path):
    train = read_rows(preference_rows, "train").to_list()
    train[3]["chosen_ids"][0] += 1
    other_rows = write_rows(tmp_path / "other", {"train": train, "eval": train[:4]}, PREFERENCE)
    inputs = make_inputs(preference_rows, reference=store("rows", rows=other_rows))
    found, wanted = other_rows.sha256[:12], preference_rows.sha256[:12]
    with pytest.raises(ProofError, match=rf"rows_sha256 {found} instead of {wanted}\. Run again with --no-cache"):
        train_dpo(TWICE, inputs)
    inputs = make_inputs(preference_rows, reference=store("dtype", dtype="bfloat16"))
    with pytest.raises(ProofError, match="dtype bfloat16 instead of float32"):
        train_dpo(TWICE, inputs)
    inputs = make_inputs(preference_rows, reference=store("alpha", ld_alpha=0.5))
    with pytest.raises(ProofError, match=r"ld_alpha 0\.5 instead of None"):
        train_dpo(TWICE, inputs)
    stored = store("weights")
    key = stored.key.model_copy(update={"weights_sha256": "0" * 64})
    inputs = make_inputs(preference_rows, reference=stored.model_copy(update={"key": key}))
    with pytest.raises(ProofError, match="weights_sha256 000000000000 instead of"):
        train_dpo(TWICE, inputs)


def rewritten(stored, folder, change):
    """Return stored log-probabilities with other numbers under the same key."""
    splits = {name: read_rows(stored, name).to_list() for name in stored.rows}
    change(splits)
    written = write_rows(folder, splits, REFERENCE)
    return ReferenceLogProbs(**written.model_dump(), key=stored.key)


def test_wrong_numbers_under_the_right_key_do_not_pass(store, make_inputs, preference_rows, tmp_path):
    def shift(splits):  # both sides alike: the loss at the first step would not tell
        for row in splits["train"]:
            for name in row:
                row[name] += 0.5

    def swap(splits):
        splits["eval"][0], splits["eval"][1] = splits["eval"][1], splits["eval"][0]

    for change in (shift, swap):
        wrong = rewritten(store(change.__name__), tmp_path / f"wrong-{change.__name__}", change)
        with pytest.raises(ProofError, match=r"are not the reference's: on 12 pairs they differ from fresh ones by up"):
            train_dpo(TWICE, make_inputs(preference_rows, reference=wrong))


def test_too_few_numbers_and_changed_files_do_not_pass(store, make_inputs, preference_rows, tmp_path):
    short = rewritten(store("short"), tmp_path / "shorter", lambda splits: splits["train"].pop())
    with pytest.raises(ProofError, match="another number of pairs"):
        train_dpo(TWICE, make_inputs(preference_rows, reference=short))
    stored = store("changed")
    file = stored.path / "train" / "data.arrow"
    content = bytearray(file.read_bytes())
    content[-60] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ProofError, match="files that have changed since they were written"):
        train_dpo(TWICE, make_inputs(preference_rows, reference=stored))


def test_reference_in_half_precision_is_stored_and_taken(store, make_inputs, preference_rows):
    model = ModelConfig(dtype="bfloat16")
    inputs = make_inputs(preference_rows, model=model, adapter=LoraAdapter(r=4), reference=store(dtype="bfloat16"))
    _, report = train_dpo(TWICE, inputs)
    assert report.reference.stored_logps
    assert report.reference.step0_loss == pytest.approx(report.reference.expected_loss, rel=1e-2)


def test_policy_trained_whole_takes_a_stored_reference_and_loads_no_copy(
    store, make_inputs, preference_rows, monkeypatch
):
    loaded = []
    load = dpo.load_for_training
    monkeypatch.setattr(dpo, "load_for_training", lambda *args: (loaded.append(1), load(*args))[1])
    histories = []
    for kind in ("stored", "on_the_fly"):
        config = TWICE.model_copy(update={"reference": kind, "learning_rate": 1e-3, "kl_answers": 2})
        reference = store(kind, adapter=FullFineTuning())
        inputs = make_inputs(preference_rows, kind, adapter=FullFineTuning(), reference=reference)
        _, report = train_dpo(config, inputs)
        histories.append([loss for _, loss in report.series("loss")])
        assert bool(report.series("eval_kl_per_answer")) == (kind == "on_the_fly")  # else there is no reference
    assert histories[0] == pytest.approx(histories[1], rel=1e-4)
    assert len(loaded) == 3  # the policy, and for the second run the copy


def test_precision_in_the_key_tells_quantised_and_full_precision_weights_apart():
    adapters = [LoraAdapter(), QloraAdapter(), QloraAdapter(bits=8), FullFineTuning()]
    names = [Scoring(ModelConfig(dtype="bfloat16"), adapter)._precision() for adapter in adapters]
    assert names == ["bfloat16", *(f"bfloat16 with weights in {what}" for what in ("4 bits", "8 bits", "float32"))]
    assert Scoring(ModelConfig(dtype="float32"), FullFineTuning())._precision() == "float32"


@pytest.mark.parametrize(
    ("config", "stores"),
    [
        ({"epochs": 1}, False),
        ({"epochs": 1.5}, False),
        ({"epochs": 2}, True),
        ({"epochs": 9, "max_steps": 15, "batch_size": 8}, False),  # 120 of 80 pairs: 1.5 times
        ({"max_steps": 16, "batch_size": 8}, True),
        ({"max_steps": 4, "batch_size": 8, "accumulation": 4}, True),
        ({"epochs": 9, "reference": "on_the_fly"}, False),
        ({"epochs": 1, "reference": "stored"}, True),
        ({"epochs": 9, "reference_free": True}, False),
    ],
)
def test_reference_is_stored_where_pairs_are_seen_again_or_it_is_asked_for(config, stores):
    assert stores_reference(DPOStageConfig(**config), 80) is stores


def test_nothing_is_scored_where_max_steps_see_too_few_pairs(store, scored, make_inputs, preference_rows):
    stored = store(pairs_seen=12)  # 8 pairs, 1.5 times
    assert (stored.rows, scored) == ({}, [])
    config = DPOStageConfig(max_steps=6, batch_size=2)
    _, report = train_dpo(config, make_inputs(preference_rows, reference=stored))
    assert not report.reference.stored_logps
    assert store("enough", pairs_seen=13).rows == {"train": 8, "eval": 4}


def test_scoring_without_held_out_pairs(store, preference_rows, tmp_path):
    train = read_rows(preference_rows, "train").to_list()
    rows = write_rows(tmp_path / "train-only", {"train": train}, PREFERENCE)
    assert store(rows=rows).rows == {"train": 8}


def test_batches_hold_rows_of_like_length_up_to_a_number_of_tokens():
    lengths = [4, 10, 6, 6, 2, 30]
    # 30 is over 24 alone; 10 + padding to 10 twice is 20; 6, 4 and 2 in rows of 6
    assert list(batches_of_like_length(lengths, 24)) == [[5], [1, 2], [3, 0, 4]]


def test_time_left_is_said_while_the_reference_scores(monkeypatch, caplog, store, preference_rows):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("llm_engineering.progress.time.perf_counter", lambda: now.seconds)
    monkeypatch.setattr("llm_engineering.training.dpo_trainer.TOKENS_AT_ONCE", 1)  # a pair a batch
    compute = PreparedDPOTrainer._compute_ref_log_probs

    def slow(self, *args):
        now.seconds += 2
        return compute(self, *args)

    monkeypatch.setattr(PreparedDPOTrainer, "_compute_ref_log_probs", slow)
    with caplog.at_level(logging.INFO):
        store()
    # twice the tokens of prompt and longer answer, every pair; the three longest take 6 of the seconds
    pairs = list(read_rows(preference_rows, "train"))
    tokens = [2 * len(p["prompt_ids"]) + 2 * max(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in pairs]
    done, total = sum(sorted(tokens)[-3:]), sum(tokens)
    speed = done / 6
    left = f"{round((total - done) / speed)} s left"
    left = f"{round((total - done) / speed)} s left"
    lines = [message for message in caplog.messages if message.startswith("Reference, 8 train pairs:")]
    assert lines[0] == f"Reference, 8 train pairs: {done}/{total} tokens · {speed:,.0f} tokens/s · {left}"
