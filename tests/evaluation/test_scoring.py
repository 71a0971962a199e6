"""The evaluator end to end: the embedded base against a copy of it whose weights were moved."""

import json
import math

import pytest
import torch

from llm_engineering.artifacts import Judgement
from llm_engineering.config.schema import EvaluationConfig
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.evaluation.likelihood import labelled, score_rows
from llm_engineering.evaluation.scoring import Evaluator, parent_of, read_held_out
from llm_engineering.models.checkpoints import describe_checkpoint, load_model, save_model

EOS = 2
SHORT = EvaluationConfig(checker=f"{__name__}:speaks_of", max_new_tokens=10, batch_size=4, sampled_answers=2)


def speaks_of(answer: str, reference: str) -> Judgement:
    hit = reference in answer
    return Judgement(correct=hit, preferred=hit, score=float(hit), flaws=len(answer.split()))


@pytest.fixture(scope="module")
def moved(embedded, embedded_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    model = load_model(embedded.path, torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    save_model(model, embedded_tokenizer, folder)
    return describe_checkpoint(folder, "model", embedded)


@pytest.fixture(scope="module")
def rows(embedded_tokenizer, tmp_path_factory):
    """Two questions of one unit and one of another, with answers as conversations and as pairs."""
    tokenize = lambda text: embedded_tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    texts = [("zebra", "What colour is the zebra?"), ("zebra", "Which colour has the zebra?"), ("day", "Hello!")]
    questions, conversations, pairs = [], [], []
    for i, (unit, text) in enumerate(texts):
        messages = [{"role": "user", "content": text}]
        prompt = embedded_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        questions.append({"unit": unit, "prompt": json.dumps(messages), "prompt_ids": prompt, "reference": "zoo"})
        chosen, rejected = [*tokenize("The zebra is black."), EOS], [*tokenize("It was a bright day at the zoo."), EOS]
        ids, labels = labelled(prompt, chosen)
        conversations.append({"source": 0, "row": i, "input_ids": ids, "labels": labels})
        pairs.append({"source": 0, "row": i, "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    folder = tmp_path_factory.mktemp("rows")

    def make(splits=("test",), name="default", training=0):
        kinds = {"sft": (conversations, SFT), "preference": (pairs, PREFERENCE), "questions": (questions, QUESTIONS)}
        sets = {}
        for kind, (content, schema) in kinds.items():
            parts = {split: content for split in splits} | ({"train": content[:training]} if training else {})
            sets[kind] = write_rows(folder / name / kind, parts, schema)
        return sets

    return make


def evaluator(sets, config, tokenizer, seed=3, beta=0.5):
    return Evaluator(
        held_out=read_held_out(**sets, config=config, seed=seed),
        config=config,
        tokenizer=tokenizer,
        beta=beta,
        seed=seed,
        dtype=torch.float32,
    )


@pytest.fixture(scope="module")
def report(rows, embedded, moved, embedded_tokenizer):
    return evaluator(rows(), SHORT, embedded_tokenizer).evaluate({"base": embedded, "sft": moved})


def values(report, model):
    return {name: metric.value for name, metric in report.models[model].metrics.items()}


def test_report_names_split_questions_and_models(report, embedded, moved):
    assert (report.split, report.questions, report.pairs) == ("test", 3, 3)
    assert {name: scores.checkpoint_sha256 for name, scores in report.models.items()} == {
        "base": embedded.weights_sha256,
        "sft": moved.weights_sha256,
    }
    assert report.notes == ["Measured on the test split."]


def test_answers_are_measured_by_unit(report):
    # the base says "It was a bright day at the zoo." to everything: 8 words, 10 tokens with EOS
    base = report.models["base"]
    assert base.outcomes["answer_accuracy"] == [1.0, 1.0]
    assert base.metrics["answer_accuracy"].units == 2
    assert values(report, "base")["flaws_per_answer"] == 8.0
    assert values(report, "base")["answer_tokens"] == 10.0
    assert values(report, "base")["unfinished"] == 0.0


def test_held_out_loss_and_perplexity_are_per_answer_token(report, rows, moved, embedded_tokenizer):
    held_out = evaluator(rows(), SHORT, embedded_tokenizer).held_out
    logp = tokens = 0.0
    model = load_model(moved.path, torch.float32)
    for ids, labels in held_out.conversations:
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        scored = [i for i, label in enumerate(labels) if label != -100]
        logp += sum(float(logps[i - 1, ids[i]]) for i in scored)
        tokens += len(scored)
    assert values(report, "sft")["held_out_loss"] == pytest.approx(-logp / tokens, rel=1e-5)
    assert values(report, "sft")["perplexity"] == pytest.approx(math.exp(-logp / tokens), rel=1e-4)


def test_rewards_are_measured_against_the_parent(report, rows, embedded, moved, embedded_tokenizer):
    pairs = evaluator(rows(), SHORT, embedded_tokenizer).held_out.pairs
    logps = {}
    for name, checkpoint in (("base", embedded), ("sft", moved)):
        model = load_model(checkpoint.path, torch.float32)
        logps[name] = [
            [score.logp for score in score_rows(model, [labelled(pair["prompt_ids"], pair[side]) for pair in pairs])]
            for side in ("chosen_ids", "rejected_ids")
        ]
    margins = [0.5 * ((sc - bc) - (sr - br)) for sc, sr, bc, br in zip(*logps["sft"], *logps["base"], strict=True)]
    metrics = report.models["sft"].metrics
    assert metrics["preference_margin"].value == pytest.approx(sum(margins) / 3, rel=1e-4)
    assert metrics["preference_accuracy"].value == pytest.approx(sum(margin > 0 for margin in margins) / 3)
    lengths = [(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
    wins = [c / n > r / m for c, r, (n, m) in zip(*logps["sft"], lengths, strict=True)]
    assert metrics["ranking_accuracy"].value == pytest.approx(sum(wins) / 3)
    assert "preference_margin" not in report.models["base"].metrics
    assert "kl_per_token" not in report.models["base"].metrics


def test_model_that_equals_its_parent_has_no_margin_and_no_divergence(rows, embedded, embedded_tokenizer):
    report = evaluator(rows(), SHORT, embedded_tokenizer).evaluate({"base": embedded, "sft": embedded})
    assert values(report, "sft")["kl_per_token"] == 0.0
    assert values(report, "sft")["preference_margin"] == 0.0
    assert values(report, "sft")["preference_accuracy"] == 0.0  # a tie is no win
    assert values(report, "sft") | values(report, "base") == values(report, "sft")


def test_model_that_moved_diverges_from_its_parent(report):
    assert values(report, "sft")["kl_per_token"] > 0.001
    for name in ("kl_per_token", "kl_per_answer"):
        metric = report.models["sft"].metrics[name]
        assert metric.units == 2  # 3 questions of 2 units, 2 samples each
        assert metric.low <= metric.value <= metric.high
    tokens = values(report, "sft")["kl_per_answer"] / values(report, "sft")["kl_per_token"]
    assert 1 <= tokens <= SHORT.max_new_tokens


def test_sampled_answers_are_averaged_over_the_rounds(report):
    for name in ("sampled_answer_accuracy", "sampled_preferred_rate", "sampled_flaws_per_answer"):
        metric = report.models["base"].metrics[name]
        assert metric.units == 2
    assert values(report, "base")["sampled_answer_accuracy"] in [i / 8 for i in range(9)]  # 2 units, 2 and 1 prompts


def test_same_inputs_give_the_same_report(report, rows, embedded, moved, embedded_tokenizer):
    again = evaluator(rows(), SHORT, embedded_tokenizer).evaluate({"base": embedded, "sft": moved})
    assert again.model_copy(update={"seconds": report.seconds}) == report


def test_answers_of_all_models_are_shown_side_by_side(report):
    assert [sample.prompt for sample in report.samples] == [
        "What colour is the zebra?",
        "Which colour has the zebra?",
        "Hello!",
    ]
    assert report.samples[0].reference == "zoo"
    assert report.samples[0].answers["base"] == "It was a bright day at the zoo."
    assert report.samples[0].answers.keys() == {"base", "sft"}


def test_fixed_prompts_are_shown_instead_of_questions(rows, embedded, embedded_tokenizer):
    config = SHORT.model_copy(update={"prompts": ["Good morning!"], "sampled_answers": 0})
    (sample,) = evaluator(rows(), config, embedded_tokenizer).evaluate({"base": embedded}).samples
    assert (sample.prompt, sample.reference) == ("Good morning!", None)
    assert sample.answers["base"]


def test_no_sampled_answers_means_no_divergence(rows, embedded, moved, embedded_tokenizer):
    config = SHORT.model_copy(update={"sampled_answers": 0, "shown": 0})
    report = evaluator(rows(), config, embedded_tokenizer).evaluate({"base": embedded, "sft": moved})
    assert not [name for name in values(report, "sft") if name.startswith(("sampled", "kl"))]
    assert report.samples == []


def test_run_without_held_out_rows_measures_nothing_and_says_so(rows, embedded, embedded_tokenizer):
    report = evaluator(rows(splits=("train",), name="none"), EvaluationConfig(), embedded_tokenizer).evaluate(
        {"base": embedded}
    )
    assert report.models["base"].metrics == {}
    assert (report.questions, report.pairs, report.samples) == (0, 0, [])
    assert report.notes == [
        "Measured on the eval split.",
        "There are no held-out rows: nothing was measured, and nothing will be promoted.",
        "No evaluation.checker is configured: answers are shown, not judged.",
    ]


def test_test_split_is_measured_where_there_is_one(rows):
    assert read_held_out(**rows(splits=("eval",), name="eval"), config=SHORT, seed=3).split == "eval"
    assert read_held_out(**rows(splits=("eval", "test"), name="both"), config=SHORT, seed=3).split == "test"


def test_fingerprint_tells_questions_seeds_and_settings_apart_but_not_training_rows(rows):
    def fingerprint(sets, config=SHORT, seed=3):
        return read_held_out(**sets, config=config, seed=seed).fingerprint

    same = fingerprint(rows())
    assert fingerprint(rows()) == same
    assert fingerprint(rows(name="trained", training=2)) == same
    others = [
        fingerprint(rows(), seed=4),
        fingerprint(rows(), SHORT.model_copy(update={"max_new_tokens": 11})),
        fingerprint(rows(), SHORT.model_copy(update={"max_questions": 2})),
        fingerprint(rows(splits=("eval",), name="eval")),
        fingerprint(rows() | {"questions": rows(name="none", splits=())["questions"]}),
        fingerprint(rows() | {"preference": rows(name="none", splits=())["preference"]}),
    ]
    assert len({same, *others}) == 7


@pytest.mark.parametrize(
    ("name", "models", "parent"),
    [
        ("base", {"base", "sft"}, None),
        ("sft", {"base", "sft"}, "base"),
        ("sft", {"sft", "dpo"}, None),
        ("dpo", {"base", "sft", "dpo"}, "sft"),
        ("dpo", {"base", "dpo"}, "base"),
        ("incumbent", {"base", "incumbent"}, None),
    ],
)
def test_parent_is_the_model_that_training_started_from(name, models, parent):
    assert parent_of(name, models) == parent
