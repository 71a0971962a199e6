"""Losses and gradients that are no number, on a random Llama that makes infinite values of token 60.

It stands in the row 5 alone.
"""

import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import ModelError, TrainingError
from llm_engineering.models.adapters import adapter_config, load_for_training
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import hash_weights, load_model, require_finite
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.dpo_arguments import dpo_arguments
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.finite import Update
from llm_engineering.training.recovery import last_checkpoint
from llm_engineering.training.sft import sft_arguments, train_sft
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

TRAINERS = {"sft": (PreparedSFTTrainer, SFTStageConfig), "dpo": (PreparedDPOTrainer, DPOStageConfig)}


@pytest.fixture
def make_trainer(tiny_base, sft_rows, preference_rows, tmp_path):
    def make(stage, base=tiny_base, **settings):
        trainer, config_class = TRAINERS[stage]
        model = load_model(base.path, torch.float32)
        rows = read_rows(sft_rows if stage == "sft" else preference_rows, "train")
        config = config_class(**settings)
        arguments = sft_arguments if stage == "sft" else dpo_arguments
        args = arguments(config, ModelConfig(), tmp_path / "trainer", 3, False, len(rows))
        made = trainer(
            model=model,
            args=args,
            train_dataset=rows,
            processing_class=load_chat_tokenizer(base, ModelConfig()).tokenizer,
            peft_config=adapter_config(LoraAdapter(r=4), model),
        )
        made.source_names = ["my.jsonl"]
        return made

    return make


