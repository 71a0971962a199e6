"""The evaluator end to end: the embedded base against a copy of it whose weights were moved."""

import dataclasses
import json
import math
import shutil

import pytest
import torch

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.evaluation.evaluator import Evaluator, parent_of, read_held_out
from llm_engineering.evaluation.lineup import asked_anew, own_tokenizers
from llm_engineering.evaluation.paired import paired_differences
from llm_engineering.evaluation.promotion import decide
from llm_engineering.models.checkpoints import describe_checkpoint, load_model, save_model
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.scoring.likelihood import labelled, score_rows

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


@pytest.fixture(scope="module")
def broken(embedded, embedded_tokenizer, tmp_path_factory):
    """Return a copy of the base with one weight that is no number."""
    folder = tmp_path_factory.mktemp("broken")
    model = load_model(embedded.path, torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    save_model(model, embedded_tokenizer, folder)
    return describe_checkpoint(folder, "model", embedded)


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
    metrics, outcomes = report.models["sft"].metrics, report.models["sft"].outcomes

    def by_unit(values):  # the first two pairs are of one question's unit, the third of another's
        return [(values[0] + values[1]) / 2, values[2]]

    assert outcomes["preference_margin"] == pytest.approx(by_unit(margins), rel=1e-4)
    assert metrics["preference_margin"].value == pytest.approx(sum(by_unit(margins)) / 2, rel=1e-4)
    assert metrics["preference_margin"].units == 2
    assert outcomes["preference_accuracy"] == by_unit([float(margin > 0) for margin in margins])
    rewards = [0.5 * (sc - bc) for sc, bc in zip(logps["sft"][0], logps["base"][0], strict=True)]
    assert outcomes["chosen_reward"] == pytest.approx(by_unit(rewards), rel=1e-4)
    lengths = [(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
    wins = [float(c / n > r / m) for c, r, (n, m) in zip(*logps["sft"], lengths, strict=True)]
    assert outcomes["ranking_accuracy"] == by_unit(wins)
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


def test_every_mean_has_outcomes_that_average_to_it(report):
    for scores in report.models.values():
        without = set(scores.metrics) - set(scores.outcomes)
        ratios = {"perplexity", "kl_per_token", "kl_per_answer", "longer_wins", "chosen_longer"}
        assert without <= ratios | {f"{way}distinct_{n}" for way in ("", "sampled_") for n in (1, 2)}
        for name, outcomes in scores.outcomes.items():
            assert sum(outcomes) / len(outcomes) == pytest.approx(scores.metrics[name].value)
            assert len(outcomes) == scores.metrics[name].units


def test_models_of_a_report_compare_pair_by_pair(report):
    sft, base = report.models["sft"], report.models["base"]
    found = {d.metric: d for d in paired_differences("sft", "base", (sft, base))}
    for name in ("held_out_loss", "ranking_accuracy", "repetition", "sampled_unfinished"):
        assert found[name].difference == pytest.approx(sft.metrics[name].value - base.metrics[name].value)


def test_what_length_alone_would_do_stands_beside_the_accuracies(report, rows, embedded_tokenizer):
    (chosen, rejected), *_ = evaluator(rows(), SHORT, embedded_tokenizer).held_out.pair_lengths
    assert 0.9 * rejected <= chosen < rejected
    assert values(report, "base")["longer_wins"] == 0.0
    assert values(report, "base")["chosen_longer"] == 0.0
    for name in ("ranking_accuracy", "preference_accuracy"):
        metrics = report.models["sft"].metrics
        assert metrics[f"{name}_chosen_shorter"] == metrics[name]
        assert f"{name}_chosen_longer" not in metrics
        assert metrics[f"{name}_like_length"] == metrics[name]


def test_every_pair_and_answer_is_followed_from_parent_to_model(rows, embedded, moved, embedded_tokenizer):
    measured = evaluator(rows(), SHORT, embedded_tokenizer)
    report = measured.evaluate({"base": embedded, "sft": moved})
    pairs = [change for change in measured.changes if change.kind == "pair"]
    assert [(change.model, change.parent, change.row) for change in pairs] == [("sft", "base", i) for i in range(3)]
    assert pairs[0].prompt == "What colour is the zebra?"
    assert (pairs[0].chosen, pairs[0].rejected) == ("The zebra is black.", "It was a bright day at the zoo.")
    assert pairs[0].unit == pairs[1].unit == "zebra"
    # the base says "... at the zoo." to everything, which the checker calls right; the moved one says something else
    answers = [change for change in measured.changes if change.kind == "answer"]
    assert [change.outcome for change in answers] == ["regressed"] * 3
    assert answers[0].parent_answer == "It was a bright day at the zoo."
    assert sum(report.changes["sft"].values()) == len(measured.changes) == 6


def test_a_model_that_gives_no_numbers_is_said_to_and_is_not_promoted(rows, embedded, broken, embedded_tokenizer):
    report = evaluator(rows(), SHORT, embedded_tokenizer).evaluate({"base": embedded, "sft": broken})
    metrics = report.models["sft"].metrics
    for name in ("held_out_loss", "perplexity", "ranking_accuracy", "preference_accuracy", "preference_margin"):
        assert math.isnan(metrics[name].value), name
        assert metrics[name].low is None
    assert "answer_accuracy" not in metrics
    assert report.samples[0].answers.keys() == {"base"}
    assert report.notes[-1] == "sft gives numbers that are none (NaN): it was not asked any question."
    assert report.notes[-2].startswith("sft: not a number (NaN): ")
    assert all(name in report.notes[-2] for name in ("held_out_loss", "perplexity", "ranking_accuracy"))
    assert report.changes == {"sft": {"not a number": 3}}
    assert decide(report, PromotionConfig(), None).promoted is None


def test_nothing_is_promoted_where_nothing_was_held_out(rows, embedded, moved, embedded_tokenizer):
    nothing = rows(splits=("train",), name="nothing")
    report = evaluator(nothing, SHORT, embedded_tokenizer).evaluate({"base": embedded, "sft": moved})
    assert report.models["sft"].metrics == {}
    assert "nothing was measured, and nothing will be promoted" in report.notes[1]
    assert decide(report, PromotionConfig(), None).promoted is None


def test_parents_that_are_named_count_and_a_model_without_one_is_said_to_have_none(
    rows, embedded, moved, embedded_tokenizer
):
    config = SHORT.model_copy(update={"sampled_answers": 0})
    models = {"first": embedded, "second": moved}
    report = evaluator(rows(), config, embedded_tokenizer).evaluate(models, {"second": embedded})
    assert "preference_margin" in report.models["second"].metrics
    assert not [note for note in report.notes if "parent" in note]  # the first one is the second one's
    alone = evaluator(rows(), config, embedded_tokenizer).evaluate({"mine": moved}, {})
    assert "preference_margin" not in alone.models["mine"].metrics
    assert alone.notes[-1] == (
        "No parent is known of mine: rewards, margins and KL are left out (evaluation.parents names it)."
    )


def test_kl_is_measured_on_the_models_own_distribution_alone(rows, embedded, moved, embedded_tokenizer):
    config = SHORT.model_copy(update={"temperature": 0.7})
    report = evaluator(rows(), config, embedded_tokenizer).evaluate({"base": embedded, "sft": moved})
    assert "sampled_repetition" in report.models["sft"].metrics
    assert "kl_per_token" not in report.models["sft"].metrics
    assert report.notes[-1] == (
        "The KL from the parent is defined on samples at temperature 1 and top_p 1: it is left out."
    )


def test_models_are_asked_with_their_own_tokens_and_not_scored_on_others(
    rows, embedded, embedded_tokenizer, model_checkpoints
):
    other = model_checkpoints("qwen2")
    models = {"base": embedded, "copy": embedded, "other": other}
    own = own_tokenizers(models, ModelConfig(), embedded_tokenizer)
    assert own.keys() == {"other"}
    measured = evaluator(rows(), SHORT, embedded_tokenizer)
    measured.tokenizers = own
    report = measured.evaluate(models, {})
    metrics = report.models["other"].metrics
    assert {"answer_accuracy", "sampled_repetition", "answer_words"} <= metrics.keys()
    assert not {"held_out_loss", "ranking_accuracy", "kl_per_token"} & metrics.keys()
    assert {"held_out_loss", "ranking_accuracy"} <= report.models["copy"].metrics.keys()
    assert "other: tokens or chat template are not those of model.base" in report.notes[-1]
    asked = asked_anew(measured.held_out.questions, embedded_tokenizer, own["other"], "other")
    text = own["other"].decode(asked[0].prompt_ids)
    assert "What colour is the zebra?" in text
    assert text.startswith("<|im_start|>")


def test_a_question_of_which_only_tokens_are_left_cannot_be_asked_otherwise(rows, embedded_tokenizer, chats):
    question = evaluator(rows(), SHORT, embedded_tokenizer).held_out.questions[0]
    cut = dataclasses.replace(question, prompt_ids=question.prompt_ids[3:])
    with pytest.raises(ModelError, match=r"\'qwen\' has its own tokens or template, .* it was cut, or it has tools"):
        asked_anew([cut], embedded_tokenizer, chats("qwen2").tokenizer, "qwen")


def test_a_model_without_the_tokens_of_its_template_is_refused(
    embedded, embedded_tokenizer, model_checkpoints, tmp_path
):
    gpt2 = model_checkpoints("gpt2")
    with pytest.raises(ConfigError, match=r"\'plain\' cannot be asked: .* <\|im_start\|> and <\|im_end\|> are not in"):
        own_tokenizers({"plain": gpt2}, ModelConfig(chat_template="chatml"), embedded_tokenizer)
    folder = tmp_path / "gpt2"
    shutil.copytree(gpt2.path, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}")
    mended = gpt2.model_copy(update={"path": folder})
    with pytest.raises(ModelError, match=r"\'plain\' cannot be asked: its chat template writes <\|im_start\|>, which"):
        own_tokenizers({"plain": mended}, ModelConfig(), embedded_tokenizer)
