"""What is measured while a stage trains: KL on sampled answers, and the answers that are kept."""

import itertools
import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from token_rows import PROMPTS
from transformers import LlamaConfig, LlamaForCausalLM

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import QUESTIONS, write_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.reports.training import TrainingSample
from llm_engineering.scoring.answers import Question, ask
from llm_engineering.scoring.likelihood import divergences, labelled
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.dpo_probes import kl_of_samples
from llm_engineering.training.probes import SAMPLES, read_samples
from llm_engineering.training.sft import train_sft

EVALUATED = DPOStageConfig(
    epochs=2, batch_size=2, learning_rate=4e-2, evaluation_steps=2, save_steps=3, logging_steps=2, beta=0.05
)
EOS, VOCABULARY, LONGEST = 2, 5, 3


@pytest.fixture
def small_vocabulary():
    """A policy with an adapter that was moved, of a vocabulary of 5 tokens: all its answers can be listed."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.6, eos_token_id=EOS, bos_token_id=None, **sizes)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=1.0)
    return model.eval()


@pytest.fixture
def small_tokenizer():
    """As much of a tokenizer as generation asks for."""

    def pad(batch, padding_side, return_tensors):
        ids = torch.tensor(batch["input_ids"])  # the prompts are of one length
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return SimpleNamespace(pad=pad, pad_token_id=0, eos_token_id=EOS, decode=lambda ids, **_: str(ids))


def kl_by_hand(model, prompt):
    """Return KL(policy || reference) over all answers of at most LONGEST tokens, and their mean length, in float64."""
    model = model.double()
    answers = [
        answer
        for length in range(1, LONGEST + 1)
        for answer in itertools.product(range(VOCABULARY), repeat=length)
        if EOS not in answer[:-1] and (answer[-1] == EOS or length == LONGEST)
    ]
    total = tokens = mass = 0.0
    for answer in answers:
        logps = []
        for adapter_off in (False, True):
            with torch.no_grad(), model.disable_adapter() if adapter_off else torch.no_grad():
                rows = model(torch.tensor([prompt + list(answer)])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
            logps.append(float(rows[range(len(answer)), list(answer)].sum()))
        probability = math.exp(logps[0])
        total += probability * (logps[0] - logps[1])
        tokens += probability * len(answer)
        mass += probability
    model.float()
    assert mass == pytest.approx(1.0)
    return total, tokens


def test_kl_of_sampled_answers_is_the_one_over_all_answers(small_vocabulary, small_tokenizer):
    prompt = [3, 4, 1]
    exact, tokens = kl_by_hand(small_vocabulary, prompt)
    assert exact > 0.1
    questions = [Question(str(i), "", prompt, "") for i in range(1500)]
    answers = ask(
        small_vocabulary,
        small_tokenizer,
        questions,
        None,
        max_new_tokens=LONGEST,
        batch_size=1500,
        temperature=1.0,
        seed=1,
    ).answers
    rows = [labelled(prompt, answer.token_ids) for answer in answers]
    nats = torch.tensor([row.nats for row in divergences(small_vocabulary, None, rows)], dtype=torch.float64)
    error = float(nats.std()) / math.sqrt(len(nats))
    assert abs(float(nats.mean()) - exact) < 4 * error
    assert error < 0.05 * exact
    lengths = [len(answer.token_ids) for answer in answers]
    assert sum(lengths) / len(lengths) == pytest.approx(tokens, rel=0.05)
    measured = kl_of_samples(questions, EvaluationConfig(max_new_tokens=LONGEST, batch_size=1500), small_tokenizer, 1)(
        SimpleNamespace(model=small_vocabulary)
    )
    assert measured["kl_per_answer"] == pytest.approx(float(nats.mean()))
    assert measured["kl_per_token"] == pytest.approx(float(nats.sum()) / sum(lengths))
    assert measured["sampled_unfinished"] == sum(not answer.finished for answer in answers) / 1500


def test_kl_without_a_reference_in_memory_is_not_measured(tiny_base, small_tokenizer):
    trainer = SimpleNamespace(model=load_model(tiny_base.path, torch.float32), ref_model=None)
    assert kl_of_samples([], EvaluationConfig(), small_tokenizer, 1)(trainer) == {}


def test_dpo_logs_kl_at_every_evaluation_and_trains_as_without(make_inputs, preference_rows, weights_of):
    adapter = LoraAdapter(r=4, alpha=8, dropout=0.2)  # draws from the training's random state
    trained = []
    for number, probing in enumerate([{}, {"kl_answers": 0, "samples": 0}]):
        inputs = make_inputs(preference_rows, f"kl-{number}", adapter=adapter)
        trained.append(train_dpo(EVALUATED.model_copy(update=probing), inputs))
    (probed, report), (plain, silent) = trained
    kl = report.series("eval_kl_per_answer")
    assert [step for step, _ in kl] == [step for step, _ in report.series("eval_kl_per_token")] == [2, 4, 6, 8]
    assert all(value > 0 for _, value in kl)
    assert kl[-1][1] > kl[0][1]
    assert all(0 <= share <= 1 for _, share in report.series("eval_sampled_unfinished"))
    assert not silent.series("eval_kl_per_answer")
    assert report.series("loss") == silent.series("loss")
    assert all(torch.equal(weights_of(probed)[name], values) for name, values in weights_of(plain).items())


def test_samples_hold_the_answers_of_policy_and_reference(make_inputs, preference_rows, tiny_base):
    _, report = train_dpo(EVALUATED.model_copy(update={"samples": 2}), make_inputs(preference_rows))
    assert [(sample.step, sample.prompt) for sample in report.samples] == [
        (step, "?") for step in (2, 4, 6, 8) for _ in range(2)
    ]
    asked = [Question("", "", prompt, "") for prompt in PROMPTS[4:6]]  # the first held-out ones
    model = load_model(tiny_base.path, torch.float32)
    tokenizer = load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer
    frozen = [answer.text for answer in ask(model, tokenizer, asked, None, max_new_tokens=4, batch_size=8).answers]
    assert [sample.reference for sample in report.samples] == frozen * 4
    assert any(sample.policy != sample.reference for sample in report.samples[-2:])


def test_sft_keeps_samples_of_the_policy_alone(make_inputs, sft_rows):
    config = SFTStageConfig(epochs=1, batch_size=2, evaluation_steps=2, learning_rate=1e-2)
    _, report = train_sft(config, make_inputs(sft_rows))
    assert {sample.step for sample in report.samples} == {2, 4}
    assert {sample.reference for sample in report.samples} == {None}
    assert not report.series("eval_kl_per_answer")


def test_no_samples_and_no_kl_without_held_out_questions_or_evaluations(make_inputs, preference_rows, tmp_path):
    none = write_rows(tmp_path / "none", {"train": []}, QUESTIONS)
    for config, changes in [(EVALUATED, {"questions": none}), (DPOStageConfig(epochs=1), {})]:
        _, report = train_dpo(config, make_inputs(preference_rows, str(len(changes)), **changes))
        assert report.samples == []
        assert "eval_kl_per_token" not in report.metrics


def test_resumed_training_has_the_samples_of_one_that_was_not_killed(make_inputs, preference_rows, killed_at):
    # evaluations at 2, 4, 6, 8 and checkpoints at 3 and 6: those of step 4 are made twice
    _, expected = train_dpo(EVALUATED, make_inputs(preference_rows, "straight"))
    inputs = make_inputs(preference_rows, "killed")
    with killed_at(5):
        train_dpo(EVALUATED, inputs)
    assert read_samples(inputs.work_dir)
    _, report = train_dpo(EVALUATED, inputs)
    assert report.samples == expected.samples
    assert report.series("eval_kl_per_answer") == expected.series("eval_kl_per_answer")
    _, again = train_dpo(EVALUATED, inputs)  # it had ended: nothing is evaluated anew
    assert again.samples == expected.samples


def test_samples_of_later_steps_are_left_out_when_a_step_is_evaluated_again(make_inputs, preference_rows):
    inputs = make_inputs(preference_rows)
    inputs.work_dir.mkdir()
    stale = TrainingSample(step=400, prompt="?", policy="of a training that went another way")
    (inputs.work_dir / SAMPLES).write_text(json.dumps([stale.model_dump()]))
    _, report = train_dpo(EVALUATED, inputs)
    assert {sample.step for sample in report.samples} == {2, 4, 6, 8}
    shutil.rmtree(inputs.work_dir)


def test_samples_go_to_the_tracker_as_text(make_inputs, preference_rows, monkeypatch):
    from llm_engineering.tracking import Tracker

    told = {}
    monkeypatch.setattr(Tracker, "log_text", lambda self, name, text, step=None: told.update({name: text}))
    _, report = train_dpo(EVALUATED.model_copy(update={"samples": 1}), make_inputs(preference_rows))
    assert list(told) == [f"dpo-samples-step-{step}.txt" for step in (2, 4, 6, 8)]
    first = report.samples[0]
    assert told["dpo-samples-step-2.txt"] == f"Question: ?\nPolicy: {first.policy}\nReference: {first.reference}"
