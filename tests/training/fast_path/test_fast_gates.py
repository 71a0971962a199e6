"""The fast path against the unmodified trainers of TRL: the same batches, the same numbers."""

from pathlib import Path

import pytest
import torch
from counterparts import ARCHITECTURES, TRAINERS, OurDPO, OurSFT, StockDPO, StockSFT
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import _patch_chunked_ce_lm_head

LOSS = 5e-6
GRADIENT = 2e-5
"""Euclidean length of the difference, relative to the gradient's."""
METRIC = 1e-4
DPO_LOSSES = [
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
]
CLOCK = ("_per_second", "_runtime", "_time")
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def step(trainer, batch, **kwargs):
    """Return loss, gradients and logged metrics of one batch."""
    trainer.model.train()
    trainer.model.zero_grad()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, dict(batch), **kwargs)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def distance(a, b):
    assert a.keys() == b.keys()
    difference = sum(((a[name] - b[name]).double() ** 2).sum() for name in a).sqrt()
    return float(difference / sum((a[name].double() ** 2).sum() for name in a).sqrt())


def assert_same(stock, ours, loss=LOSS, gradient=GRADIENT, metric=METRIC):
    assert abs(ours[0] - stock[0]) <= loss * max(1, abs(stock[0]))
    assert distance(stock[1], ours[1]) <= gradient
    assert_same_metrics(stock[2], ours[2], metric)


def assert_same_metrics(stock, ours, tolerance=METRIC):
    assert stock.keys() == ours.keys()
    for name in stock:
        assert abs(stock[name] - ours[name]) <= tolerance * max(1, abs(stock[name])), name


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def both(make_trainer, task, **settings):
    stock, ours = (make_trainer(trainer_class, **settings) for trainer_class in TRAINERS[task])
    assert ours.path == "fast"
    return stock, ours


@pytest.mark.parametrize("loss_type", DPO_LOSSES)
def test_every_dpo_loss_is_trls(loss_type, make_trainer):
    smoothing = 0.1 if loss_type in SMOOTHED else 0.0
    stock, ours = both(make_trainer, "dpo", loss_type=[loss_type], label_smoothing=smoothing)
    batch = first_batch(stock)
    assert_same(step(stock, batch), step(ours, batch))
    assert ours.fast.passes == 2  # policy and reference


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
        {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.8, -0.8], "label_smoothing": 0.1},
        {"ld_alpha": 0.5},
        {"f_divergence_type": "js_divergence"},
        {"precompute_ref_log_probs": True},
    ],
    ids=["nll", "conservative", "length desensitised", "f-divergence", "stored reference"],
)
def test_what_surrounds_the_dpo_loss_is_trls(settings, make_trainer):
    stock, ours = both(make_trainer, "dpo", **settings)
    batch = first_batch(stock)
    assert_same(step(stock, batch), step(ours, batch))


