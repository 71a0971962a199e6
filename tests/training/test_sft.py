"""SFT on a random Llama of 56k parameters: 8 rows of 3 to 9 tokens, whose numbers are checked in float64."""

import re
import resource
from itertools import count

import pytest
import torch

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig, QloraAdapter
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import SFT, read_rows, write_rows
from llm_engineering.errors import ConfigError, TrainingError
from llm_engineering.models.adapters import adapter_config, load_for_training
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import hash_frozen, load_model
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.training.recovery import is_whole, last_checkpoint
from llm_engineering.training.sft import sft_arguments, train_sft
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

JUDGED = EvaluationConfig(checker=f"{__name__}:scripted", max_new_tokens=2)
NUM_QUESTIONS = 4
_script: list[float] = []
_calls = count()


def scripted(answer: str, reference: str) -> Judgement:
    """Give all answers of the n-th evaluation the n-th score of the script."""
    score = _script[next(_calls) // NUM_QUESTIONS]
    return Judgement(correct=score > 0.5, preferred=False, score=score)


def play(*scores: float) -> None:
    global _calls
    _script[:] = scores
    _calls = count()


def all_rows(rows, split="train"):
    return [(row["input_ids"], row["labels"]) for row in read_rows(rows, split)]


def prompt_and_answer(row):
    ids, labels = row
    start = labels.count(-100)
    return ids[:start], ids[start:]


@pytest.fixture
def make_trainer(tiny_base, sft_rows, tmp_path):
    def make(config=SFTStageConfig(), rows=sft_rows):  # noqa: B008  # frozen
        model = load_model(tiny_base.path, torch.float32)
        return PreparedSFTTrainer(
            model=model,
            args=sft_arguments(config, ModelConfig(), tmp_path / "trainer", 3, evaluates=True, rows=8),
            train_dataset=read_rows(rows, "train"),
            eval_dataset=read_rows(rows, "eval"),
            processing_class=load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer,
            peft_config=adapter_config(LoraAdapter(r=4), model),
        )

    return make


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4), (1, 8)])
def test_first_loss_is_the_mean_over_all_answer_tokens_of_the_update(
    batch_size, accumulation, make_inputs, sft_rows, tiny_base, exact_logps
):
    config = SFTStageConfig(max_steps=1, batch_size=batch_size, accumulation=accumulation)
    _, report = train_sft(config, make_inputs(sft_rows))
    # answers of 3, 4, 5, 3, 4, 5, 3, 4 tokens: 31 in all, each with the weight 1 / 31
    logps = torch.cat(exact_logps(tiny_base, [prompt_and_answer(row) for row in all_rows(sft_rows)]))
    assert len(logps) == 31
    assert report.history[0]["loss"] == pytest.approx(-float(logps.mean()), rel=1e-5)


def test_held_out_loss_is_the_mean_over_the_held_out_answer_tokens(make_inputs, sft_rows, tiny_base, exact_logps):
    _, report = train_sft(SFTStageConfig(max_steps=1, learning_rate=1e-12), make_inputs(sft_rows))
    logps = torch.cat(exact_logps(tiny_base, [prompt_and_answer(row) for row in all_rows(sft_rows, "eval")]))
    assert len(logps) == 3 + 4 + 5 + 3
    assert report.metrics["eval_loss"] == pytest.approx(-float(logps.mean()), rel=1e-5)


def test_tokens_without_a_label_carry_no_loss(make_inputs, tmp_path, weights_of):
    # Two sets differ in the token behind the answer alone, which no labelled token sees.
    def rows_ending_in(token):
        rows = [
            {"source": 0, "row": i, "input_ids": [10 + i, 11, 40, 2, token], "labels": [-100, -100, 40, 2, -100]}
            for i in range(4)
        ]
        return write_rows(tmp_path / str(token), {"train": rows}, SFT)

    config = SFTStageConfig(max_steps=2, batch_size=4, learning_rate=1e-2)
    trained = [weights_of(train_sft(config, make_inputs(rows_ending_in(token), str(token)))[0]) for token in (77, 99)]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 8), (3, 3)], ids=["ones", "threes and a two"])
