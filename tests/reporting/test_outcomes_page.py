from outcome_rows import answer, pair
from pages import ATTACK, Outline, words

from llm_engineering.reporting.outcomes_page import MEANING, OUTCOMES, ROWS, render_outcomes


def test_counts_and_rows_are_shown_what_got_worse_first() -> None:
    text = words(render_outcomes([pair(), pair("already right"), answer(), pair("unlearned")]))
    assert "regressed 1 The parent answered right, the model wrong." in text
    assert "learned 1 The parent ranked the rejected answer first" in text
    assert "regressed Home? sft said By the river. dpo said On the moon." in text
    # chosen less rejected: -1.5 + 1.0 under the parent, -0.5 + 1.0 under the model
    assert "learned Colour? chosen Black. rejected It is blue. -0.500 +0.500 +0.250" in text
    assert text.index("regressed Home?") < text.index("unlearned Colour?") < text.index("already right Colour?")


def test_every_outcome_can_be_picked_without_a_script() -> None:
    page = render_outcomes([pair(name) for name in OUTCOMES[2:]] + [answer(name) for name in OUTCOMES[:2]])
    assert set(OUTCOMES) == set(MEANING)
    for number in range(len(OUTCOMES)):
        assert f'id="show-{number}"' in page
        assert page.count(f'class="outcome-{number}"') == 1
    outline = Outline(page)
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag in {"script", "link", "img", "iframe", "object", "form", "a"}]
    assert "http" not in page


def test_text_from_data_and_models_is_never_markup() -> None:
    page = render_outcomes(
        [
            pair(prompt=ATTACK, chosen=ATTACK, rejected=ATTACK, model=ATTACK, parent=ATTACK),
            answer(prompt=ATTACK, parent_answer=ATTACK, model_answer=ATTACK, model=ATTACK, parent=ATTACK),
        ]
    )
    assert not [tag for tag, _ in Outline(page).tags if tag == "script"]
    assert "{{" in words(page)


def test_no_pair_is_a_whole_page() -> None:
    page = render_outcomes([])
    assert Outline(page).open == []
    assert "There are no held-out pairs or judged answers of a model and its parent." in words(page)


def test_a_page_shows_so_many_rows_and_says_how_many_more_there_are() -> None:
    page = render_outcomes([pair()] * (ROWS + 5) + [pair("unlearned", model="sft", parent="base")])
    assert page.count("<tr class=") == ROWS + 1
    assert "5 more rows stand in outcomes.jsonl" in words(page)


def test_a_number_that_is_none_is_a_dash() -> None:
    text = words(render_outcomes([pair("not a number", model_chosen_logp=None, reward_margin=None)]))
    assert "It is blue. -0.500 - -" in text
