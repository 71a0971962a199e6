"""Why two runs differ, on records that are written out."""

import io
import json

import pytest
from pages import ATTACK, Outline, words
from rich.console import Console
from run_pairs import FIRST, dataset, evaluation

from llm_engineering.reporting.differences import RunDifferences, RunRecord, compare_runs
from llm_engineering.reporting.differences_views import differences_text, render_differences
from llm_engineering.reports.data import RowChange
from llm_engineering.reports.evaluation import Metric, ModelScores


def second(**changes: object) -> RunRecord:
    return FIRST.model_copy(update={"name": "second-run", **changes})


def config(**changes: str) -> dict[str, str]:
    return FIRST.config | {key.replace("__", "."): value for key, value in changes.items()}


def differing(found: RunDifferences) -> dict[str, list[str]]:
    return {s.subject: [d.words for d in s.differences] for s in found.sections if s.differences}


def test_the_same_records_differ_in_nothing() -> None:
    found = compare_runs(FIRST, FIRST)
    assert found.headline == "Nothing differs."
    assert differing(found) == {}


def test_one_setting_is_the_whole_sentence() -> None:
    found = compare_runs(FIRST, second(config=config(dpo__beta="0.3")))
    assert found.headline == "dpo.beta 0.1 → 0.3; nothing else differs that shapes results."
    assert differing(found) == {"Configuration": ["dpo.beta 0.1 → 0.3"]}


def test_settings_that_shape_nothing_are_shown_and_not_blamed() -> None:
    found = compare_runs(FIRST, second(config=config(tracking__type="comet", name="other")))
    assert found.headline.startswith("Nothing differs that shapes results; name demo → other")
    assert [d.shapes_results for d in found.sections[0].differences] == [False, False]
    assert "tracking.type" in found.headline


def test_a_setting_that_one_run_has_not_is_shown() -> None:
    found = compare_runs(FIRST, second(config=config(adapter__r="16")))
    assert differing(found)["Configuration"] == ["adapter.r - → 16"]


def test_the_seed_has_a_section_of_its_own() -> None:
    assert differing(compare_runs(FIRST, second(config=config(seed="2")))) == {"Seeds": ["seed 1 → 2"]}


def test_many_settings_are_counted() -> None:
    changes = {f"sft.x{i}": str(i) for i in range(5)}
    found = compare_runs(FIRST, second(config=FIRST.config | changes))
    assert found.headline.startswith("5 settings differ (sft.x0, sft.x1, sft.x2 ...); nothing else")


def test_rows_that_came_and_went_are_counted_by_source() -> None:
    rows = [RowChange(source="rows.jsonl", before=100, after=102, added=3, removed=1)]
    found = compare_runs(FIRST, second(raw_sha256="other", dataset=dataset(102, "bbbb")), rows)
    assert differing(found)["Data"] == [
        "rows of rows.jsonl 100 → 102 (3 added, 1 removed)",
        "prepared rows, sft aaaa → bbbb",
        "rows.jsonl, sft: rows 100 → 102",
        "rows.jsonl, sft: train 100 → 102",
    ]
    assert "rows of rows.jsonl 100 → 102 (3 added, 1 removed)" in found.headline


def test_another_commit_with_the_same_files_shapes_nothing() -> None:
    found = compare_runs(FIRST, second(commit="fedcba9876543210", dirty=True))
    assert found.headline.startswith("Nothing differs that shapes results; commit 0123456789ab → fedcba987654")


def test_files_that_results_depend_on_are_named() -> None:
    found = compare_runs(FIRST, second(modules={"steps/evaluate.py": "11", "steps/merge.py": "33"}))
    assert differing(found) == {"Code": ["steps/merge.py 22 → 33"]}
    assert found.headline == "steps/merge.py 22 → 33; nothing else differs that shapes results."


def test_what_an_older_run_did_not_record_is_not_called_the_same() -> None:
    found = compare_runs(FIRST, second(modules={}, packages={}, config=config(dpo__beta="0.3")))
    assert found.headline.endswith("nothing else differs that shapes results, as far as it was recorded.")
    assert {s.subject: s.unknown for s in found.sections if s.unknown} == {
        "Code": "Not recorded for second-run.",
        "Packages": "Not recorded for second-run.",
    }


def test_metrics_are_tested_in_pairs_where_they_were_measured_alike() -> None:
    found = compare_runs(FIRST, second(evaluation=evaluation(30, "b")))
    assert found.measured_alike is True
    (pair,) = found.metrics
    assert pair.paired is not None
    assert (pair.paired.difference, pair.paired.units) == (0.25, 40)
    assert pair.paired.p_value == pytest.approx(2 / 2**10)  # 10 units won, none lost


def test_metrics_of_other_questions_stand_side_by_side_untested() -> None:
    found = compare_runs(FIRST, second(evaluation=evaluation(30, "b", fingerprint="other")))
    assert found.measured_alike is False
    assert [(pair.left is None, pair.right is None, pair.paired) for pair in found.metrics] == [(False, False, None)]


def test_a_run_that_failed_before_its_evaluation_compares_in_what_went_into_it() -> None:
    found = compare_runs(FIRST, second(evaluation=None, dataset=None))
    assert found.measured_alike is None
    assert found.answers == []
    assert next(s.unknown for s in found.sections if s.subject == "Data") == "No data report of second-run."


def shown(found: RunDifferences) -> str:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(differences_text(found))
    return console.export_text()


def test_the_terminal_shows_the_sentence_first_then_sections_metrics_and_answers() -> None:
    changed = second(config=config(dpo__beta="0.3"), evaluation=evaluation(30, "b", answer="No."))
    text = shown(compare_runs(FIRST, changed))
    assert text.startswith("dpo.beta 0.1 → 0.3; nothing else differs")
    assert text.index("Configuration") < text.index("Metrics") < text.index("Answers")
    assert "+25.0 % (" in text
    assert text.index("Yes.") < text.index("No.")


def test_the_page_escapes_everything_and_closes_every_element() -> None:
    attacked = second(
        name=ATTACK, config=config(dpo__beta=ATTACK), evaluation=evaluation(30, "b", answer=ATTACK), commit=ATTACK
    )
    page = render_differences(compare_runs(FIRST, attacked))
    outline = Outline(page)
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert outline.headings == ["Why two runs differ", "What differs", "Metrics", "Answers"]
    assert "{{ 7 * 7 }}" in words(page)


def test_no_text_moves_the_cursor_or_becomes_markup_on_the_terminal() -> None:
    text = shown(compare_runs(FIRST, second(config=config(dpo__beta="\x1b[2J[red]0.3[/red]"))))
    assert "\x1b" not in text
    assert "[red]0.3[/red]" in text


def test_the_json_has_no_numbers_that_json_has_no_word_for() -> None:
    nan = Metric(value=float("nan"), units=1)
    scores = ModelScores(checkpoint_sha256="b", metrics={"perplexity": nan})
    broken = evaluation(20, "a").model_copy(update={"models": {"dpo": scores}})
    text = compare_runs(FIRST, second(evaluation=broken)).model_dump_json()
    assert "NaN" not in text
    assert json.loads(text)["left"] == "first-run"
