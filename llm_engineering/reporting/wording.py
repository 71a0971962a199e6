"""How metrics, models and decisions are called and written, in every report alike."""

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from llm_engineering.config.metrics import METRICS, MODELS, higher_is_better, row_of
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reports.data import DropReason
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric
from llm_engineering.reports.folders import RowKind
from llm_engineering.reports.training import TrainingReport, Verdict

_Name = TypeVar("_Name", bound=str)


KINDS: dict[RowKind, str] = {"sft": "SFT rows", "preference": "Preference pairs"}
"""What both kinds of rows are called."""

REASONS: dict[DropReason, str] = {
    "unparsable": "The line or record cannot be read.",
    "not text": "Something else stands where text belongs.",
    "bad role order": "The roles do not alternate, or the conversation ends on the wrong side.",
    "empty prompt": "A user's message is empty, or has only invisible characters.",
    "empty answer": "An answer is empty or blank.",
    "filtered by rule": "The configuration leaves such rows out.",
    "identical pair": "The chosen answer equals the rejected one.",
    "contradictory pair": "An earlier pair prefers the same two answers the other way round.",
    "exact duplicate": "An earlier row has the same prompt and answers.",
    "near-duplicate": "An earlier row has nearly the same prompt and answers.",
    "leaked into evaluation": "The prompt is held out elsewhere, so that training on it would spoil the measurement.",
    "over the mix": "The mix asks for fewer rows of this source.",
    "special token in text": "The text holds a special token, which would end a turn or forge one.",
    "not renderable": "The chat template cannot render the conversation.",
    "too long": "The row does not fit, and cutting it is not allowed or not enough.",
}
"""Why a row is dropped or named, in plain words and in the order in which it is looked for."""


def model_label(model: str) -> str:
    """Return what a model is called."""
    return MODELS.get(model, model)


def in_order(names: Iterable[_Name], known: Mapping[_Name, object]) -> list[_Name]:
    """Return distinct names: the known ones in their order, the others behind as they came."""
    distinct = list(dict.fromkeys(names))
    return [name for name in known if name in distinct] + [name for name in distinct if name not in known]


def evaluated(evaluation: EvaluationReport) -> tuple[list[str], list[str]]:
    """Return models and metrics of an evaluation in the order in which they are shown."""
    metrics = (name for scores in evaluation.models.values() for name in scores.metrics)
    return in_order(evaluation.models, MODELS), in_order(metrics, METRICS)


def number(metric: str, value: float) -> str:
    """Return a value without its unit: ``95.3`` for a share of 0.953."""
    row = row_of(metric)
    return f"{100 * value if row.is_share else value:,.{row.digits}f}"


def quantity(metric: str, value: float) -> str:
    """Return a value as it is written in running text: ``95.3 %``, ``0.0412 nats/token``."""
    return f"{number(metric, value)} {row_of(metric).unit}".rstrip()


def interval(metric: str, measured: Metric) -> str:
    """Return the ends of the 95 % interval, or an empty string where none is defined."""
    if measured.low is None or measured.high is None:
        return ""
    return f"{number(metric, measured.low)} to {number(metric, measured.high)}"


def best_models(evaluation: EvaluationReport, metric: str) -> set[str]:
    """Return the models with the best value of a metric as it is written; none where all are alike, or none is best."""
    higher = higher_is_better(metric)
    measured = {
        name: scores.metrics[metric].value for name, scores in evaluation.models.items() if metric in scores.metrics
    }
    finite = {name: value for name, value in measured.items() if math.isfinite(value)}
    if higher is None or len(finite) < 2:
        return set()
    best = number(metric, max(finite.values()) if higher else min(finite.values()))
    winners = {name for name, value in finite.items() if number(metric, value) == best}
    return winners if len(winners) < len(finite) else set()


def headline(reports: RunReports) -> str:
    """Return the run's outcome in one sentence."""
    run, decision = reports.run, reports.decision
    if run.status == "failed":
        return "The run failed."
    if decision is None:
        return "The run is complete; it decides on no promotion."
    if decision.promoted is None:
        return f"No model of this run is promoted to {decision.stage}."
    if decision.promoted == "sft" and reports.dpo:
        return f"The SFT model goes to {decision.stage}; DPO is not promoted."
    return f"The {model_label(decision.promoted)} model is promoted to {decision.stage}."


def comparison_headline(report: ComparisonReport) -> str:
    """Return the outcome of a comparison or a sweep in one sentence."""
    made = [variant for variant in report.variants if variant.error is None]
    best = next((variant for variant in made if variant.name == report.best), None)
    if not made:
        return "Nothing could be compared: every model failed."
    if best is None:
        return f"{counted(len(made), 'model')} from one base, measured alike."
    by = f" by {within_sentence(row_of(report.metric).label)}" if report.metric else ""
    among = f" of {counted(len(made), 'run')}" if report.kind == "sweep" else f" of {counted(len(made), 'model')}"
    return f"{best.title} is the best{among}{by}."


def within_sentence(label: str) -> str:
    """Return a label as it stands within a sentence; a capital that starts an abbreviation stays."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def verdict_name(verdict: Verdict) -> str:
    """Return what a verdict of the watch is called, and from which step on it was seen: ``no signal, from step 30``."""
    seen = "" if verdict.first_seen is None else f", from step {verdict.first_seen}"
    return verdict.name.replace("_", " ").replace("kl", "KL") + seen


def ending(training: TrainingReport) -> list[str]:
    """Return sentences about a stage that the watch ended or restarted; none for any other."""
    told = []
    if training.first_attempt is not None and training.restarted_with_nll is not None:
        told.append(
            f"A first attempt was displaced; this one was trained anew from the SFT model with an NLL term of weight "
            f"{training.restarted_with_nll:g}."
        )
    if training.stopped_by is not None:
        name = training.stopped_by.name.replace("_", " ")
        told.append(f"The watch stopped it at step {training.steps}: {name}. {training.stopped_by.evidence}")
    return told


def count(number: int) -> str:
    """Return a whole number with its thousands apart: ``1,234,567``."""
    return f"{number:,}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return a number and what it counts: ``1 row``, ``1,234 rows``; ``many`` where an ``s`` does not make it."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """Return a share in percent, ``78.2 %``; a dash where it is no number."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "-"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``0.4 s``, ``42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
