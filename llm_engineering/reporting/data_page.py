"""The data preview as one static page: what became of every row, what the audit found, and rows token by token."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llm_engineering.reporting.data_views import (
    PRIVATE,
    Problem,
    findings,
    kinds,
    languages,
    problems,
    reconciliation,
    row_view,
)
from llm_engineering.reporting.drawings import data_histograms
from llm_engineering.reporting.page import drawn, render_page
from llm_engineering.reporting.words import KINDS, REASONS, count, counted, percent
from llm_engineering.reports.data import DataAudit, DatasetReport, PreferenceAudit, SourceLedger

EXAMPLES = 20
"""Rows that the page shows."""
FATES = ("train", "eval", "test", "dropped")


@dataclass(frozen=True)
class _Ledger:
    """The sources of one kind, ready for the template."""

    label: str
    sources: list[SourceLedger]
    together: SourceLedger
    sum: str
    """How rows read and fates reconcile."""


def render_data_preview(report: DatasetReport, title: str = "Data") -> str:
    """Return the page of prepared rows; what was not read, or not audited, gets no table."""
    audit = report.audit
    return render_page(
        "data_preview.html.j2",
        report=report,
        title=title,
        headline=_headline(report.sources),
        facts=_facts(report),
        fates=FATES,
        rows_of=_rows_of,
        ledgers=[_Ledger(KINDS[kind], own, sums, reconciliation(sums)) for kind, own, sums in kinds(report.sources)],
        reasons=list(_reasons(report.sources)),
        words=REASONS,
        kinds=KINDS,
        findings=findings(audit) if audit else [],
        texts=_texts(audit) if audit else [],
        languages=[languages(texts) for texts in audit.texts.values()] if audit else [],
        preference=_preference(audit.preference) if audit and audit.preference else [],
        tokens=token_counts(report),
        histograms=drawn(data_histograms(report)),
        examples=[row_view(row) for row in report.examples[:EXAMPLES]],
    )


def token_counts(report: DatasetReport) -> list[tuple[str, str, str, str]]:
    """Return kind and split, tokens, tokens that carry loss, and the longest row, as they are written."""
    rows = []
    for name, tokens in report.tokens.items():
        trained = report.trained_tokens.get(name)
        share = f"{trained:,} ({100 * trained / tokens:.0f} %)" if trained is not None and tokens else "-"
        longest = report.longest.get(name)
        rows.append((name, f"{tokens:,}", share, f"{longest:,}" if longest is not None else "-"))
    return rows


def _headline(sources: list[SourceLedger]) -> list[str]:
    """Return phrases that a narrow page does not break."""
    rows, dropped = sum(ledger.rows for ledger in sources), sum(_rows_of(ledger, "dropped") for ledger in sources)
    return [f"{counted(rows, 'row')} read,", f"{count(rows - dropped)} kept,", f"{count(dropped)} dropped."]


def _facts(report: DatasetReport) -> list[str]:
    tokens, trained = sum(report.tokens.values()), sum(report.trained_tokens.values())
    examples = sum(ledger.examples for ledger in report.sources)
    lost = sum(ledger.tokens_lost for ledger in report.sources)
    return [
        counted(len(report.sources), "source"),
        *([counted(examples, "example")] if examples else []),
        counted(tokens, "token"),
        f"{count(trained)} carry loss",
        f"{count(lost)} cut" if lost else "no token cut",
    ]


def _rows_of(ledger: SourceLedger, fate: str) -> int:
    if fate == "dropped":
        return sum(ledger.dropped.values())
    rows: int = getattr(ledger, fate)
    return rows


def _reasons(sources: list[SourceLedger]) -> Iterable[tuple[str, list[tuple[str, list[Problem]]]]]:
    for kind, own, _ in kinds(sources):
        if found := [(ledger.source, problems(ledger)) for ledger in own if problems(ledger)]:
            yield KINDS[kind], found


def _texts(audit: DataAudit) -> list[tuple[str, list[int]]]:
    """Return what is counted in texts, one column a kind."""
    names = {
        "Examples": "examples",
        "Distinct prompts": "prompts",
        "Prompts that are nearly an earlier one": "near_prompts",
        "Answers that an earlier example has": "duplicate_answers",
        "Answers of fewer than three words": "short_answers",
        "With control or invisible characters": "non_printing",
    }
    counts = [(name, [int(getattr(texts, field)) for texts in audit.texts.values()]) for name, field in names.items()]
    return counts + [
        (f"With something like {words}", [texts.private.get(what, 0) for texts in audit.texts.values()])
        for what, words in PRIVATE.items()
    ]


def _preference(audit: PreferenceAudit) -> list[tuple[str, str, float | None, bool]]:
    """Return name, value and, for a share, its bar in percent, and whether a half is what chance gives."""
    shares = [
        ("Chosen answer is the longer one", audit.chosen_longer, True),
        ("“The longer answer wins” is right", audit.longer_wins, True),
        ("Words that both answers have", audit.overlap, False),
    ]
    return [
        ("Pairs", count(audit.pairs), None, False),
        ("Chosen equals rejected", count(audit.identical), None, False),
        ("Contradict an earlier pair", count(audit.contradictory), None, False),
        *((name, percent(share), _bar(share), half) for name, share, half in shares),
    ]


def _bar(share: float) -> float | None:
    return 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else None
