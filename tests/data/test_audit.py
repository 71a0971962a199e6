"""What the audit measures, on rows whose numbers are worked out beside them."""

import pytest
from prepared import LONG, OTHER, Prepare, chat, pair, sft

from llm_engineering.data.preparation import PreparedRows
from llm_engineering.reports.data import DataAudit, Overlap

NEARLY = LONG[: -len("down")] + "under"
NEARLY_OTHER = OTHER[: -len("stone")] + "rock"


def audit_of(prepared: PreparedRows) -> DataAudit:
    assert prepared.report.audit is not None
    return prepared.report.audit


def test_prompts_and_answers_are_counted_before_any_row_is_dropped(prepare: Prepare) -> None:
    rows = [
        sft(LONG, "The first answer."),
        sft(f" {LONG.upper()}", "The first answer."),  # equal to the first
        sft(LONG + "?", "Another answer is here."),  # nearly the first prompt, so is the next one
        sft(NEARLY, "The first answer."),
        sft("Name a town.", "Bern"),
        sft("Name a river.", "the Aare"),
        sft("Name a lake.", ""),  # not readable
    ]
    audit = audit_of(prepare([rows], rules={"similarity": 0.85}))
    assert audit.similarity == 0.85
    texts = audit.texts["sft"]
    assert (texts.examples, texts.prompts, texts.near_prompts) == (6, 5, 2)
    assert texts.duplicate_answers == 2
    assert texts.short_answers == 2  # of one word and of two
    assert "preference" not in audit.texts
    assert audit.preference is None


def test_prompts_are_counted_with_all_their_turns_and_compared_by_the_first_question(prepare: Prepare) -> None:
    rows = [chat("a", "one two three", "b", "one two three four"), chat("a", "one two three", "c", "one two three")]
    texts = audit_of(prepare([rows])).texts["sft"]
    assert (texts.examples, texts.prompts, texts.near_prompts, texts.duplicate_answers) == (2, 2, 1, 0)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("plain\n\ttext\r\n", False),
        ("Zürich, 東京, العربية, 👩‍👩‍👧", False),
        ("zero\u200bwidth", True),
        ("bell\x07", True),
        ("\ufeffmark", True),
        ("right\u202eleft", True),
        ("broken \ufffd", True),
        ("nul\x00", True),
        ("c1 \x85", True),
    ],
)
def test_examples_with_characters_that_do_not_show_are_counted(text: str, counted: bool, prepare: Prepare) -> None:
    rows = [sft("Question", f"{text} and an answer"), sft(f"{text} and a question", "Answer"), sft("Q", "A")]
    assert audit_of(prepare([rows])).texts["sft"].non_printing == (2 if counted else 0)


def test_examples_with_private_data_are_counted_by_kind(prepare: Prepare) -> None:
    rows = [
        sft("Who is it?", "ann@example.org and bob@example.org"),
        sft("Write to ann@example.org", "or call +49 30 1234567"),
        sft("My key is sk-0123456789abcdefghij", "Keep it."),
        sft("When?", "On 2024-01-15 at 10:20."),
    ]
    audit = audit_of(prepare([rows], [[pair("P", "call 555-123-4567", "or write to ann@example.org")]]))
    assert audit.texts["sft"].private == {"e-mail": 2, "phone": 1, "key": 1}
    assert audit.texts["preference"].private == {"e-mail": 1, "phone": 1, "key": 0}


GERMAN = [
    "Wie heißt die Hauptstadt von Österreich, und an welchem Fluss liegt sie?",
    "Sie heißt Wien.",
]
FRENCH = ["Quelle est la capitale de la France et sur quel fleuve se trouve-t-elle ?", "C'est Paris, sur la Seine."]
ENGLISH = ["What is the name of the tallest mountain in the world, and who climbed it?", "It is called Mount Everest."]


def test_languages_are_those_of_the_examples(prepare: Prepare) -> None:
    rows = [sft(*GERMAN), sft(*FRENCH), sft(*ENGLISH), sft(f"Please tell me. {ENGLISH[0]}", ENGLISH[1])]
    texts = audit_of(prepare([rows])).texts["sft"]
    assert texts.languages == {"en": 2, "de": 1, "fr": 1}
    assert next(iter(texts.languages)) == "en"
    assert texts.language_sample == 4