def test_one_batch_of_eight_equals_smaller_ones(batch_size, accumulation, fast_path, make_inputs, sft_rows, weights_of):
    def train(batch_size, accumulation):
        config = SFTStageConfig(
            max_steps=4,
            batch_size=batch_size,
            accumulation=accumulation,
            learning_rate=1e-3,
            warmup=0,
            fast_path=fast_path,
        )
        return weights_of(train_sft(config, make_inputs(sft_rows, f"{batch_size}x{accumulation}"))[0])

    together, apart = train(8, 1), train(batch_size, accumulation)
    for name, values in together.items():
        assert torch.allclose(values, apart[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_row_reaches_the_batches_uncut_once_an_epoch(batch_size, make_trainer, sft_rows):
    trainer = make_trainer(SFTStageConfig(batch_size=batch_size))
    seen = []
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            seen.append((ids[mask == 1].tolist(), labels[mask == 1].tolist()))
            assert (labels[mask == 0] == -100).all()
    assert sorted(seen) == sorted(all_rows(sft_rows))


def test_batches_hold_rows_of_like_length_and_change_from_epoch_to_epoch(make_trainer):
    trainer = make_trainer(SFTStageConfig(batch_size=2))
    order = []
    for epoch in (0, 1, 0):
        loader = trainer.get_train_dataloader()
        loader.set_epoch(epoch)
        order.append(list(loader.batch_sampler))
    assert order[0] == order[2]
    assert order[0] != order[1]


def test_seed_alone_decides_the_adapter(make_inputs, sft_rows, weights_of):
    config = SFTStageConfig(max_steps=2, learning_rate=1e-2)
    first = weights_of(train_sft(config, make_inputs(sft_rows, "first"))[0])
    torch.rand(5)  # what else was drawn in the process plays no part
    again = weights_of(train_sft(config, make_inputs(sft_rows, "again"))[0])
    other = weights_of(train_sft(config, make_inputs(sft_rows, "other", seed=4))[0])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_base_weights_stay_as_they_were(make_inputs, sft_rows, at_step, tiny_base):
    hashes = []
    with at_step(3, lambda model: hashes.append(hash_frozen(model))):
        checkpoint, _ = train_sft(SFTStageConfig(max_steps=3, learning_rate=1e-2), make_inputs(sft_rows))
    assert hashes == [tiny_base.weights_sha256]
    assert (checkpoint.kind, checkpoint.base, checkpoint.base_sha256) == ("adapter", "tiny", tiny_base.weights_sha256)


def test_report_says_what_was_done(make_inputs, sft_rows):
    config = SFTStageConfig(epochs=2, batch_size=3, accumulation=2, logging_steps=50)
    _, report = train_sft(config, make_inputs(sft_rows))
    # 8 rows are 3 batches, 3 batches are 2 updates, two epochs are 4
    assert (report.steps, report.planned_steps, report.epochs, report.rows) == (4, 4, 2.0, 8)
    assert report.effective_batch == 6
    # r = 4 on 2 layers: q 4(32+32), k and v 4(32+16), o 4(32+32), gate and up 4(32+48), down 4(48+32)
    assert report.trainable_parameters == 2 * 4 * (64 + 48 + 48 + 64 + 80 + 80 + 80)
    assert report.tokens_per_second > 0
    assert report.pairs_per_second is None
    assert report.best_step is None
    assert not report.stopped_early


def test_last_update_is_logged_whatever_the_interval(make_inputs, sft_rows):
    _, report = train_sft(SFTStageConfig(max_steps=4, logging_steps=3), make_inputs(sft_rows))
    assert [step for step, _ in report.series("loss")] == [1, 3, 4]


def test_training_prints_nothing(make_inputs, sft_rows, capsys):
    train_sft(SFTStageConfig(max_steps=2, evaluation_steps=1), make_inputs(sft_rows))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("killed_after", "resumed_from"), [(3, 2), (5, 4), (7, 6)])
def test_killed_training_resumes_to_the_same_weights(
    killed_after, resumed_from, make_inputs, sft_rows, killed_at, weights_of
):
    # 4 updates an epoch: 2 lies in the first, 4 at its end, 6 in the second
    config = SFTStageConfig(epochs=2, batch_size=2, learning_rate=1e-2, save_steps=2, logging_steps=1)
    dropout = LoraAdapter(r=4, dropout=0.2)
    straight, expected = train_sft(config, make_inputs(sft_rows, "straight", adapter=dropout))
    inputs = make_inputs(sft_rows, "killed", adapter=dropout)
    with killed_at(killed_after):
        train_sft(config, inputs)
    resumed, report = train_sft(config, inputs)
    assert (report.resumed_from, report.steps) == (resumed_from, 8)
    assert report.history == expected.history  # num_tokens, which TRL counts from 0 again, included
    assert weights_of(straight).keys() == weights_of(resumed).keys()
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())


