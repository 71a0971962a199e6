"""The checks of a promotion decision in words."""

from rich import box
from rich.table import Table
from rich.text import Text

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.scores_text import plain
from llm_engineering.reporting.wording import model_label, number, quantity
from llm_engineering.reports.evaluation import PairedDifference
from llm_engineering.reports.promotion import PromotionCheck, PromotionDecision


def check_view(check: PromotionCheck) -> dict[str, object]:
    """Return one check as it is shown: both values, the tolerance, the evidence and what came of it."""
    return {
        "passed": check.passed,
        "metric": row_of(check.metric).label,
        "candidate": f"{model_label(check.candidate)} {quantity(check.metric, check.candidate_value)}",
        "against": f"{model_label(check.against)} {quantity(check.metric, check.against_value)}",
        "tolerance": quantity(check.metric, check.tolerance),
        "evidence": evidence(check.paired) if check.paired else "values alone",
        "verdict": check.verdict or ("passed" if check.passed else "failed"),
        "note": check.note,
    }


def checks_table(decision: PromotionDecision) -> Table:
    """Return the checks of a decision as a table for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for head in ("Metric", "Candidate", "Against", "Loss allowed", "Difference on the same units", "Check"):
        table.add_column(head)
    for check in decision.checks:
        view = check_view(check)
        shown = ("metric", "candidate", "against", "tolerance", "evidence")
        note = f", {check.note}" if check.note else ""
        outcome = Text(plain(f"{'✓' if check.passed else '✗'} {view['verdict']}{note}"))
        outcome.stylize("green" if check.passed else "red")
        table.add_row(*(Text(plain(str(view[name]))) for name in shown), outcome)
    return table


def evidence(paired: PairedDifference) -> str:
    """Return a paired difference in words: the value with its interval, p-value and units."""
    unit = f" {row_of(paired.metric).unit}" if row_of(paired.metric).unit else ""
    ends = ""
    if paired.low is not None and paired.high is not None:
        ends = f" ({signed(paired.metric, paired.low)} to {signed(paired.metric, paired.high)})"
    p_value = "" if paired.p_value is None else f", p = {paired.p_value:.2g}"
    units = f"{paired.units:,} unit{'' if paired.units == 1 else 's'}"
    return f"{signed(paired.metric, paired.difference)}{unit}{ends}{p_value}, {units}"


def signed(metric: str, difference: float) -> str:
    """Return a difference with its sign, without its unit."""
    written = number(metric, abs(difference))
    if float(written.replace(",", "")) == 0:
        return written
    return ("+" if difference > 0 else "\N{MINUS SIGN}") + written
