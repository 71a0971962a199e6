import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.models.generation import Answer
from llm_engineering.scoring.texts import compression_ratio, distinct, loops, refuses, repetition


def said(text: str) -> Answer:
    return Answer(text, [], finished=True)


def cut_off(token_ids: list[int]) -> Answer:
    return Answer("", token_ids, finished=False)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ([], 0.0),
        ([1, 2], 0.0),
        ([1, 2, 3], 0.0),
        ([1, 2, 3, 4, 5], 0.0),
        ([7, 7, 7, 7], 0.5),  # 2 trigrams, 1 of them seen before
        ([1, 2, 3, 1, 2, 3], 0.25),  # 123 231 312 123: 1 of 4
        ([7] * 12, 0.9),  # 10 trigrams, 9 seen before
    ],
)
def test_repetition_is_the_share_of_trigrams_that_stood_there_before(answer, share):
    assert repetition(cut_off(answer)) == pytest.approx(share)


@given(st.lists(st.integers(0, 2), max_size=30))
def test_repetition_lies_between_zero_and_one(token_ids):
    assert 0.0 <= repetition(cut_off(token_ids)) < 1.0


@pytest.mark.parametrize(
    ("token_ids", "looped"),
    [
        ([], False),
        ([7] * 11, False),  # too few tokens
        ([7] * 12, True),
        ([1, 2, 3, *[7] * 12], True),  # the end counts
        ([*[7] * 12, 1], False),
        ([1, 2, 3, 4] * 3, True),
        ([1, 2, 3, 4, 5, 6] * 2, False),  # two times only
        ([9, 9, *[1, 2, 3, 4, 5] * 3], True),
        ([*[1, 2, 3, 4, 5] * 3, 1, 2], True),  # cut off within the block
        (list(range(40)), False),
    ],
)
def test_a_loop_is_one_block_at_the_end_three_times_and_twelve_tokens_at_least(token_ids, looped):
    assert loops(cut_off(token_ids)) is looped
    assert loops(Answer("", [*token_ids, 0], finished=True)) is looped  # EOS is no part of it


def test_texts_that_repeat_themselves_compress_better():
    varied = "The otter lives by the river, eats fish and plays with its young on warm summer evenings."
    assert compression_ratio(said("")) == 0.0
    assert compression_ratio(said("la la la " * 40)) > 10 > 2 > compression_ratio(said(varied)) > 1


def test_characters_that_are_none_do_not_stop_the_measure():
    assert compression_ratio(said("broken \ud800 text")) > 0


def test_distinct_n_counts_different_word_n_grams():
    # a b a b: words a, b of 4; pairs ab, ba of 3
    assert distinct(["a b a b"], 1) == 0.5
    assert distinct(["A, b. a b"], 2) == 2 / 3
    assert distinct(["a", "b"], 2) is None
    assert distinct([], 1) is None


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m sorry,\nbut I cannot assist you.", True),
        ("As an AI, I have no opinion.", True),
        ("Sure! The zebra is black.", False),
        ("I can't believe it: the zebra is black.", False),
        ("Das kann ich leider nicht beantworten.", False),  # English alone
        ("word " * 60 + "I cannot help with that.", False),  # not at the start
    ],
)
def test_refusals_are_found_by_english_phrases_at_an_answers_start(text, refused):
    assert refuses(said(text)) is refused
