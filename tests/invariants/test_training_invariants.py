"""What holds for every setting: checked on the model that ships, and by drawing settings."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.models.generation import Answer
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.scoring.likelihood import labelled
from llm_engineering.training.arguments import planned_steps
from llm_engineering.training.dpo import train_dpo, zero_ratio_loss
from llm_engineering.training.dpo_arguments import dpo_losses
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.preferences import Sample, pair_samples
from llm_engineering.training.sft import train_sft

EOS = 2


@pytest.fixture
def inputs_of(tmp_path):
    """Return a function that gives the inputs of a stage on the embedded base and 12 made-up rows."""
    prompts = [list(range(10 + i, 14 + 2 * i)) for i in range(12)]
    chosen, rejected = ([[start + i, start + 1, EOS] for i in range(12)] for start in (200, 400))
    index = [{"source": 0, "row": i} for i in range(12)]
    conversations = [
        row | dict(zip(("input_ids", "labels"), labelled(p, c), strict=True))
        for row, p, c in zip(index, prompts, chosen, strict=True)
    ]
    pairs = [
        row | {"prompt_ids": p, "chosen_ids": c, "rejected_ids": r}
        for row, p, c, r in zip(index, prompts, chosen, rejected, strict=True)
    ]
    rows = {
        "sft": write_rows(tmp_path / "sft", {"train": conversations}, SFT),
        "dpo": write_rows(tmp_path / "dpo", {"train": pairs}, PREFERENCE),
    }
    questions = write_rows(tmp_path / "questions", {"train": []}, QUESTIONS)

    def make(stage, work):
        return StageInputs(
            base=locate_base(ModelConfig()),
            rows=rows[stage],
            questions=questions,
            model=ModelConfig(),
            adapter=LoraAdapter(),
            evaluation=EvaluationConfig(),
            tracking=NoTracking(),
            seed=1,
            run="invariants",
            work_dir=tmp_path / work,
            archive_dir=tmp_path / "comet",
        )

    return make


def test_untrained_dpo_has_the_loss_ln_2_and_the_sft_model_as_reference(inputs_of):
    inputs = inputs_of("dpo", "work")
    _, report = train_dpo(DPOStageConfig(max_steps=2, learning_rate=1e-3), inputs)
    assert report.reference.step0_loss == pytest.approx(math.log(2), abs=1e-6)
    assert report.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert report.reference.max_logp_difference == 0.0
    assert report.reference.reference_sha256_after == inputs.base.weights_sha256


@pytest.mark.parametrize(
    ("stage", "train", "config"),
    [("sft", train_sft, SFTStageConfig), ("dpo", train_dpo, DPOStageConfig)],
    ids=["sft", "dpo"],
)
def test_equal_inputs_give_equal_bytes(stage, train, config, inputs_of):
    settings = config(epochs=2, batch_size=4, learning_rate=1e-3)
    first, again = (train(settings, inputs_of(stage, work))[0] for work in ("first", "again"))
    assert first.weights_sha256 == again.weights_sha256
    assert first.sha256 == again.sha256
    assert sorted(file.name for file in Path(first.path).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
    ]


@given(
    rows=st.integers(1, 500),
    batch_size=st.integers(1, 64),
    accumulation=st.integers(1, 16),
    epochs=st.integers(1, 4),
)
def test_planned_steps_see_every_row_in_every_epoch(rows, batch_size, accumulation, epochs):
    config = SFTStageConfig(batch_size=batch_size, accumulation=accumulation, epochs=epochs)
    steps = planned_steps(config, rows)
    assert steps % epochs == 0
    assert (steps // epochs - 1) * batch_size * accumulation < rows <= steps // epochs * batch_size * accumulation


@given(
    beta=st.floats(0.01, 10),
    smoothing=st.floats(0, 0.49),
    delta=st.floats(-20, 20),
)
def test_smoothed_sigmoid_is_the_mixture_of_both_labels(beta, smoothing, delta):
    config = DPOStageConfig(beta=beta, label_smoothing=smoothing)
    z = torch.tensor(beta * delta, dtype=torch.float64)
    clean, flipped = float(-torch.nn.functional.logsigmoid(z)), float(-torch.nn.functional.logsigmoid(-z))
    e = config.label_smoothing
    terms = {"sigmoid": clean, "robust": ((1 - e) * clean - e * flipped) / (1 - 2 * e)}
    total = sum(weight * terms[name] for name, weight in dpo_losses(config).items())
    assert total == pytest.approx((1 - e) * clean + e * flipped, rel=1e-9, abs=1e-9)


@given(beta=st.floats(0.01, 10), smoothing=st.floats(0, 0.49), nll=st.floats(0, 20), weight=st.floats(0, 2))
def test_label_smoothing_leaves_the_loss_at_zero_ratios_alone(beta, smoothing, nll, weight):
    for loss in ("sigmoid", "robust"):
        config = DPOStageConfig(beta=beta, loss=loss, label_smoothing=smoothing, nll_weight=weight)
        assert zero_ratio_loss(config, nll) == pytest.approx(math.log(2) + weight * nll)


@given(st.lists(st.integers(0, 3), max_size=12), st.sampled_from(["best_worst", "disjoint"]))
def test_pairs_never_tie_never_turn_round_and_use_a_sample_once(scores, pairing):
    samples = [
        Sample(Answer(str(i), [i, EOS], True), Judgement(correct=True, preferred=True, score=score))
        for i, score in enumerate(scores)
    ]
    pairs = pair_samples(samples, pairing)
    used = [sample.answer.text for pair in pairs for sample in pair]
    assert all(chosen.judgement.score > rejected.judgement.score for chosen, rejected in pairs)
    assert len(used) == len(set(used))
    assert len(pairs) <= (1 if pairing == "best_worst" else len(scores) // 2)
    if pairing == "best_worst":
        assert len(pairs) == (len(set(scores)) > 1)
