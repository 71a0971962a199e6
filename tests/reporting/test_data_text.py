import pytest
from pages import ATTACK
from rich.cells import cell_len
from rich.console import Console

from llm_engineering.reporting.data_text import ledger_and_audit, shortened
from llm_engineering.reports.data import DatasetReport, SourceLedger


def shown(report: DatasetReport, width: int = 80) -> list[str]:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(ledger_and_audit(report))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_every_source_is_one_line_of_a_table_of_eighty_columns(rich_data: DatasetReport) -> None:
    lines = shown(rich_data)
    assert max(map(len, lines)) <= 80
    start = lines.index("  SFT rows                                   rows    train   eval  test  dropped")
    assert lines[start + 2 : start + 5] == [
        "  data/conversations/…onl.zst (openorca)  250,100  198,640  9,300     0   42,160",
        "  extra.jsonl (alpaca)                        250      238      5     0        7",
        "  together                                250,350  198,878  9,305     0   42,167",
    ]


def test_reasons_stand_with_their_first_row_and_what_was_kept(rich_data: DatasetReport) -> None:
    lines = shown(rich_data)
    start = lines.index("  extra.jsonl (alpaca)")
    assert lines[start + 1 : start + 5] == [
        "        5  empty answer            extra.jsonl, line 17: `output` is blank",
        "        7  exact duplicate, kept   extra.jsonl, line 40: repeats line 3",
        "        2  leaked into evaluation",
        "           mix                     count 250 asked, 0.1 % of training",
    ]
    assert "   12,004  cut to fit              1,310,220 tokens lost, 88,017 trained; 31" in lines
    assert "    3,310  repeated prompts        kept: the answers differ" in lines


def test_tokens_audit_and_notes_follow(rich_data: DatasetReport) -> None:
    lines = shown(rich_data)
    assert "  sft/train         75,310,244  33,020,118        1,024" in lines
    assert "  preference/test       91,000           -          871" in lines
    assert "  ! Preferring the longer answer is right for 75.2 % of 24,877 pairs: length" in lines
    assert "  · 412 of 250,100 rows dropped, exact duplicate (data.rules.exact_duplicate:" in lines


def test_millions_fit_too(rich_data: DatasetReport) -> None:
    ledger = SourceLedger(
        kind="sft",
        source="org/a-name-that-is-long-enough-to-need-room",
        format="messages",
        rows=12_345_678,
        train=10_000_000,
        eval=1_000_000,
        test=1_000_000,
        dropped={"too long": 345_678},
    )
    lines = shown(rich_data.model_copy(update={"sources": [ledger]}))
    (line,) = (line for line in lines if "12,345,678" in line)
    assert line.split()[-5:] == ["12,345,678", "10,000,000", "1,000,000", "1,000,000", "345,678"]
    assert len(line) <= 80


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int, rich_data: DatasetReport) -> None:
    assert max(map(cell_len, shown(rich_data, width))) <= width


def test_an_empty_report_prints_nothing(empty_data: DatasetReport) -> None:
    assert [line for line in shown(empty_data) if line] == []


def test_text_from_data_is_neither_markup_nor_control(rich_data: DatasetReport) -> None:
    hostile = f"[bold]{ATTACK}[/]\x1b[2J\r\u202e" + "x" * 300
    source = rich_data.sources[1].model_copy(
        update={"source": "[red]a\x1b[2J", "asked": hostile, "first_problem": {"empty answer": hostile + "\n\nb"}}
    )
    text = "\n".join(shown(rich_data.model_copy(update={"sources": [source, source], "notes": [hostile]}), 200))
    assert not set(text) & set("\x1b\r\u202e")
    assert "[red]a\N{REPLACEMENT CHARACTER}[2J (alpaca)" in text
    assert f"[bold]{ATTACK}[/]" in text


def test_names_are_shortened_in_their_middle() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 9) == "abcd…hijk"
    assert cell_len(shortened("日本語" * 10, 12)) == 12