def trainable(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


@pytest.mark.parametrize(("accumulation", "batch_size"), [(1, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_rows_of_every_update_are_known(stage, batch_size, accumulation, make_trainer, monkeypatch):
    # 8 rows: 3 epochs of several updates each, the last one of an epoch short for 3 x 1
    trainer = make_trainer(stage, epochs=3, batch_size=batch_size, accumulation=accumulation)
    seen = {}
    plain = trainer.training_step

    def training_step(model, inputs, *args):
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
        whole = [[token for token, kept in zip(ids, mask, strict=True) if kept] for ids, mask in rows]
        seen.setdefault(trainer.state.global_step + 1, []).append(whole)
        return plain(model, inputs, *args)

    monkeypatch.setattr(trainer, "training_step", training_step)
    trainer.train()
    assert len(seen) == 3 * math.ceil(8 / (batch_size * accumulation))
    for step, batches in seen.items():
        rows = [[trainer.train_dataset[i] for i in batch] for batch in trainer.rows_of_update(step)]
        if stage == "sft":
            assert batches == [[row["input_ids"] for row in batch] for batch in rows]
        else:
            sides = ("chosen_ids", "rejected_ids")
            assert batches == [[row["prompt_ids"] + row[side] for side in sides for row in batch] for batch in rows]


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_row_that_breaks_the_loss_is_named_and_the_checkpoint_before_kept(
    stage, fast_path, poisoned_base, make_inputs, sft_rows, preference_rows
):
    settings = {"epochs": 3, "batch_size": 2, "save_steps": 1, "logging_steps": 100, "fast_path": fast_path}
    rows = sft_rows if stage == "sft" else preference_rows
    inputs = make_inputs(rows, base=poisoned_base, sources=["my.jsonl"])
    train, config = (train_sft, SFTStageConfig) if stage == "sft" else (train_dpo, DPOStageConfig)
    with pytest.raises(TrainingError) as caught:
        train(config(**settings), inputs)
    said = re.fullmatch(
        rf"{stage.upper()}: the loss is nan at step (\d+), on rows (\d) and (\d) of my\.jsonl; alone, row 5 of "
        r"my\.jsonl gives it too\. Mend what is in it or leave it out, and run again; the last good checkpoint is "
        r"kept\.",
        str(caught.value),
    )
    assert said, str(caught.value)
    assert "5" in said.groups()[1:]
    step = int(said[1])
    kept = last_checkpoint(inputs.work_dir)
    assert (kept and kept.name) == (f"checkpoint-{step - 1}" if step > 1 else None)


def test_first_pairs_that_break_the_loss_are_named_where_the_reference_is_proven(
    poisoned_base, make_inputs, preference_rows
):
    inputs = make_inputs(preference_rows, base=poisoned_base, sources=["my.jsonl"])
    with pytest.raises(
        TrainingError, match=r"loss is nan before the first update, on rows 0, 1, 2, 3, 4 and 5 of my\."
    ):
        train_dpo(DPOStageConfig(batch_size=6), inputs)


@pytest.fixture
def broken_base(tiny_base, tmp_path):
    """Return a function that gives the tiny base with one weight of another value."""

    def make(value):
        folder = tmp_path / "broken"
        shutil.copytree(tiny_base.path, folder)
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return tiny_base.model_copy(update={"path": folder, "weights_sha256": hash_weights(folder)})

    return make


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(("stage", "settings"), [("sft", {}), ("dpo", {}), ("dpo", {"reference": "stored"})])
def test_base_whose_weights_are_no_numbers_is_refused_and_no_row_blamed(
    stage, settings, value, broken_base, make_inputs, sft_rows, preference_rows
):
    base = broken_base(value)
    inputs = make_inputs(sft_rows if stage == "sft" else preference_rows, base=base)
    train, config = (train_sft, SFTStageConfig) if stage == "sft" else (train_dpo, DPOStageConfig)
    with pytest.raises(ModelError) as caught:
        train(config(**settings), inputs)
    assert str(caught.value) == (
        f"model.layers.1.mlp.up_proj.weight of the model in {base.path} holds NaN or infinite numbers, so that every "
        "loss would be no number. Fetch or save the model again, or name another."
    )
    assert caught.value.exit_code == 2


def test_weight_that_float16_cannot_hold_asks_for_a_wider_precision(broken_base):
    base = broken_base(1e6)
    load_for_training(base.path, ModelConfig(dtype="float32"), LoraAdapter())
    with pytest.raises(
        ModelError, match=r"up_proj\.weight of .*, or, if its files are good, set model\.dtype to float"
    ):
        require_finite(load_model(base.path, torch.float16), base.path)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_weight_that_breaks_while_training_is_named_and_no_row(stage, make_trainer):
    trainer = make_trainer(stage, max_steps=4, batch_size=2)

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    next(p for n, p in model.named_parameters() if "1.mlp.up_proj.lora_B" in n)[0, 0] = math.nan

    trainer.add_callback(Break())
    said = (
        rf"{stage.upper()}: the loss is nan at step 3, since \S+1\.mlp\.up_proj\.lora_B\S+ holds NaN or infinite "
        r"numbers; the rows are not to blame\. Lower the learning rate or max_grad_norm; the last good checkpoint is "
        r"kept\."
    )
    with pytest.raises(TrainingError, match=said):
        trainer.train()


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_batch_of_an_update_that_breaks_is_told_from_the_others(stage, poisoned_base, make_trainer):
    trainer = make_trainer(stage, poisoned_base, max_steps=1, batch_size=2, accumulation=4, epochs=2)
    before = trainable(trainer)
    with pytest.raises(TrainingError, match=r"at step 1, on rows \d and \d of my.jsonl; alone, row 5 of my.jsonl"):
        trainer.train()
    assert torch.equal(trainable(trainer), before)  # the update was not made


@pytest.mark.parametrize("fails_at", [2, 4], ids=["within an epoch", "at its end"])
def test_number_that_is_read_late_still_names_its_step_and_rows(fails_at, make_trainer):
    trainer = make_trainer("sft", max_steps=8, batch_size=2, save_steps=100)
    trainer.reads_late = True
    plain, steps = trainer._get_grad_norm, []

    def spoiled(*args, **kwargs):
        norm = plain(*args, **kwargs)
        steps.append(trainer.state.global_step + 1)
        if len(steps) == fails_at:
            trainer._unread = Update.of(fails_at, [torch.tensor(math.nan)], norm)
        return norm

    trainer._get_grad_norm = spoiled
    with pytest.raises(TrainingError, match=f"the loss is nan at step {fails_at}, on rows") as caught:
        trainer.train()
    assert len(steps) == fails_at  # found in the next update's first batch
    rows = [trainer.train_dataset[i]["row"] for i in trainer.rows_of_update(fails_at)[0]]
    assert f"on rows {min(rows)} and {max(rows)} of my.jsonl. Lower" in str(caught.value)


def test_number_of_the_last_update_is_read_before_its_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer("sft", max_steps=2, batch_size=2, save_steps=1)
    trainer.reads_late = True
    plain = trainer._get_grad_norm

    def spoiled(*args, **kwargs):
        norm = plain(*args, **kwargs)
        if trainer.state.global_step == 1:
            trainer._unread = Update.of(2, [torch.tensor(math.inf)], norm)
        return norm

    trainer._get_grad_norm = spoiled
    with pytest.raises(TrainingError, match=r"the loss is inf at step 2"):
        trainer.train()
    assert last_checkpoint(tmp_path / "trainer").name == "checkpoint-1"


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_infinite_gradient_stops_training_before_the_update(stage, make_trainer):
    trainer = make_trainer(stage, max_steps=4, batch_size=8)
    parameter = next(p for n, p in trainer.model.named_parameters() if "lora_B" in n)
    passes = []
    parameter.register_hook(lambda gradient: passes.append(1) or gradient * (math.inf if len(passes) > 2 else 1.0))
    with pytest.raises(
        TrainingError, match=r"the gradient's norm is (nan|inf) at step 3, on rows 0, 1, 2, 3, 4, 5, 6 and 7"
    ):
        trainer.train()
    assert trainer.state.global_step == 2
    assert trainable(trainer).isfinite().all()


def test_rate_that_is_far_too_high_is_named_as_the_cause(make_inputs, sft_rows):
    config = SFTStageConfig(max_steps=20, batch_size=2, learning_rate=1.0, warmup=0, max_grad_norm=1e30)
    with pytest.raises(TrainingError, match=r"at step \d+, on rows \d and \d of source 0\. Lower the learning rate or"):
        train_sft(config, make_inputs(sft_rows, adapter=LoraAdapter(r=4, alpha=1e30)))


def test_overflow_in_float16_is_the_loss_scalers_while_it_has_a_scale_to_lower(make_trainer):
    trainer = make_trainer("sft", max_steps=1, batch_size=8)
    trainer.train()

    def read(loss, norm):
        trainer._unread = Update.of(1, [torch.tensor(loss)], torch.tensor(norm))
        trainer.require_finite()

    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    trainer.accelerator.scaler.scale(torch.tensor(1.0))  # the scale is made at its first use
    read(1.0, math.inf)
    with pytest.raises(TrainingError, match="loss is nan"):
        read(math.nan, math.inf)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trainer.accelerator.scaler.scale(torch.tensor(1.0))
    with pytest.raises(TrainingError, match="gradient's norm is inf"):
        read(1.0, math.inf)


def test_rows_are_named_by_source_and_the_many_are_counted(make_trainer):
    from datasets import Dataset

    trainer = make_trainer("sft")
    places = [(1, row) for row in range(40, 0, -1)] + [(0, 7), (-1, 3), (2, 9)]
    trainer.train_dataset = Dataset.from_dict({"source": [s for s, _ in places], "row": [r for _, r in places]})
    trainer.source_names = ["a.jsonl", "b.jsonl"]
    assert trainer.name_rows([40]) == "row 7 of a.jsonl"
    assert (
        trainer.name_rows([40, 36, 38, 41])
        == "row 3 of the sampled pairs and row 7 of a.jsonl and rows 2 and 4 of b.jsonl"
    )
    assert trainer.name_rows([42, 39]) == "row 1 of b.jsonl and row 9 of source 2"
    many = ", ".join(str(number) for number in range(1, 33))
    assert trainer.name_rows(range(40)) == f"rows {many} and 8 more of b.jsonl"
