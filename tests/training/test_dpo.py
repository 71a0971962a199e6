"""DPO on a random Llama of 56k parameters: 8 pairs, whose losses are checked in float64."""

import json
import math

import pytest
import torch
from loss_formulas import EVERY_LOSS, answer_logps, dpo_loss
from peft import PeftModel
from transformers import AutoModelForCausalLM

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import ProofError
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import hash_frozen, load_model
from llm_engineering.training.dpo import prove_reference, train_dpo, zero_ratio_loss
from llm_engineering.training.dpo_arguments import dpo_arguments
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.losses import load_loss, uses_reference
from llm_engineering.training.sft import train_sft

ON_THE_FLY = 1
"""Epochs in which every pair is seen once: the reference's log-probabilities are computed with the batch."""
PRECOMPUTED = 2


@pytest.fixture
def make_trainer(tiny_base, preference_rows, tmp_path):
    def make(config):
        torch.manual_seed(0)
        model = load_model(tiny_base.path, torch.float32)
        return PreparedDPOTrainer(
            model=model,
            args=dpo_arguments(config, ModelConfig(), tmp_path / "trainer", 3, evaluates=False, rows=8),
            train_dataset=read_rows(preference_rows, "train"),
            processing_class=load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer,
            reference_free=not uses_reference(config),
            own_loss=load_loss(config),
            fast_path=config.fast_path,
            peft_config=adapter_config(LoraAdapter(r=4), model),
        )

    return make


def perturb(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def sides(rows):
    pairs = list(read_rows(rows, "train"))
    return [[(pair["prompt_ids"], pair[side]) for pair in pairs] for side in ("chosen_ids", "rejected_ids")]


def first_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(8)])


def loss_of_batch(trainer):
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, first_batch(trainer)))


def moved_twin(trainer, tiny_base, adapter):
    """Return the trainer's policy in float64, and its adapter's weights moved away from zero in both."""
    perturb(trainer.model)
    trainer.model.save_pretrained(adapter, save_embedding_layers=False)
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.float64)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True).double()


@pytest.mark.parametrize("kind", EVERY_LOSS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_loss_and_gradient_are_the_formulas(kind, make_trainer, preference_rows, tiny_base, exact_logps, tmp_path):
    config = DPOStageConfig(**{"epochs": ON_THE_FLY, "beta": 0.7, **kind})
    trainer = make_trainer(config)
    reference = [exact_logps(tiny_base, side) for side in sides(preference_rows)]
    assert loss_of_batch(trainer) == pytest.approx(float(dpo_loss(config, reference, reference)), rel=1e-5)

    twin = moved_twin(trainer, tiny_base, tmp_path / "moved")
    expected = dpo_loss(config, [answer_logps(twin, side) for side in sides(preference_rows)], reference)
    expected.backward()
    expected = expected.detach()
    assert abs(float(expected) - float(dpo_loss(config, reference, reference))) > 1e-3
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    exact = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.grad is not None}
    found = {name: p.grad.double() for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert found.keys() == exact.keys()
    size = sum((gradient**2).sum() for gradient in exact.values()).sqrt()
    distance = sum(((found[name] - exact[name]) ** 2).sum() for name in exact).sqrt()
    assert distance <= 1e-4 * size


def test_gradient_of_dpo_is_the_papers(make_trainer, preference_rows, tiny_base, exact_logps, tmp_path):
    # Rafailov et al. 2023, section 4: -beta sigma(-beta delta) (grad log pi(chosen) - grad log pi(rejected))
    trainer = make_trainer(DPOStageConfig(epochs=ON_THE_FLY, beta=0.7))
    reference = [exact_logps(tiny_base, side) for side in sides(preference_rows)]
    twin = moved_twin(trainer, tiny_base, tmp_path / "moved")
    trained = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    expected = dict.fromkeys(trained, 0)
    for chosen, rejected, rc, rr in zip(*sides(preference_rows), *reference, strict=True):
        (logp_c,), (logp_r,) = answer_logps(twin, [chosen]), answer_logps(twin, [rejected])
        delta = (logp_c.sum() - rc.sum()) - (logp_r.sum() - rr.sum())
        weight = 0.7 * torch.sigmoid(-0.7 * delta.detach()) / 8
        rise = [torch.autograd.grad(logp.sum(), trained.values()) for logp in (logp_c, logp_r)]
        expected = {n: expected[n] - weight * (c - r) for n, c, r in zip(trained, *rise, strict=True)}
    trainer.model.train()
    trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad.double(), expected[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("kind", EVERY_LOSS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_reference_is_proven_for_every_loss(kind, make_inputs, preference_rows, tiny_base):
    config = DPOStageConfig(max_steps=1, warmup=0, **{"beta": 0.7, **kind})
    _, report = train_dpo(config, make_inputs(preference_rows))
    if not uses_reference(config):
        assert report.reference is None
        assert (report.first_loss is None) is config.reference_free
        assert not any(name.startswith("log_ratio") for name in report.metrics)
    else:
        assert report.reference.step0_loss == pytest.approx(report.reference.expected_loss, rel=1e-4)
        assert report.reference.reference_sha256_after == tiny_base.weights_sha256


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"loss": "sigmoid"}, math.log(2)),
        ({"loss": "sigmoid", "label_smoothing": 0.1}, math.log(2)),
        ({"loss": "robust", "label_smoothing": 0.1}, math.log(2)),
        ({"loss": "hinge"}, 1.0),
        ({"loss": "ipo"}, 25.0),  # (0 - 1 / (2 * 0.1))^2
        ({"loss": "sigmoid", "nll_weight": 0.5}, math.log(2) + 0.5 * 3.0),
    ],
)
def test_loss_at_zero_log_ratios(kind, expected):
    assert zero_ratio_loss(DPOStageConfig(beta=0.1, **kind), nll=3.0) == pytest.approx(expected)