def test_reference_log_probabilities_are_trls(make_trainer):
    stock, ours = both(make_trainer, "dpo", precompute_ref_log_probs=True)
    assert ours.fast.passes == 2  # all training rows together, and all held-out ones
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        for dataset in ("train_dataset", "eval_dataset"):
            expected, found = (torch.tensor(getattr(t, dataset)[name]) for t in (stock, ours))
            assert torch.allclose(expected, found, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("num_items", [None, 37])
def test_sft_loss_is_trls(num_items, make_trainer):
    stock, ours = both(make_trainer, "sft")
    items = None if num_items is None else torch.tensor(num_items)
    for batch in stock.get_train_dataloader():
        assert_same(
            step(stock, batch, num_items_in_batch=items),
            step(ours, batch, num_items_in_batch=items),
        )
    assert ours.fast.passes == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_every_architecture_on_the_list_gives_trls_numbers(task, architecture, make_trainer):
    stock, ours = both(make_trainer, task, architecture=architecture)
    batch = first_batch(stock)
    assert_same(step(stock, batch), step(ours, batch))


def test_every_architecture_on_the_list_is_tried():
    from llm_engineering.models.flat.support import ARCHITECTURES as LISTED

    assert set(ARCHITECTURES) == LISTED


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "adamw_torch_fused"},
        {"optim": "adamw_torch"},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    ],
    ids=["fused", "unfused", "accumulated", "checkpointed", "checkpointed reentrantly"],
)
def test_five_updates_are_trls(task, settings, make_trainer):
    stock, ours = both(make_trainer, task, **settings)
    for trainer in (stock, ours):
        trainer.train()
    assert len(losses(ours)) == 5
    assert abs(losses(ours)[0] - losses(ours)[-1]) > 1e-2  # a stale merge would stand still
    for expected, found in zip(losses(stock), losses(ours), strict=True):
        assert abs(expected - found) <= LOSS * max(1, abs(expected))
    assert ours.fast.passes >= 5


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_one_batch_of_eight_is_eight_batches_of_one(task, make_trainer):
    weights = []
    for size, accumulation in ((8, 1), (1, 8)):
        trainer = make_trainer(
            TRAINERS[task][1], per_device_train_batch_size=size, gradient_accumulation_steps=accumulation
        )
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert distance(*weights) <= 1e-5


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_evaluation_is_trls(task, make_trainer):
    found = []
    for trainer in both(make_trainer, task, per_device_eval_batch_size=2):
        metrics = trainer.evaluate()
        # the ratios to the reference are ours; TRL logs them times beta alone, as rewards
        found.append({k: v for k, v in metrics.items() if not k.endswith(CLOCK) and "log_ratio" not in k})
    assert_same_metrics(*found)


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning")
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("length", [6, 17])
def test_cut_pairs_give_trls_numbers(length, mode, make_trainer, tokenizer):
    stock, ours = both(make_trainer, "dpo", max_length=length, truncation_mode=mode)
    collator = DataCollatorForPreference(tokenizer.pad_token_id, max_length=length, truncation_mode=mode)
    batch = collator([stock.train_dataset[i] for i in (1, 2, 5, 7)])
    assert batch["input_ids"].shape[1] == length
    assert_same(step(stock, batch), step(ours, batch))


def test_rows_that_the_collator_packs_give_the_numbers_of_padded_ones(make_trainer):
    stock, ours = both(make_trainer, "sft")
    batch = first_batch(stock)
    kept = batch["attention_mask"].bool()
    starts = batch["attention_mask"].cumsum(1)[kept] == 1
    packed = {
        "input_ids": batch["input_ids"][kept][None],
        "labels": batch["labels"][kept].masked_fill(starts, -100)[None],
        "position_ids": (batch["attention_mask"].cumsum(1) - 1)[kept][None],
    }
    assert_same(step(stock, batch), step(ours, packed))
    assert ours.fast.passes == 1


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_resumed_training_is_bit_identical(task, make_trainer, tmp_path):
    straight = make_trainer(TRAINERS[task][1], save_strategy="steps", save_steps=2)
    straight.train()
    resumed = make_trainer(TRAINERS[task][1])
    resumed.train(resume_from_checkpoint=str(Path(straight.args.output_dir) / "checkpoint-2"))
    assert straight.path == resumed.path == "fast"
    theirs = dict(resumed.model.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in straight.model.named_parameters())


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["autocast", "pure"])
def test_bfloat16_is_no_further_from_float32_than_trls(task, dtype, make_trainer):
    exact = make_trainer(TRAINERS[task][0])
    batch = first_batch(exact)
    truth = step(exact, batch)
    stock, ours = (step(trainer, batch) for trainer in both(make_trainer, task, dtype=dtype, bf16=True))
    assert abs(ours[0] - stock[0]) <= 0.02 * max(1, abs(stock[0]))
    assert abs(ours[0] - truth[0]) <= abs(stock[0] - truth[0]) + 0.01 * max(1, abs(truth[0]))
    assert distance(truth[1], ours[1]) <= 1.2 * distance(truth[1], stock[1])


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_dora_keeps_pefts_layers_on_flat_rows(task, make_trainer):
    stock, ours = both(make_trainer, task, lora={"use_dora": True})
    batch = first_batch(stock)
    assert_same(step(stock, batch), step(ours, batch))


