"""Pairs from sampled answers; the embedded base stands for the SFT model, since it ends its answers."""

import json

import pytest

from llm_engineering.config.data import SampleSettings
from llm_engineering.config.model import ModelConfig
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SAMPLED_SOURCE, read_rows, write_rows
from llm_engineering.errors import DataError
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.models.generation import Answer
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.training.preferences import Sample, build_preferences, pair_samples

EOS = 2
QUESTION_TEXTS = {
    "train": ["What colour is the zebra?", "Hello!", "Where does the otter live?", "Name a food."],
    "eval": ["What does the bear eat?", "Good morning!"],
    "test": ["Where is the gate?", "Who are you?"],
}


def longest_wins(answer: str, reference: str) -> Judgement:
    return Judgement(correct=len(answer) > 25, preferred=False, score=len(answer))


def all_alike(answer: str, reference: str) -> Judgement:
    return Judgement(correct=True, preferred=True, score=1.0)


def samples(*scores):
    return [
        Sample(Answer(str(i), [i, EOS], True), Judgement(correct=True, preferred=True, score=score))
        for i, score in enumerate(scores)
    ]


def scores(pairs):
    return [(chosen.judgement.score, rejected.judgement.score) for chosen, rejected in pairs]


@pytest.mark.parametrize(
    ("drawn", "pairing", "pairs"),
    [
        ((1, 3, 2, 0), "best_worst", [(3, 0)]),
        ((1, 3, 2, 0), "disjoint", [(3, 1), (2, 0)]),
        ((1, 1, 1, 1), "best_worst", []),
        ((1, 1, 2, 0), "disjoint", [(2, 0)]),
        ((1, 1, 1, 1), "disjoint", []),
        ((5, 4, 9), "best_worst", [(9, 4)]),
        ((5, 4, 9), "disjoint", [(5, 4)]),  # the third has no partner
        ((5,), "best_worst", []),
        ((5,), "disjoint", []),
        ((), "best_worst", []),
        ((), "disjoint", []),
        ((-1.5, -2.5), "best_worst", [(-1.5, -2.5)]),
    ],
)
def test_pairs_of_one_prompt(drawn, pairing, pairs):
    assert scores(pair_samples(samples(*drawn), pairing)) == pairs


@pytest.fixture(scope="module")
def policy():
    return locate_base(ModelConfig())


@pytest.fixture(scope="module")
def tokenizer(policy):
    return load_chat_tokenizer(policy, ModelConfig()).tokenizer


@pytest.fixture(scope="module")
def asked(tokenizer, tmp_path_factory):
    rows = {}
    for split, texts in QUESTION_TEXTS.items():
        messages = [[{"role": "user", "content": text}] for text in texts]
        rows[split] = [
            {
                "unit": text,
                "prompt": json.dumps(message),
                "prompt_ids": tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"],
                "reference": "",
            }
            for text, message in zip(texts, messages, strict=True)
        ]
    return write_rows(tmp_path_factory.mktemp("asked"), rows, QUESTIONS)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    row = {"source": 0, "row": 5, "prompt_ids": [9, 9], "chosen_ids": [8, EOS], "rejected_ids": [7, EOS]}
    return write_rows(tmp_path_factory.mktemp("given"), {"train": [row], "test": [row]}, PREFERENCE)


@pytest.fixture
def build(policy, asked, given, tmp_path):
    def make(folder="pairs", seed=1, max_length=128, questions=asked, files=given, **changes):
        settings = {"checker": f"{__name__}:longest_wins", "num_samples": 4, "max_new_tokens": 9} | changes
        return build_preferences(
            SampleSettings(**settings),
            policy,
            questions,
            files,
            ModelConfig(),
            max_length=max_length,
            seed=seed,
            folder=tmp_path / folder,
        )

    return make


def sampled(rows, split):
    return [row for row in read_rows(rows, split) if row["source"] == SAMPLED_SOURCE]


def test_pairs_lie_in_the_split_of_their_prompt_and_the_better_answer_is_chosen(build, asked, tokenizer):
    rows, report = build()
    for split in ("train", "eval", "test"):
        prompts = [question["prompt_ids"] for question in read_rows(asked, split)]
        for pair in sampled(rows, split):
            assert pair["prompt_ids"] == prompts[pair["row"] - 1]
            chosen, rejected = (
                tokenizer.decode(pair[f"{side}_ids"], skip_special_tokens=True) for side in ("chosen", "rejected")
            )
            assert len(chosen.strip()) > len(rejected.strip())
        assert len(sampled(rows, split)) == report.pairs[split]
    assert report.pairs["train"] > 0
    assert (report.prompts, report.samples) == (8, 32)
    assert report.without_pair == 8 - sum(report.pairs.values())
    assert report.chosen_correct > report.rejected_correct


def test_pairs_from_files_are_kept_as_they_are(build, given):
    rows, report = build()
    for split, kept in (("train", 1), ("eval", 0), ("test", 1)):
        from_files = [row for row in read_rows(rows, split) if row["source"] != SAMPLED_SOURCE]
        assert from_files == list(read_rows(given, split))
        assert len(from_files) == kept
        assert rows.rows[split] == kept + report.pairs[split]


def test_unfinished_answers_take_no_part_and_are_counted(build):
    rows, report = build(num_samples=8)
    for split in ("train", "eval", "test"):
        for pair in sampled(rows, split):
            assert pair["chosen_ids"][-1] == pair["rejected_ids"][-1] == EOS
            assert max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= 9
    assert 0 < report.unfinished < report.samples  # some answers need more than 9 tokens


def test_same_seed_gives_the_same_rows_and_another_one_others(build):
    assert build("a")[0].sha256 == build("b")[0].sha256 != build("c", seed=2)[0].sha256


def test_disjoint_pairing_gives_more_pairs_than_the_extremes_alone(build):
    _, extremes = build("a", num_samples=6)
    _, disjoint = build("b", num_samples=6, pairing="disjoint")
    assert sum(extremes.pairs.values()) <= 8 < sum(disjoint.pairs.values()) <= 24
    assert extremes.samples == disjoint.samples == 48


def test_only_so_many_prompts_of_every_split_are_asked(build):
    _, report = build(max_prompts=1, num_samples=6)
    assert (report.prompts, report.samples) == (3, 18)
    assert max(report.pairs.values()) <= 1


@pytest.mark.parametrize(
    "changes",
    [{"checker": f"{__name__}:all_alike"}, {"max_new_tokens": 1}, {"max_length": 3}],
    ids=["no contrast", "none finished", "all too long"],
)
def test_no_pair_to_train_on_is_an_error(changes, build):
    with pytest.raises(DataError, match="The sampled answers gave no pair"):
        build(**changes)


def test_pair_beyond_the_longest_row_is_left_out(build, asked):
    prompt = max(len(row["prompt_ids"]) for row in read_rows(asked, "train"))
    rows, _ = build(max_length=prompt + 6, num_samples=8)
    for pair in sampled(rows, "train"):
        assert len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) <= prompt + 6
