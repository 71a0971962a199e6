import re
from typing import get_args

import pytest
from data_reports import build_rich_data, part
from pages import ATTACK, Outline, words

from llm_engineering.reporting.data_page import EXAMPLES, render_data_preview
from llm_engineering.reporting.drawings import data_histograms
from llm_engineering.reports.data import (
    DatasetReport,
    DropReason,
    Histogram,
    Overlap,
    RenderedRow,
    SourceLedger,
    TextAudit,
    Token,
)


def a_row(**parts: object) -> RenderedRow:
    return RenderedRow.model_validate({"kind": "sft", "source": "s", "row": 1, "split": "train"} | parts)


def test_the_page_has_every_section(rich_data: DatasetReport) -> None:
    outline = Outline(render_data_preview(rich_data))
    assert outline.open == []
    assert [" ".join(heading.split()) for heading in outline.headings] == [
        "275,350 rows read, 233,117 kept, 42,233 dropped.",
        "What became of every row",
        "What was found in them",
        "Audit",
        "How rows became tokens",
        "Rows as the trainer gets them",
    ]


def test_the_page_is_static_and_names_no_address(rich_data: DatasetReport) -> None:
    page = render_data_preview(rich_data)
    assert "http" not in page
    for tag, attributes in Outline(page).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "form", "a"}
        assert not [name for name in attributes if name.startswith("on") or (name in ("src", "href") and tag != "use")]


def test_rows_read_and_fates_reconcile_on_the_page(rich_data: DatasetReport) -> None:
    text = words(render_data_preview(rich_data))
    sums = re.findall(r"✓ ([\d,]+) read = ([\d,+ a-z]+?) dropped", text)
    assert len(sums) == 2
    for read, fates in sums:
        assert number(read) == sum(number(part) for part in re.findall(r"[\d,]+", fates))
    # source, format, rows = train + eval + test + dropped
    assert "extra.jsonl alpaca 250 238 5 0 7" in text
    assert 250 == 238 + 5 + 0 + 7
    assert "Together 250,350 198,878 9,305 0 42,167" in text


def number(written: str) -> int:
    return int(written.replace(",", ""))


def test_every_reason_comes_with_its_counts_and_the_first_row(rich_data: DatasetReport) -> None:
    text = words(render_data_preview(rich_data))
    assert "empty answer An answer is empty or blank. 5 0 extra.jsonl, line 17: `output` is blank" in text
    assert "exact duplicate An earlier row has the same prompt and answers. 0 7 extra.jsonl, line 40" in text


def test_what_kept_rows_gave_and_lost_is_shown(rich_data: DatasetReport) -> None:
    text = words(render_data_preview(rich_data))
    # examples, share, asked; repeated prompts, rows cut, tokens lost, trained ones, answers cut
    assert "zst 207,940 99.9 % asked: weight 2 3,310 12,004 1,310,220 88,017 trained 31" in text


def test_the_audit_has_sentences_and_tables(rich_data: DatasetReport) -> None:
    page = render_data_preview(rich_data)
    text = words(page)
    assert '<li class="warn">Preferring the longer answer is right for 75.2 % of 24,877 pairs' in page
    assert "With something like a secret key 2 0" in text
    assert "Languages en 94.1 % de 3.0 % fr 1.2 %" in text
    assert "sft/train preference/test 5 2" in text
    assert "Contradict an earlier pair 12" in text


def test_an_audit_that_was_off_is_said_to_be_off(rich_data: DatasetReport) -> None:
    text = words(render_data_preview(rich_data.model_copy(update={"audit": None})))
    assert "The audit was off for this run" in text
    assert "What the pairs reward" not in text


def test_a_report_of_nothing_is_a_whole_page(empty_data: DatasetReport) -> None:
    page = render_data_preview(empty_data)
    assert Outline(page).open == []
    assert "0 rows read, 0 kept, 0 dropped." in words(page)
    assert "No source was read." in page
    assert "There are none." in page
    assert "<svg" not in page


def test_lengths_and_turns_are_drawn(rich_data: DatasetReport) -> None:
    titles = ["Tokens a row, sft/train", "Tokens a row, sft/eval", "Answers a conversation"]
    assert [curve.title for curve in data_histograms(rich_data)] == titles
    page = render_data_preview(rich_data)
    assert page.count("<svg") == 3
    assert "var(--curve-1" in page


