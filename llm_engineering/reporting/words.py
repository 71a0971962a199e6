"""How metrics, models, decisions and differences are called and written, in every report alike."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from llm_engineering.config.metrics import METRICS, MODELS, higher_is_better, row_of
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reports.data import DropReason
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric, PairedDifference
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


SIGNIFICANT = 0.05
"""Below which p-value a difference counts as shown, if its interval leaves out 0 as well."""
DifferenceVerdict = Literal["better", "worse", "higher", "lower", "no difference shown"]


@dataclass(frozen=True)
class DifferenceInWords:
    """One difference as it is written."""

    metric: str
    difference: str
    interval: str
    p_value: str
    units: int
    verdict: DifferenceVerdict


@dataclass(frozen=True)
class ComparisonOfTwo:
    """All that is known of one model against another."""

    candidate: str
    against: str
    summary: str
    differences: list[DifferenceInWords]


def verdict_on(found: PairedDifference) -> DifferenceVerdict:
    """Return what a difference says; ``higher`` or ``lower`` where neither direction is a success by itself."""
    if not _is_shown(found):
        return "no difference shown"
    better = higher_is_better(found.metric)
    if better is None:
        return "higher" if found.difference > 0 else "lower"
    return "better" if better == (found.difference > 0) else "worse"


def _is_shown(found: PairedDifference) -> bool:
    if found.p_value is None or not found.p_value < SIGNIFICANT:
        return False
    return found.low is None or found.high is None or found.low > 0 or found.high < 0


def p_text(p_value: float | None) -> str:
    """Return a p-value as it is written: ``p < 0.001``, ``p = 0.032``; a dash where there is none."""
    if p_value is None or not math.isfinite(p_value):
        return "-"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def signed(metric: str, difference: float) -> str:
    """Return a difference with its sign and unit: ``+91.2 points``, ``-0.10 nats/token``."""
    unit = "points" if row_of(metric).is_share else row_of(metric).unit
    return f"{_signed(metric, difference)} {unit}".rstrip()


def _signed(metric: str, value: float) -> str:
    written = number(metric, abs(value))
    sign = "" if not float(written.replace(",", "")) else "+" if value > 0 else "-"
    return sign + written


def compared_in_words(differences: Sequence[PairedDifference]) -> list[ComparisonOfTwo]:
    """Return one entry for every two models, in the order in which they first come.

    Where two models are compared both ways, the later one of both is kept: it says the same.
    """
    both = list(dict.fromkeys((found.candidate, found.against) for found in differences))
    pairs = [(one, other) for at, (one, other) in enumerate(both) if (other, one) not in both[at + 1 :]]
    return [
        _of_two(pair, [found for found in differences if (found.candidate, found.against) == pair]) for pair in pairs
    ]


def _of_two(pair: tuple[str, str], differences: list[PairedDifference]) -> ComparisonOfTwo:
    known = in_order((found.metric for found in differences), METRICS)
    ordered = sorted(differences, key=lambda found: known.index(found.metric))
    return ComparisonOfTwo(*pair, _summary(ordered), [_in_words(found) for found in ordered])


def _summary(differences: list[PairedDifference]) -> str:
    """Return one sentence: what is better, what is worse, what is otherwise different, what shows no difference."""
    order: tuple[DifferenceVerdict, ...] = ("better", "worse", "higher", "lower")
    told = [
        f"{verdict} in {_listed([found for found in differences if verdict_on(found) == verdict])}"
        for verdict in order
        if any(verdict_on(found) == verdict for found in differences)
    ]
    if not told:
        return "No difference shown."
    rest = sum(verdict_on(found) == "no difference shown" for found in differences)
    sentence = "; ".join(told + ([f"no difference shown in {rest} more"] if rest else []))
    return f"{sentence[0].upper()}{sentence[1:]}."


def _listed(differences: list[PairedDifference]) -> str:
    labels = [within_sentence(row_of(found.metric).label) for found in differences]
    gains = [signed(found.metric, found.difference) for found in differences]
    return ", ".join(f"{label} ({gain})" for label, gain in zip(labels, gains, strict=True))


def _in_words(found: PairedDifference) -> DifferenceInWords:
    ends = [_signed(found.metric, end) for end in (found.low, found.high) if end is not None]
    return DifferenceInWords(
        metric=row_of(found.metric).label,
        difference=signed(found.metric, found.difference),
        interval=" to ".join(ends) if len(ends) == 2 else "",
        p_value=p_text(found.p_value),
        units=found.units,
        verdict=verdict_on(found),
    )