def test_torn_checkpoint_gives_way_to_the_one_before(make_inputs, sft_rows, killed_at, weights_of):
    config = SFTStageConfig(epochs=2, batch_size=2, learning_rate=1e-2, save_steps=2)
    straight, _ = train_sft(config, make_inputs(sft_rows, "straight"))
    inputs = make_inputs(sft_rows, "killed")
    with killed_at(7):
        train_sft(config, inputs)
    weights = inputs.work_dir / "checkpoint-6" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    resumed, report = train_sft(config, inputs)
    assert report.resumed_from == 4
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())


def test_evaluation_with_generated_answers_changes_no_weight(make_inputs, sft_rows, weights_of):
    play(*[0.5] * 20)
    plain = SFTStageConfig(epochs=2, batch_size=2, learning_rate=1e-2)
    watched = plain.model_copy(update={"evaluation_steps": 3})
    adapter = LoraAdapter(r=4, dropout=0.2)
    alone, _ = train_sft(plain, make_inputs(sft_rows, "alone", adapter=adapter))
    seen, report = train_sft(watched, make_inputs(sft_rows, "seen", adapter=adapter, evaluation=JUDGED))
    assert report.series("eval_answer_score") == [(3, 0.5), (6, 0.5), (8, 0.5)]
    assert all(torch.equal(weights_of(alone)[name], values) for name, values in weights_of(seen).items())


BEST = SFTStageConfig(
    epochs=5, batch_size=2, learning_rate=1e-2, evaluation_steps=2, best_metric="answer_score", patience=3
)


def test_weights_with_the_best_generated_answers_are_kept(make_inputs, sft_rows, weights_of, at_step):
    play(0.1, 0.5, 0.3, 0.5, 0.2)
    inputs = make_inputs(sft_rows, evaluation=JUDGED)
    at_four = {}

    def note(model):
        at_four.update({n: p.detach().clone() for n, p in model.named_parameters() if "lora" in n})

    with at_step(4, note):
        checkpoint, report = train_sft(BEST, inputs)
    # 0.5 is reached at step 4; 0.3, 0.5 and 0.2 are no better, and the third of them is at step 10
    assert (report.best_step, report.steps, report.planned_steps, report.stopped_early) == (4, 10, 20, True)
    kept = weights_of(checkpoint)
    assert len(kept) == len(at_four)
    assert all(
        torch.equal(values, at_four[name.replace(".weight", ".default.weight")]) for name, values in kept.items()
    )
    assert any(not torch.equal(v, kept[n]) for n, v in weights_of(inputs.work_dir / "checkpoint-10").items())


def test_resumed_training_is_as_patient_and_keeps_the_same_best(make_inputs, sft_rows, killed_at, weights_of):
    play(0.5, 0.4, 0.3, 0.2, 0.9, 0.9)
    straight, expected = train_sft(BEST, make_inputs(sft_rows, "straight", evaluation=JUDGED))
    play(0.5, 0.4, 0.3, 0.2, 0.9, 0.9)
    inputs = make_inputs(sft_rows, "killed", evaluation=JUDGED)
    with killed_at(7):
        train_sft(BEST, inputs)
    resumed, report = train_sft(BEST, inputs)
    # best at 2; 4, 6 and 8 are no better. Without the patience of before the kill, 10 would come and win.
    assert (expected.best_step, expected.steps) == (2, 8)
    assert (report.best_step, report.steps, report.stopped_early, report.resumed_from) == (2, 8, True, 6)
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())


@pytest.mark.parametrize(
    "config", [SFTStageConfig(max_steps=5, batch_size=1, learning_rate=1e-2), BEST], ids=["all steps", "stopped early"]
)
def test_training_that_had_ended_is_taken_as_it_is(config, make_inputs, sft_rows, weights_of):
    play(0.5, 0.4, 0.3, 0.2, 0.9, 0.9)
    inputs = make_inputs(sft_rows, evaluation=JUDGED)
    checkpoint, first = train_sft(config, inputs)
    before = weights_of(checkpoint)
    checkpoint, again = train_sft(config, inputs)  # killed after its last checkpoint, before its adapter was safe
    assert (again.steps, again.best_step, again.stopped_early) == (first.steps, first.best_step, first.stopped_early)
    assert again.resumed_from == first.steps
    assert all(torch.equal(before[name], values) for name, values in weights_of(checkpoint).items())


@pytest.mark.parametrize(
    ("metric", "evaluation", "has_held_out", "message"),
    [
        ("answer_accuracy", EvaluationConfig(), True, "needs evaluation.checker"),
        ("answer_accuracy", JUDGED, False, "needs held-out rows"),
        ("loss", EvaluationConfig(), False, "needs held-out rows"),
    ],
)
def test_best_metric_that_nobody_measures_is_refused(metric, evaluation, has_held_out, message, make_inputs, sft_rows):
    config = SFTStageConfig(evaluation_steps=1, best_metric=metric, patience=1)
    rows = sft_rows if has_held_out else sft_rows.model_copy(update={"rows": {"train": 8}})
    with pytest.raises(ConfigError, match=message):
        train_sft(config, make_inputs(rows, evaluation=evaluation))