def test_histograms_of_nothing_or_of_one_value_do_no_harm(rich_data: DatasetReport) -> None:
    lengths = {
        "sft/train": Histogram(edges=[5, 5], counts=[3]),
        "sft/eval": Histogram(edges=[], counts=[]),
        "sft/test": Histogram(edges=[0, 1], counts=[0]),
    }
    (curve,) = data_histograms(rich_data.model_copy(update={"lengths": lengths, "turns": None}))
    assert curve.title == "Tokens a row, sft/train"


def test_text_from_data_is_never_markup() -> None:
    reasons = get_args(DropReason)
    source = SourceLedger(
        kind="sft",
        source=ATTACK,
        format=ATTACK,
        rows=len(reasons),
        dropped=dict.fromkeys(reasons, 1),
        first_problem=dict.fromkeys(reasons, ATTACK),
        asked=ATTACK,
    )
    report = build_rich_data(
        sources=[source, source],
        template=ATTACK,
        eos_token=ATTACK,
        tokens={ATTACK: 3},
        lengths={ATTACK: Histogram(edges=[0, 1], counts=[3])},
        mask_proof=ATTACK,
        split_proof=ATTACK,
        notes=[ATTACK],
        examples=[a_row(source=ATTACK, parts=[part("prompt", *[ATTACK] * 200, trained=90, cut_at=7, tokens_lost=3)])],
    )
    assert report.audit is not None
    texts = report.audit.texts["sft"].model_copy(update={"languages": {ATTACK: 3}})
    assert isinstance(texts, TextAudit)
    overlaps = [Overlap(first=ATTACK, second=ATTACK, exact=1, near=1)]
    audit = report.audit.model_copy(update={"texts": {"sft": texts}, "overlaps": overlaps})
    page = render_data_preview(report.model_copy(update={"audit": audit}), title=ATTACK)
    outline = Outline(page)
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert not [attributes for _, attributes in outline.tags if "onload" in attributes]
    assert "{{" in words(page)  # not evaluated
    assert page.count("&lt;script&gt;") > 240


@pytest.mark.parametrize(
    "character",
    ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\u2069", "\ufffe"],
    ids=lambda c: f"U+{ord(c):04X}",
)
def test_characters_that_could_harm_the_page_are_replaced(character: str, rich_data: DatasetReport) -> None:
    source = rich_data.sources[0].model_copy(update={"source": f"a{character}b"})
    row = a_row(parts=[part("conversation", f"a{character}b")])
    page = render_data_preview(rich_data.model_copy(update={"sources": [source], "examples": [row]}))
    assert character not in page
    assert "<i>a\N{REPLACEMENT CHARACTER}b</i>" in page
    assert page.count("a\N{REPLACEMENT CHARACTER}b") >= 4


def test_a_table_of_many_sources_stays_a_table(rich_data: DatasetReport) -> None:
    sources = [rich_data.sources[1].model_copy(update={"source": f"{n}.jsonl"}) for n in range(50)]
    text = words(render_data_preview(rich_data.model_copy(update={"sources": sources})))
    assert "✓ 12,500 read = 11,900 train + 250 eval + 350 dropped" in text
    assert "49.jsonl alpaca 250 238 5 0 7" in text


def test_twenty_rows_of_2048_tokens_stay_below_a_megabyte(rich_data: DatasetReport) -> None:
    tokens = [Token(text=f" word{n % 10}\n" if n % 9 == 0 else ' "it\'s"', trained=n % 50 > 20) for n in range(2048)]
    parts = [part("conversation").model_copy(update={"tokens": tokens, "cut_at": 9, "tokens_lost": 5})]
    page = render_data_preview(rich_data.model_copy(update={"examples": [a_row(parts=parts)] * 25}))
    assert page.count('<article class="example">') == EXAMPLES == 20
    assert page.count("<i>") > 20 * 2048
    assert len(page.encode()) < 1_000_000


def test_the_same_report_gives_the_same_page(rich_data: DatasetReport) -> None:
    assert render_data_preview(rich_data) == render_data_preview(rich_data)
