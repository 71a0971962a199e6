import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_engineering.data.formats import RowProblem
from llm_engineering.data.formats.html_text import html_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("no mark-up: a_b * c\n\n  d", "no mark-up: a_b * c\n\n  d"),
        ("<p>a</p>\n<p>b<br>c</p>", "a\n\nb  \nc"),
        ("<p>a_b *c* [d] # e\\f ~ 1. 2 &lt; 3 &amp;&amp; 4 &gt; 3</p>", "a_b *c* [d] # e\\f ~ 1. 2 < 3 && 4 > 3"),
        ("<p>See <a href='https://x.org'>this</a><img src='x.png' alt='y'>.</p>", "See this."),
        ("<p><strong>b</strong> <em>i</em> <code>x_1 * 2</code></p>", "**b** *i* `x_1 * 2`"),
        ("<ul><li>a</li><li>b</li></ul><ol><li>c</li></ol>", "- a\n- b\n\n1. c"),
        ("<h2>H</h2><blockquote><p>q</p></blockquote>", "## H\n\n> q"),
        ("<p>x<sup>2</sup> H<sub>2</sub>O</p>", "x<sup>2</sup> H<sub>2</sub>O"),
        ("<p>שלום 😀 é</p>", "שלום 😀 é"),
        (
            "<pre><code>\n    def f(a_b):\n        # *c* &lt;d&gt; &amp;amp;\n\n        return 1\n</code></pre>",
            "```\n    def f(a_b):\n        # *c* <d> &amp;\n\n        return 1\n```",
        ),
        ('<pre class="lang-c++ prettyprint-override"><code>int a;</code></pre>', "```c++\nint a;\n```"),
        ("<?xml version='1.0'?><p>x</p>", "xml version='1.0'?\n\nx"),
        ("index.html &amp; more.txt", "index.html & more.txt"),
    ],
)
def test_html_becomes_text_with_its_code_and_nothing_escaped(html: str, text: str) -> None:
    assert html_text(html, "it") == text


@pytest.mark.parametrize("html", ["<![x", "<div>" * 5000])
def test_html_that_the_parser_gives_up_is_unparsable(html: str) -> None:
    with pytest.raises(RowProblem, match="it is no HTML that can be read") as caught:
        html_text(html, "it")
    assert caught.value.reason == "unparsable"


PIECES = [
    "<",
    ">",
    "&",
    "<p>",
    "</p>",
    "<pre>",
    "<code>",
    "<li>",
    "<td>",
    "<!",
    "<![",
    "<?",
    "&#x",
    "&#99999999;",
    "\0",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join))
def test_any_html_becomes_text_or_is_unparsable(html: str) -> None:
    reason = "unparsable"
    try:
        text = html_text(html, "it")
    except RowProblem as problem:
        text, reason = "", problem.reason
    assert isinstance(text, str)
    assert reason == "unparsable"