def test_loss_that_is_no_number_stops_training_and_names_the_step(make_inputs, sft_rows, at_step):
    config = SFTStageConfig(max_steps=6, logging_steps=1)
    with at_step(3, spoil), pytest.raises(TrainingError, match="loss is nan at step 4"):
        train_sft(config, make_inputs(sft_rows))


def test_checkpoint_that_is_no_number_is_never_written(make_inputs, sft_rows, at_step):
    inputs = make_inputs(sft_rows)
    config = SFTStageConfig(max_steps=6, logging_steps=100, save_steps=1)
    with at_step(3, spoil), pytest.raises(TrainingError, match="weights are not finite at step 3"):
        train_sft(config, inputs)
    assert last_checkpoint(inputs.work_dir).name == "checkpoint-2"


@pytest.mark.parametrize("room", [1000, 24_000], ids=["adapter", "tokenizer"])
@pytest.mark.parametrize("save_steps", [1, 100], ids=["checkpoint", "last checkpoint"])
def test_disk_without_space_stops_training_in_a_sentence_and_keeps_what_was_there(
    save_steps, room, make_inputs, sft_rows, at_step
):
    # the adapter's file has about 17,000 bytes, the tokenizer's more than 24,000
    inputs = make_inputs(sft_rows)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))

    try:
        with (
            at_step(3, fill),
            pytest.raises(TrainingError, match=r"checkpoint-3 cannot be written: .* Free"),
        ):
            train_sft(SFTStageConfig(max_steps=3, save_steps=save_steps), inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (inputs.work_dir / "checkpoint-3").exists()  # its part would only take room
    kept = last_checkpoint(inputs.work_dir)
    assert (kept and kept.name) == ("checkpoint-2" if save_steps == 1 else None)
    _, report = train_sft(SFTStageConfig(max_steps=3, save_steps=save_steps), inputs)
    assert (report.steps, report.resumed_from) == (3, 2 if save_steps == 1 else None)


def spoil(model):
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


def rates(report):
    return [round(rate, 9) for _, rate in report.series("learning_rate")]


def test_constant_rate_warms_up_too(make_inputs, sft_rows):
    config = SFTStageConfig(max_steps=4, warmup=2, schedule="constant", learning_rate=1e-3, logging_steps=1)
    assert rates(train_sft(config, make_inputs(sft_rows))[1]) == [0.0, 0.0005, 0.001, 0.001]


def test_cosine_ends_at_the_configured_share_of_the_peak(make_inputs, sft_rows):
    config = SFTStageConfig(max_steps=3, warmup=0, min_rate=0.1, learning_rate=1e-3, logging_steps=1)
    # after 0, 1 and 2 of 3 updates: 0.1 + 0.9 (1 + cos(pi s / 3)) / 2
    assert rates(train_sft(config, make_inputs(sft_rows))[1]) == pytest.approx([1e-3, 0.775e-3, 0.325e-3])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "rmsprop", "adafactor", "sgd", "adamw_8bit"])
def test_optimizer_lowers_the_loss_and_a_substitute_is_named(optimizer, make_inputs, sft_rows, caplog):
    rate = 0.5 if optimizer == "sgd" else 1e-2
    config = SFTStageConfig(epochs=6, optimizer=optimizer, learning_rate=rate, logging_steps=1)
    _, report = train_sft(config, make_inputs(sft_rows))
    assert report.metrics["loss"] < report.history[0]["loss"]
    substituted = optimizer == "adamw_8bit" and not torch.cuda.is_available()
    assert bool(report.notes) == substituted
    assert ("adamw_torch_fused steps in" in caplog.text) == substituted


def test_evaluation_by_examples_and_before_the_first_update(make_inputs, sft_rows):
    config = SFTStageConfig(epochs=2, batch_size=2, evaluation_examples=4, evaluate_first=True, logging_steps=1)
    _, report = train_sft(config, make_inputs(sft_rows))
    assert [step for step, _ in report.series("eval_loss")] == [0, 2, 4, 6, 8]


