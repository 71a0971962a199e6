"""Near-duplicates against the exact Jaccard index of the shingles."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prepared import LONG, OTHER

from llm_engineering.data.near_duplicates import NearIndex, SketchWriter, shingles

MakeIndex = Callable[..., NearIndex]


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    def make(*texts: list[str], similarity: float = 0.9) -> NearIndex:
        sketches = []
        for number, column in enumerate(texts):
            with SketchWriter(tmp_path / str(number)) as writer:
                writer.add(column[:5])
                writer.add(column[5:])
            sketches.append(writer.read())
        return NearIndex(sketches, similarity)

    return make


def linked(index: NearIndex, items: list[int]) -> set[tuple[int, int]]:
    """Return all links, the later item first."""
    found = set()
    for later, earlier in index.links(np.array(items, dtype=np.int64)):
        found |= set(zip(later.tolist(), earlier.tolist(), strict=True))
    return found


def jaccard(first: str, second: str) -> float:
    one, other = set(shingles(first)), set(shingles(second))
    return len(one & other) / len(one | other)


def near(index: NearIndex, first: int, second: int) -> bool:
    return bool(linked(index, [first, second]))


def test_shingles_are_three_words_whatever_case_spacing_and_punctuation() -> None:
    assert shingles("The sky\n is  blue, today!") == ["the sky is", "sky is blue", "is blue today"]
    assert shingles("the SKY is «blue» … today") == shingles("The sky\n is  blue, today!")
    assert shingles("Hello, World") == ["hello world"]
    assert shingles("") == [""]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("!!!", "???"),
        ("🙂", "🙃"),
        ("What is 17 + 4?", "What is 17 - 4?"),
        ("What is 17 + 4?", "What is 17 * 4?"),
        ("Is a < b?", "Is a > b?"),
        ("What is |-5|?", "What is |5|?"),
        ("हिन्दी", "हन्दा"),  # two words that differ in their vowel signs alone
    ],
)
def test_texts_that_differ_in_what_they_say_have_other_shingles(first: str, second: str) -> None:
    assert jaccard(first, second) < 0.5


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert shingles("今天天气、好") == ["今 天 天", "天 天 气", "天 气 好"]
    assert shingles("Python是好") == ["python 是 好"]
    assert len(shingles("สวัสดี")) == 4
    assert shingles("날씨가 참 좋다") == ["날씨가 참 좋다"]  # Korean has spaces
    assert shingles("a" * 60) == ["a a a"] * 58  # nor do sequences of letters have any


CHINESE = (
    "今天的天气非常好、我们决定去公园里散步。公园里有很多人、有的在跑步、有的在打太极拳、还有的在湖边钓鱼。"
    "孩子们在草地上放风筝、老人们坐在长椅上聊天。我们走了一个小时、然后在一家小茶馆里喝茶、休息了一会儿才回家。"
)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (LONG, LONG.upper() + "!", True),
        (LONG, LONG.replace(" ", ",  "), True),
        (f"{LONG} {OTHER}", f"{LONG} {OTHER[:-5]}rocks", True),  # 60 words, the last one changed: 57 / 59
        (LONG, OTHER, False),
        (LONG, f"{LONG} {OTHER}", False),
        ("What is the capital of France?", "What is the capital of Spain?", False),  # 3 of 5
        ("Name a town.", "Name a river.", False),
        ("yes", "no", False),
        (CHINESE, CHINESE.replace("一家小茶馆里喝茶", "一家小茶馆里吃茶"), True),
        (CHINESE, CHINESE[40:], False),
    ],
)
def test_which_texts_are_alike(first: str, second: str, alike: bool, make_index: MakeIndex) -> None:
    index = make_index([first, second])
    assert near(index, 0, 1) is alike
    assert index.found_in(np.array([1]), np.array([0])).tolist() == [alike]


def test_items_are_alike_only_if_all_their_texts_are(make_index: MakeIndex) -> None:
    index = make_index([LONG, LONG, LONG], [OTHER, OTHER + ".", "Short."])
    assert linked(index, [0, 1, 2]) == {(1, 0)}


def test_links_go_to_earlier_items_of_those_that_are_asked_about(make_index: MakeIndex) -> None:
    index = make_index([LONG, LONG, OTHER, LONG])
    assert linked(index, [0, 1, 2, 3]) == {(1, 0), (3, 0)}
    assert linked(index, [1, 2, 3]) == {(3, 1)}
    assert linked(index, [2, 3]) == linked(index, []) == set()
    nothing = np.zeros(0, dtype=np.int64)
    assert index.found_in(np.array([2, 3]), np.array([0])).tolist() == [False, True]
    assert index.found_in(nothing, np.array([0])).tolist() == []
    assert index.found_in(np.array([0]), nothing).tolist() == [False]


def test_index_of_no_texts_finds_nothing(tmp_path: Path) -> None:
    with SketchWriter(tmp_path / "none") as writer:
        pass
    assert linked(NearIndex([writer.read()], 0.9), []) == set()


def variants(seed: int, texts: int) -> list[tuple[str, str]]:
    """Return random texts of 40 to 120 words, each with a variant of which some words are others."""
    draw = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]
    pairs = []
    for _ in range(texts):
        own = draw.choices(words, k=draw.randint(40, 120))
        other = list(own)
        for place in draw.sample(range(len(own)), k=draw.choice([0, 1, 1, 2, 3, 5, 8, 20])):
            other[place] = draw.choice(words)
        pairs.append((" ".join(own), " ".join(other)))
    return pairs


def test_nearly_all_that_are_well_above_the_threshold_are_found_and_none_far_below(make_index: MakeIndex) -> None:
    pairs = variants(seed=1, texts=400)
    index = make_index([text for both in pairs for text in both], similarity=0.8)
    found = linked(index, list(range(2 * len(pairs))))
    exact = [jaccard(*both) for both in pairs]
    above = [i for i, value in enumerate(exact) if value >= 0.9]  # two standard errors of 0.04, and more
    below = [i for i, value in enumerate(exact) if value <= 0.65]
    assert len(above) > 100
    assert len(below) > 50
    recall = sum((2 * i + 1, 2 * i) in found for i in above) / len(above)
    assert recall > 0.97
    assert not [i for i in below if (2 * i + 1, 2 * i) in found]
    assert all(later == earlier + 1 and earlier % 2 == 0 for later, earlier in found)  # no text is like a stranger


def test_found_in_agrees_with_the_exact_index(make_index: MakeIndex) -> None:
    pairs = variants(seed=2, texts=200)
    index = make_index([text for both in pairs for text in both], similarity=0.8)
    held_out, asked = np.arange(0, 400, 2), np.arange(1, 400, 2)
    found = index.found_in(asked, held_out)
    for (one, other), hit in zip(pairs, found.tolist(), strict=True):
        value = jaccard(one, other)
        assert hit or value < 0.92, value
        assert not hit or value > 0.65, value