def test_precomputed_reference_equals_the_one_on_the_fly(make_trainer, preference_rows, tiny_base, exact_logps):
    on_the_fly = make_trainer(DPOStageConfig(epochs=ON_THE_FLY, beta=0.7))
    precomputed = make_trainer(DPOStageConfig(epochs=PRECOMPUTED, beta=0.7))
    assert "ref_chosen_logps" not in on_the_fly.train_dataset.column_names
    for name, side in zip(("ref_chosen_logps", "ref_rejected_logps"), sides(preference_rows), strict=True):
        exact = [float(logps.sum()) for logps in exact_logps(tiny_base, side)]
        assert precomputed.train_dataset[name] == pytest.approx(exact, rel=1e-5)
    for trainer in (on_the_fly, precomputed):
        perturb(trainer.model)
    assert loss_of_batch(precomputed) == pytest.approx(loss_of_batch(on_the_fly), rel=1e-5)


@pytest.mark.parametrize("epochs", [ON_THE_FLY, PRECOMPUTED])
def test_every_pair_reaches_the_batches_uncut_once_an_epoch(epochs, make_trainer, preference_rows):
    trainer = make_trainer(DPOStageConfig(epochs=epochs, batch_size=3))
    seen = []
    for batch in trainer.get_train_dataloader():
        pairs = len(batch["input_ids"]) // 2  # chosen first, then rejected
        halves = [[], []]
        for i, (ids, mask, answer) in enumerate(
            zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
        ):
            kept = mask == 1
            halves[i // pairs].append((ids[kept & (answer == 0)].tolist(), ids[kept & (answer == 1)].tolist()))
        seen += list(zip(*halves, strict=True))
    assert sorted(seen) == sorted(zip(*sides(preference_rows), strict=True))


def test_untrained_policy_is_the_frozen_sft_model(make_inputs, preference_rows, tiny_base, exact_logps):
    config = DPOStageConfig(epochs=4, nll_weight=0.2, learning_rate=1e-2)
    _, report = train_dpo(config, make_inputs(preference_rows))
    nll = -float(torch.cat(exact_logps(tiny_base, sides(preference_rows)[0])).mean())
    proof = report.reference
    assert proof.expected_loss == pytest.approx(math.log(2) + 0.2 * nll, rel=1e-5)
    assert proof.step0_loss == pytest.approx(proof.expected_loss, abs=1e-4)
    assert proof.max_logp_difference == 0.0
    sft = tiny_base.weights_sha256
    assert (proof.sft_sha256, proof.reference_sha256_before, proof.reference_sha256_after) == (sft, sft, sft)
    assert report.metrics["loss"] < report.history[0]["loss"]


def test_changed_base_weight_fails_the_proof(make_trainer, tiny_base):
    trainer = make_trainer(DPOStageConfig(epochs=ON_THE_FLY))
    with torch.no_grad():
        next(p for n, p in trainer.model.named_parameters() if "q_proj.base_layer" in n)[0, 0] += 1e-3
    with pytest.raises(ProofError, match="not the frozen SFT model"):
        prove_reference(trainer, DPOStageConfig(), tiny_base.weights_sha256)


@pytest.mark.parametrize("epochs", [ON_THE_FLY, PRECOMPUTED])
def test_adapter_that_is_not_zero_fails_the_proof(epochs, make_trainer, tiny_base):
    config = DPOStageConfig(epochs=epochs)
    trainer = make_trainer(config)
    prove_reference(trainer, config, tiny_base.weights_sha256)
    perturb(trainer.model)
    with pytest.raises(ProofError, match="policy is not its reference"):
        prove_reference(trainer, config, tiny_base.weights_sha256)


def test_wrong_configured_loss_fails_the_proof(make_trainer, tiny_base):
    trainer = make_trainer(DPOStageConfig(epochs=ON_THE_FLY, loss="hinge"))
    with pytest.raises(ProofError, match=r"loss 1\.000000, expected 0\.693147"):
        prove_reference(trainer, DPOStageConfig(loss="sigmoid"), tiny_base.weights_sha256)


def test_model_that_is_not_the_sft_artifact_fails_the_proof(make_inputs, preference_rows, tiny_base):
    other = tiny_base.model_copy(update={"weights_sha256": "0" * 64})
    with pytest.raises(ProofError, match="SFT 000000000000, reference"):
        train_dpo(DPOStageConfig(), make_inputs(preference_rows, base=other))


def test_reference_that_moves_while_training_fails_the_proof(make_inputs, preference_rows, at_step):
    def move(model):
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "base_layer" in n)[0, 0] += 1e-3

    with at_step(2, move), pytest.raises(ProofError, match=r"before and .* after training"):
        train_dpo(DPOStageConfig(max_steps=2), make_inputs(preference_rows))


