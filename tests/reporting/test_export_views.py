"""Where the promoted model went, in every report alike."""

from pathlib import Path

import pytest

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.run_page import render_report
from llm_engineering.reporting.run_text import places
from llm_engineering.reporting.summary import build_summary
from llm_engineering.reports.promotion import Export, ExportParity, ExportReport


@pytest.fixture
def exported(example_run: RunReports) -> RunReports:
    parity = ExportParity(
        prompts=16,
        positions=345,
        agreement=0.922,
        kl_per_token=0.00202,
        max_logit_difference=1.81,
        mean_logit_difference=0.256,
        least_agreement=0.95,
        most_kl=0.02,
    )
    exports = [
        Export(format="merged", path="/out/model", repository="me/zoo", megabytes=3.6),
        Export(format="int4", parity=parity, problem="int4 is <b>not</b> published."),
    ]
    return example_run.model_copy(update={"exports": ExportReport(exports=exports)})


def test_the_page_shows_places_numbers_and_what_went_wrong(exported: RunReports) -> None:
    page = " ".join(render_report(exported).split())
    assert "<dt>Export, merged</dt><dd><code>/out/model</code> <code>me/zoo</code> on the hub" in page
    assert '<span class="no">int4 is &lt;b&gt;not&lt;/b&gt; published.</span>' in page
    assert "merged model at 92.2 % of 345 positions, KL 0.002 nats a token, logits up to 1.8 apart (0.26 on" in page


def test_the_terminal_has_one_line_a_format(exported: RunReports) -> None:
    lines = [" ".join(line.plain.split()) for line in places(exported)]
    assert "export merged /out/model, me/zoo" in lines
    assert "export int4 int4 is <b>not</b> published." in lines


def test_the_summary_has_all_of_it(exported: RunReports, example_run: RunReports, tmp_path: Path) -> None:
    found = build_summary(exported)["exports"]
    assert isinstance(found, list)
    assert [each["format"] for each in found] == ["merged", "int4"]
    assert found[1]["parity"]["kl_per_token"] == 0.00202
    assert build_summary(example_run)["exports"] == []
