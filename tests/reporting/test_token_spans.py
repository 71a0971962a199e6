import re

from data_reports import part

from llm_engineering.reporting.data_views import FOLDED, SHOWN, PartView, row_view, visible
from llm_engineering.reports.data import RenderedPart, RenderedRow, Token


def view(shown: RenderedPart) -> PartView:
    (one,) = row_view(RenderedRow(kind="sft", source="s", row=1, split="train", parts=[shown])).parts
    return one


def tokens_in(html: str) -> list[str]:
    return re.findall(r"<[ib]>([^<]*)</[ib]>", html)


def test_every_token_has_its_element_and_trained_ones_are_marked() -> None:
    shown = view(part("conversation", "<|user|>", "Hi", " there", "<|eos|>", trained=2)).shown
    assert shown == "<b>&lt;|user|&gt;</b><i>Hi</i><mark><i>·there</i><b>&lt;|eos|&gt;</b></mark>"


def test_white_space_can_be_seen_and_a_line_end_breaks_the_line() -> None:
    assert view(part("conversation", "a", "\n\n", "\t", "  b")).shown == "<i>a</i><i>↵↵</i><br><i>⇥</i><i>··b</i>"
    assert visible("\r\N{NO-BREAK SPACE}x") == "␍⍽x"


def test_a_token_is_never_markup() -> None:
    assert view(part("conversation", "<script>alert(1)</script>")).shown == (
        "<i>&lt;script&gt;alert(1)&lt;/script&gt;</i>"
    )


def test_control_reordering_and_hidden_characters_are_replaced_and_emoji_stay() -> None:
    assert visible("a\x00b\u202ec\u200bd\U000e0041") == "a�b�c�d�"
    assert visible("👩\u200d👧 שלום") == "👩\u200d👧·שלום"


def test_a_token_without_text_is_a_token() -> None:
    assert view(part("conversation", "a", "", "b")).shown == "<i>a</i><i></i><i>b</i>"


def test_a_cut_stands_before_the_token_that_follows_it() -> None:
    mark = "<em>✂ 1,213 tokens cut</em>"
    cut = view(part("prompt", "<|bos|>", "up", " on", cut_at=1, tokens_lost=1213))
    assert cut.shown == f"<b>&lt;|bos|&gt;</b>{mark}<i>up</i><i>·on</i>"
    assert cut.tokens_lost == 1213
    assert view(part("chosen", "a", "b", trained=2, cut_at=2, tokens_lost=1)).shown.endswith(
        "</mark><em>✂ 1 token cut</em>"
    )
    assert view(part("chosen", "a", "b", cut_at=0, tokens_lost=2)).shown.startswith("<em>✂ 2 tokens cut</em><i>a")
    assert view(part("prompt", cut_at=0, tokens_lost=5)).shown == "<em>✂ 5 tokens cut</em>"


def test_a_cut_within_a_trained_stretch_keeps_it_marked() -> None:
    shown = view(part("chosen", "a", "b", trained=2, cut_at=1, tokens_lost=3)).shown
    assert shown == "<mark><i>a</i></mark><em>✂ 3 tokens cut</em><mark><i>b</i></mark>"


def test_nothing_is_cut_where_no_token_was_lost() -> None:
    assert "✂" not in view(part("prompt", "a", "b", cut_at=1)).shown


def test_long_parts_fold_and_say_what_is_in_the_fold() -> None:
    texts = [f"t{n}" for n in range(200)]
    long = view(part("conversation", *texts, trained=10, cut_at=150, tokens_lost=7))
    assert tokens_in(long.shown) == texts[:SHOWN]
    assert tokens_in(long.folded) == texts[SHOWN:]
    assert long.fold == "120 more tokens, 10 trained; tokens were cut out among them"
    assert "✂" not in long.shown
    assert long.folded.count("✂ 7 tokens cut") == 1
    assert (long.tokens, long.trained) == (200, 10)


def test_the_cut_is_shown_once_wherever_it_is() -> None:
    for cut_at in (0, SHOWN - 1, SHOWN, 199, 200):
        long = view(part("conversation", *["t"] * 200, cut_at=cut_at, tokens_lost=7))
        assert (long.shown + long.folded).count("✂") == 1, cut_at


def test_short_parts_do_not_fold() -> None:
    assert view(part("conversation", *["t"] * (SHOWN + 10))).folded == ""


def test_of_an_endless_part_the_middle_is_left_out_and_counted() -> None:
    many = 10_000
    tokens = [Token(text=str(n)) for n in range(many)]
    long = view(RenderedPart(name="conversation", tokens=tokens, cut_at=5000, tokens_lost=9))
    shown = tokens_in(long.shown + long.folded)
    assert len(shown) == SHOWN + FOLDED
    assert (shown[0], shown[-1]) == ("0", "9999")
    # 10,000 - 80 - 2,048
    assert "<em>… 7,872 tokens not on this page …</em><em>✂ 9 tokens cut</em>" in long.folded
    assert long.fold.startswith("9,920 more tokens")


def test_the_parts_of_a_pair_keep_their_names_and_order() -> None:
    row = RenderedRow(
        kind="preference",
        source="pairs",
        row=3,
        split="eval",
        parts=[part("prompt", "p"), part("chosen", "c", trained=1), part("rejected", "r", trained=1)],
    )
    shown = row_view(row)
    assert [(one.name, one.trained) for one in shown.parts] == [("prompt", 0), ("chosen", 1), ("rejected", 1)]
    assert (shown.kind, shown.source, shown.row, shown.split) == ("preference", "pairs", 3, "eval")