def test_languages_are_looked_at_in_a_sample(prepare: Prepare) -> None:
    rows = [sft(f"{ENGLISH[0]} ({n})", ENGLISH[1]) for n in range(510)]
    texts = audit_of(prepare([rows], rules={"near_duplicate": "keep"})).texts["sft"]
    assert (texts.examples, texts.language_sample, sum(texts.languages.values())) == (510, 500, 500)


def test_preference_signal_is_measured_on_pairs_with_different_answers(prepare: Prepare) -> None:
    pairs = [
        pair("P1", "a b c d", "a b"),  # longer; 2 of 4 words in common
        pair("P2", "a", "a b c"),  # shorter; 1 of 3
        pair("P3", "x y", "y z"),  # as long; 1 of 3
        pair("P4", "long one", "b"),  # longer; none
        pair("P5", "same", "same"),  # no signal
        pair("P1", "a b", "a b c d"),  # contradicts the first one; shorter, 2 of 4
        pair("P6", "", "x"),  # not readable
    ]
    found = audit_of(prepare([], [pairs])).preference
    assert found is not None
    assert (found.pairs, found.identical, found.contradictory) == (6, 1, 1)
    assert found.chosen_longer == pytest.approx(2 / 5)
    assert found.longer_wins == pytest.approx((2 + 0.5) / 5)
    assert found.overlap == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 0 + 1 / 2) / 5)


@pytest.mark.parametrize("rule", ["drop", "keep"])
def test_contradictory_pairs_are_counted_whatever_becomes_of_them(rule: str, prepare: Prepare) -> None:
    pairs = [pair("P", "a", "b"), pair("P", "b", "a"), pair("P", "b", "a")]
    found = audit_of(prepare([], [pairs], rules={"contradictory_pair": rule})).preference
    assert found is not None
    assert found.contradictory == 2


def test_pairs_without_any_difference_have_no_signal(prepare: Prepare) -> None:
    found = audit_of(prepare([], [[pair("Q", "a", "a"), pair("P", "a", "b")]])).preference
    assert found is not None
    assert (found.pairs, found.identical, found.overlap, found.longer_wins) == (2, 1, 0.0, 0.5)


def test_answers_of_one_side_that_are_short_are_counted_once_a_pair(prepare: Prepare) -> None:
    pairs = [pair("P", "a", "b c"), pair("Q", "a b c", "a b"), pair("R", "one two three", "three two one")]
    assert audit_of(prepare([], [pairs])).texts["preference"].short_answers == 2


def test_overlaps_are_of_distinct_openings_before_leaks_are_removed(prepare: Prepare) -> None:
    train = [sft("a", "1"), sft("A", "2"), sft("b", "1"), sft(LONG, "1"), sft("c", "1")]
    tested = [sft("a ", "3"), sft(NEARLY, "3"), sft("d", "3")]
    pairs = [pair("a", "C", "R"), pair("c", "C", "R"), pair(f"{LONG}!", "C", "R")]
    prepared = prepare([(train, {"split": "train"}), (tested, {"split": "test"})], [(pairs, {"split": "train"})])
    assert audit_of(prepared).overlaps == [
        Overlap(first="sft/train", second="sft/test", exact=1, near=1),  # "a" twice; the heron
        Overlap(first="sft/train", second="preference/train", exact=2, near=1),  # "a" and "c"; the heron
        Overlap(first="sft/test", second="preference/train", exact=1, near=1),
    ]
    dropped = [ledger.dropped.get("leaked into evaluation", 0) for ledger in prepared.report.sources]
    assert dropped == [3, 0, 2]


def test_drawn_splits_have_nothing_in_common(prepare: Prepare) -> None:
    rows = [sft(text, f"Answer {n}.") for n in range(10) for text in (f"Question {n}?", f"question  {n}?")]
    overlaps = audit_of(prepare([rows], evaluation_share=0.2, test_share=0.2)).overlaps
    assert [(each.first, each.second) for each in overlaps] == [
        ("sft/train", "sft/eval"),
        ("sft/train", "sft/test"),
        ("sft/eval", "sft/test"),
    ]
    assert {(each.exact, each.near) for each in overlaps} == {(0, 0)}