DROPOUT = {"sft": {}, "dpo": {"disable_dropout": False}}


@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_adapter_dropout_acts_while_training_and_not_in_evaluation(task, make_trainer):
    stock, ours = both(make_trainer, task, lora={"lora_dropout": 0.5}, **DROPOUT[task])
    batch = first_batch(stock)
    assert step(ours, batch)[0] != step(ours, batch)[0]
    found = []
    for trainer in (stock, ours):
        trainer.model.eval()
        with torch.no_grad():
            found.append(trainer.compute_loss(trainer.model, dict(batch)).item())
    assert found[0] == pytest.approx(found[1], abs=LOSS)


def test_each_answer_of_a_pair_has_dropout_of_its_own(make_trainer):
    ours = make_trainer(OurDPO, lora={"lora_dropout": 0.5}, **DROPOUT["dpo"])
    batch = first_batch(ours)
    with ours._laid_out(batch):
        assert len(ours._rows.input_ids_N) == int(batch["attention_mask"].sum())


def test_only_some_layers_may_have_adapters(make_trainer):
    for task in TRAINERS:
        stock, ours = both(make_trainer, task, lora={"target_modules": ["q_proj", "v_proj"]})
        batch = first_batch(stock)
        assert_same(step(stock, batch), step(ours, batch))


def test_generation_goes_the_models_own_way(make_trainer):
    tokens = []
    for trainer in (make_trainer(StockSFT), make_trainer(OurSFT), make_trainer(StockDPO), make_trainer(OurDPO)):
        trainer.model.eval()
        ids = torch.tensor([[40, 41, 42, 43], [50, 51, 52, 53]])
        found = trainer.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )
        tokens.append(found.tolist())
        assert getattr(trainer, "fast", None) is None or trainer.fast.passes == 0
    assert tokens[0] == tokens[1] == tokens[2] == tokens[3]


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_mlp_runs_on_scored_positions_alone(architecture, task, make_trainer):
    ours = make_trainer(TRAINERS[task][1], architecture)
    batch = first_batch(ours)
    seen = []
    whole = ours.fast.last_mlp.whole
    ours.fast.last_mlp.whole = lambda hidden: seen.append(hidden.shape[1]) or whole(hidden)
    step(ours, batch)
    # SFT: the answers of the first four rows have 5, 8, 3 and 2 tokens. DPO: the rejected ones have 2, 14, 3 and 7, and
    # the token before both answers is one position; the second pair's answers have three more tokens in common.
    assert seen == ([5 + 8 + 3 + 2] if task == "sft" else 2 * [18 + 26 - 4 - 3])


def test_last_mlp_runs_whole_where_it_runs_again_in_the_backward_pass(make_trainer):
    ours = make_trainer(OurSFT, gradient_checkpointing=True, max_steps=1)
    seen = []
    whole = ours.fast.last_mlp.whole
    ours.fast.last_mlp.whole = lambda hidden: seen.append(hidden.shape[1]) or whole(hidden)
    ours.train()
    assert seen == 2 * [8 + 28 + 4 + 11]


def test_path_that_does_not_run_stops_training(make_trainer):
    ours = make_trainer(OurSFT)
    patch_as_trl_does(ours.fast.model)
    with pytest.raises(AssertionError, match="did not run"):
        ours.train()


def patch_as_trl_does(model):
    """Lay TRL's patch over ours, as a second trainer of the same model would."""
    del model.forward
    _patch_chunked_ce_lm_head(model, 256)