def test_so_many_checkpoints_are_kept_while_training(make_inputs, sft_rows, killed_at, tmp_path):
    config = SFTStageConfig(epochs=8, batch_size=8, save_steps=1, save_total_limit=3)
    with killed_at(7):
        train_sft(config, make_inputs(sft_rows))
    assert sorted(path.name for path in (tmp_path / "work").glob("checkpoint-*")) == [
        f"checkpoint-{i}" for i in (4, 5, 6)
    ]


def test_noise_on_the_embeddings_acts_while_training_alone(make_inputs, sft_rows):
    config = SFTStageConfig(max_steps=1, batch_size=8, neftune_alpha=5.0)
    _, noisy = train_sft(config, make_inputs(sft_rows, "noisy"))
    _, plain = train_sft(SFTStageConfig(max_steps=1, batch_size=8), make_inputs(sft_rows, "plain"))
    assert "NEFTune" in noisy.path
    assert noisy.history[0]["loss"] != pytest.approx(plain.history[0]["loss"], rel=1e-4)


def test_rank_stabilized_adapter_trains_with_another_scale(make_inputs, sft_rows, weights_of):
    config = SFTStageConfig(max_steps=2, warmup=0, learning_rate=1e-2)
    adapters = {flag: LoraAdapter(r=4, rank_stabilized=flag) for flag in (False, True)}
    inputs = {flag: make_inputs(sft_rows, str(flag), adapter=adapter) for flag, adapter in adapters.items()}
    plain, stabilized = (weights_of(train_sft(config, inputs[flag])[0]) for flag in (False, True))
    assert any(not torch.equal(plain[name], stabilized[name]) for name in plain)


def test_base_models_dropout_can_be_taken_out(make_inputs, sft_rows, monkeypatch):
    from torch import nn

    from llm_engineering.training import sft

    def with_dropout(*args):
        model = load_for_training(*args)
        model.model.layers[0].mlp.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
        return model

    monkeypatch.setattr(sft, "load_for_training", with_dropout)
    losses = [
        train_sft(
            SFTStageConfig(max_steps=1, batch_size=8, disable_dropout=off, fast_path="off"),
            make_inputs(sft_rows, f"{off} {seed}", seed=seed),
        )[1].history[0]["loss"]
        for off in (True, False)
        for seed in (3, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[2] != pytest.approx(losses[3], rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": QloraAdapter()}, "adapter.type qlora (4 bits) needs a CUDA GPU"),
        ({"model": ModelConfig(dtype="tf32")}, "model.dtype tf32 needs an NVIDIA GPU"),
        ({"model": ModelConfig(dtype="float16")}, "model.dtype float16 needs a GPU"),
        ({"model": ModelConfig(attention="flash_attention_2")}, "model.attention flash_attention_2 needs a CUDA GPU"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_in_a_sentence(changes, message, make_inputs, sft_rows):
    with pytest.raises(ConfigError, match=re.escape(message)):
        train_sft(SFTStageConfig(), make_inputs(sft_rows, **changes))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_kernel_reaches_the_model(attention, tiny_base):
    model = load_for_training(tiny_base.path, ModelConfig(attention=attention), LoraAdapter())
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize(
    "config", [SFTStageConfig(max_steps=8, batch_size=2, save_steps=2), None], ids=["last", "best"]
)
def test_checkpoints_are_removed_only_once_the_next_one_is_valid(
    config, make_inputs, sft_rows, weights_of, monkeypatch
):
    from llm_engineering.training import trainers

    play(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    config = config or BEST.model_copy(update={"max_steps": 8})
    sealed = []

    def killed_before_the_third(checkpoint):
        if len(sealed) == 2:
            raise Killed
        sealed.append(checkpoint.name)
        plain(checkpoint)

    plain = trainers.seal
    inputs = make_inputs(sft_rows, "killed", evaluation=JUDGED)
    monkeypatch.setattr(trainers, "seal", killed_before_the_third)
    with pytest.raises(Killed):
        train_sft(config, inputs)
    monkeypatch.setattr(trainers, "seal", plain)
    assert sealed == ["checkpoint-2", "checkpoint-4"]
    assert sorted(path.name for path in inputs.work_dir.glob("checkpoint-*") if is_whole(path)) == sealed
    assert last_checkpoint(inputs.work_dir).name == "checkpoint-4"
    resumed, report = train_sft(config, inputs)
    assert report.resumed_from == 4
    play(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    straight, _ = train_sft(config, make_inputs(sft_rows, "straight", evaluation=JUDGED))
    assert all(torch.equal(weights_of(straight)[name], values) for name, values in weights_of(resumed).items())
    assert len(list(inputs.work_dir.glob("checkpoint-*"))) == 2


class Killed(Exception):
    """Stands for a kill while a checkpoint is written."""