@pytest.mark.parametrize("adapter", [LoraAdapter(r=4), DoraAdapter(r=4)], ids=["lora", "dora"])
@pytest.mark.parametrize("epochs", [ON_THE_FLY, PRECOMPUTED])
def test_half_precision_trains_and_proves(epochs, adapter, make_inputs, preference_rows):
    # The folder holds float32: the reference's hash is that of the weights as they were cast.
    config = DPOStageConfig(epochs=epochs, nll_weight=0.5)
    inputs = make_inputs(preference_rows, adapter=adapter, model=ModelConfig(dtype="bfloat16"))
    _, report = train_dpo(config, inputs)
    assert report.reference.step0_loss == pytest.approx(report.reference.expected_loss, rel=1e-2)
    assert report.reference.sft_sha256 == report.reference.reference_sha256_after


def test_adapter_dropout_acts_in_dpo_and_leaves_the_proof_alone(make_inputs, preference_rows, weights_of):
    config = DPOStageConfig(max_steps=3, learning_rate=1e-2)
    trained = []
    for dropout in (0.0, 0.5):
        inputs = make_inputs(preference_rows, f"dropout-{dropout}", adapter=LoraAdapter(r=4, dropout=dropout))
        checkpoint, report = train_dpo(config, inputs)
        assert report.reference.step0_loss == pytest.approx(math.log(2), abs=1e-6)
        trained.append(weights_of(checkpoint))
    assert any(not torch.equal(trained[0][name], values) for name, values in trained[1].items())


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 8), (3, 3)], ids=["ones", "threes and a two"])
def test_one_batch_of_eight_pairs_equals_smaller_ones(
    batch_size, accumulation, nll_weight, fast_path, make_inputs, preference_rows, weights_of
):
    def train(batch_size, accumulation):
        config = DPOStageConfig(
            max_steps=4,
            batch_size=batch_size,
            accumulation=accumulation,
            learning_rate=1e-3,
            warmup=0,
            nll_weight=nll_weight,
            fast_path=fast_path,
            logging_steps=1,
        )
        checkpoint, report = train_dpo(config, make_inputs(preference_rows, f"{batch_size}x{accumulation}"))
        return weights_of(checkpoint), [loss for _, loss in report.series("loss")]

    (together, losses), (apart, other_losses) = train(8, 1), train(batch_size, accumulation)
    assert losses == pytest.approx(other_losses, rel=1e-5)
    for name, values in together.items():
        assert torch.allclose(values, apart[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize(("killed_after", "resumed_from"), [(5, 4), (7, 6)])
def test_killed_dpo_resumes_to_the_same_weights(
    killed_after, resumed_from, make_inputs, preference_rows, killed_at, weights_of
):
    config = DPOStageConfig(epochs=2, batch_size=2, learning_rate=1e-2, save_steps=2, evaluation_steps=3)
    adapter = LoraAdapter(r=4, dropout=0.2)
    straight, expected = train_dpo(config, make_inputs(preference_rows, "straight", adapter=adapter))
    inputs = make_inputs(preference_rows, "killed", adapter=adapter)
    with killed_at(killed_after):
        train_dpo(config, inputs)
    resumed, report = train_dpo(config, inputs)
    assert (report.resumed_from, report.steps) == (resumed_from, 8)
    assert report.reference == expected.reference
    assert report.series("num_tokens") == expected.series("num_tokens")
    assert report.series("eval_loss") == expected.series("eval_loss")
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())


def test_report_of_dpo_counts_pairs(make_inputs, preference_rows, tiny_base, at_step):
    hashes = []
    with at_step(2, lambda model: hashes.append(hash_frozen(model))):
        checkpoint, report = train_dpo(
            DPOStageConfig(epochs=2, batch_size=4, accumulation=2), make_inputs(preference_rows)
        )
    assert (report.stage, report.steps, report.rows, report.effective_batch) == ("dpo", 2, 8, 8)
    assert report.pairs_per_second > 0
    assert report.tokens_per_second is None
    assert hashes == [tiny_base.weights_sha256]
    assert checkpoint.base_sha256 == tiny_base.weights_sha256
    assert {"rewards/margins", "rewards/chosen", "rewards/rejected", "eval_loss"} <= report.metrics.keys()


def test_adapters_say_which_model_they_belong_to(make_inputs, sft_rows, preference_rows, tiny_base):
    def belongs_to(adapter):
        config = json.loads((adapter.path / "adapter_config.json").read_text())
        base = json.loads((adapter.path / "base_model.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (base["name"], base["revision"])
        return base

    sft_inputs = make_inputs(sft_rows, "sft", model=ModelConfig(revision="abc"))
    of_sft, _ = train_sft(SFTStageConfig(max_steps=1), sft_inputs)
    assert belongs_to(of_sft) == {"name": "tiny", "revision": "abc", "sha256": tiny_base.weights_sha256}
    merged = tiny_base.model_copy(update={"base_sha256": "0" * 64})  # made from another model
    of_dpo, _ = train_dpo(DPOStageConfig(max_steps=1), make_inputs(preference_rows, "dpo", base=merged))
    path, weights = str(tiny_base.path), tiny_base.weights_sha256
    assert belongs_to(of_dpo) == {"name": path, "revision": None, "sha256": weights}
