"""Two runs side by side as one static page; everything from data, models and configurations is escaped."""

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.checks import evidence
from llm_engineering.reporting.differences import AnswerPair, RunDifferences
from llm_engineering.reporting.differences_text import HOW_MEASURED, measured
from llm_engineering.reporting.page import render_page
from llm_engineering.reporting.wording import model_label


def render_differences(found: RunDifferences) -> str:
    """Return the whole page."""
    metrics = [
        (
            model_label(pair.model),
            row_of(pair.metric).label,
            measured(pair.metric, pair.left),
            measured(pair.metric, pair.right),
            evidence(pair.paired) if pair.paired else "",
        )
        for pair in found.metrics
    ]
    prompts: dict[str, list[AnswerPair]] = {}
    for pair in found.answers:
        prompts.setdefault(pair.prompt, []).append(pair)
    return render_page(
        "differences.html.j2",
        found=found,
        metrics=metrics,
        prompts=prompts,
        how_measured=HOW_MEASURED[found.measured_alike],
    )
