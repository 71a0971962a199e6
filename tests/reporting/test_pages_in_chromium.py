"""Pages as a real browser shows them: on a phone, a tablet, a desktop and paper, in light and dark."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from comparisons import build_comparison, build_run, build_sweep
from hostile import HOSTILE, spoiled
from outcome_rows import build_changes
from run_pairs import build_differences

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.comparison_page import render_comparison
from llm_engineering.reporting.data_page import render_data_preview
from llm_engineering.reporting.differences_views import render_differences
from llm_engineering.reporting.outcomes_page import render_outcomes
from llm_engineering.reporting.run_page import render_report
from llm_engineering.reports.data import DatasetReport

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

WIDTHS = (390, 820, 1280)
PAPER = 718
"""CSS pixels between margins of 10 mm on A4."""
ALL = [
    pytest.param("comparison", id="comparison"),
    *(
        pytest.param(name, id=name, marks=pytest.mark.slow)
        for name in ("report", "data", "sweep", "outcomes", "differences")
    ),
]
HEADINGS = {
    "comparison": ["What was done", "What was measured", "Model against model", "Answers side by side", "Training"],
    "sweep": ["The runs", "What was measured", "Answers side by side", "Training", "Data", "Proofs"],
    "report": ["What training changed", "How it was decided", "Answers side by side", "Training", "Data", "Proofs"],
    "outcomes": ["Counts", "Rows"],
    "differences": ["What differs", "Metrics", "Answers"],
    "data": ["What became of every row", "What was found in them", "Audit", "How rows became tokens"],
}
CONTRASTS = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2];
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("p, li, th, td, small, dd, dt, code, summary, .tag, .value, .yes, .no, mark i")]
    .filter(element => element.checkVisibility() && element.innerText.trim())
    .map(element => {
      const [a, b] = [light(channels(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => x - y);
      return [(b + .05) / (a + .05), element.className + " " + element.tagName];
    });
}"""

TOO_WIDE = """all => all.filter(e => e.scrollWidth - e.clientWidth > 1)
  .map(e => `${e.tagName}.${e.className} by ${e.scrollWidth - e.clientWidth}: ${e.innerText.slice(0, 40)}`)"""
BEYOND = """() => {
  const edge = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= edge) return [];
  return ["the page", ...[...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > edge + 1 && !e.closest(".scroll"))
    .map(e => `${e.tagName}.${e.className}: ${(e.innerText || "").slice(0, 40)}`)];
}"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def opened(browser: "Browser") -> "Iterator[Page]":
    page = browser.new_page()
    yield page
    page.close()


def rendered(name: str, run: RunReports, data: DatasetReport, *, hostile: bool = False) -> str:
    spoil = spoiled if hostile else lambda report: report
    if name == "report":
        return render_report(spoil(run.model_copy(update={"dataset": data})))
    if name == "data":
        return render_data_preview(spoil(data), title=HOSTILE if hostile else "Data")
    if name == "outcomes":
        return render_outcomes([spoil(change) for change in build_changes()])
    if name == "differences":
        return render_differences(spoil(build_differences()))
    report = build_comparison() if name == "comparison" else build_sweep()
    return render_comparison(
        spoil(report),
        spoil(build_run(name)),
        dataset=spoil(data),
        decision=spoil(run.decision) if run.decision else None,
        config_yaml=HOSTILE if hostile else run.config_yaml,
        packages={HOSTILE: HOSTILE} if hostile else run.packages,
    )


def show(page: "Page", html: str, folder: Path) -> list[str]:
    """Open a page and return the addresses that it asked for."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    page.goto(file.as_uri())
    return asked


def too_wide(page: "Page", selector: str) -> list[str]:
    """Return the elements whose content is wider than they are, with the start of their text."""
    found: list[str] = page.locator(selector).evaluate_all(TOO_WIDE)
    return found


def beyond_the_edge(page: "Page") -> list[str]:
    """Return what reaches beyond the right edge of a page that can be scrolled sideways, and scrolls in no frame."""
    found: list[str] = page.evaluate(BEYOND)
    return found


@pytest.mark.parametrize("name", ALL)
def test_hostile_text_runs_nothing_and_breaks_out_of_no_page_at_any_width(
    name: str, example_run: RunReports, rich_data: DatasetReport, opened: "Page", tmp_path: Path
) -> None:
    asked = show(opened, rendered(name, example_run, rich_data, hostile=True), tmp_path)
    assert len(asked) == 1, "nothing but the page itself is loaded"
    assert opened.locator("script, img, link, iframe, object, form").count() == 0
    assert opened.title() != "broken in"
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in opened.content()
    headings = opened.locator("h2").all_inner_texts()
    assert [heading for heading in headings if heading in HEADINGS[name]] == HEADINGS[name]
    opened.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 900})
        assert beyond_the_edge(opened) == [], f"{name} at {width} px"


@pytest.mark.parametrize("name", ALL)
def test_every_text_can_be_read_in_light_and_dark_and_tables_fit_on_paper(
    name: str, example_run: RunReports, rich_data: DatasetReport, opened: "Page", tmp_path: Path
) -> None:
    show(opened, rendered(name, example_run, rich_data), tmp_path)
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        contrasts = opened.evaluate(CONTRASTS)
        assert len(contrasts) > 50
        assert [found for found in contrasts if found[0] < 4.5] == [], scheme
    opened.emulate_media(media="print", color_scheme="light")
    opened.set_viewport_size({"width": PAPER, "height": 1000})
    assert beyond_the_edge(opened) + too_wide(opened, ".scroll, td, th, figure") == []
    margin = dict.fromkeys(("top", "bottom", "left", "right"), "10mm")
    paper = opened.pdf(format="A4", margin=margin)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper)) <= 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "data", "comparison", "sweep"])
def test_pages_fit_every_width_with_all_that_folds_unfolded(
    name: str, example_run: RunReports, rich_data: DatasetReport, opened: "Page", tmp_path: Path
) -> None:
    show(opened, rendered(name, example_run, rich_data), tmp_path)
    opened.locator("details").evaluate_all("all => all.forEach(each => each.open = true)")
    for width in WIDTHS:
        opened.set_viewport_size({"width": width, "height": 900})
        assert beyond_the_edge(opened) == [], f"{name} at {width} px"
        assert opened.locator("h1").is_visible()
        assert all(opened.locator("figure svg").evaluate_all("all => all.map(e => e.clientWidth > 150)"))


def test_rows_of_one_outcome_can_be_picked(opened: "Page", tmp_path: Path) -> None:
    show(opened, render_outcomes(build_changes()), tmp_path)
    rows = opened.locator(".changes tbody tr")
    assert rows.evaluate_all("all => all.filter(row => row.checkVisibility()).length") == len(build_changes())
    opened.get_by_label("unlearned", exact=True).check()
    left = rows.evaluate_all("all => all.filter(row => row.checkVisibility()).map(row => row.cells[0].innerText)")
    assert left == ["unlearned", "unlearned"]
    opened.get_by_label("all", exact=True).check()
    assert rows.evaluate_all("all => all.filter(row => row.checkVisibility()).length") == len(build_changes())
