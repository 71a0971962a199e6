"""How metrics, models and decisions are called and written, in every report alike."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reports.data import DropReason
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric
from llm_engineering.reports.folders import RowKind
from llm_engineering.reports.training import TrainingReport, Verdict

_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class MetricWording:
    """How one metric is shown."""

    label: str
    higher_is_better: bool | None = None
    """None: neither direction is a success by itself."""
    share: bool = False
    """A share between 0 and 1, shown in percent."""
    digits: int = 1
    unit: str = ""
    detail: bool = False
    """Left out where there is little room, as in the terminal."""


_ANSWERS: dict[str, MetricWording] = {
    "answer_accuracy": MetricWording("Right answers", True, share=True),
    "preferred_rate": MetricWording("Preferred answers", True, share=True),
    "answer_score": MetricWording("Answer score", True, digits=3),
    "flaws_per_answer": MetricWording("Flaws per answer", False, digits=2),
}
"""What a checker says."""
_TEXTS: dict[str, MetricWording] = {
    "repetition": MetricWording("Repetition", False, share=True),
    "looping": MetricWording("Answers that end in a loop", False, share=True),
    "unfinished": MetricWording("Unfinished answers", False, share=True),
    "refusals": MetricWording("Refusals", False, share=True),
    "compression_ratio": MetricWording("Compression ratio", None, digits=2, detail=True),
    "distinct_1": MetricWording("Different words", None, share=True, detail=True),
    "distinct_2": MetricWording("Different word pairs", None, share=True, detail=True),
    "answer_tokens": MetricWording("Answer length", None, unit="tokens"),
    "answer_words": MetricWording("Answer length in words", None, unit="words", detail=True),
}
"""What answers are like, whatever they say."""


def _sampled(metrics: dict[str, MetricWording]) -> dict[str, MetricWording]:
    """Return the same metrics of sampled answers."""
    judged = ("answer_accuracy", "preferred_rate", "flaws_per_answer", "unfinished")
    return {
        f"sampled_{name}": replace(words, label=f"{words.label}, sampled", detail=name not in judged)
        for name, words in metrics.items()
    }


def _by_length(name: str, label: str) -> dict[str, MetricWording]:
    """Return an accuracy on all pairs, and on those that the answers' lengths tell apart."""
    parts = {
        "": label,
        "_like_length": f"{label}, answers of like length",
        "_chosen_longer": f"{label}, chosen longer",
        "_chosen_shorter": f"{label}, chosen shorter",
    }
    detailed = ("_chosen_longer", "_chosen_shorter")
    return {
        name + part: MetricWording(words, True, share=True, detail=part in detailed) for part, words in parts.items()
    }


METRICS: dict[str, MetricWording] = {
    **_ANSWERS,
    **_sampled(_ANSWERS),
    "perplexity": MetricWording("Perplexity", False, digits=2),
    "held_out_loss": MetricWording("Held-out loss", False, digits=3, unit="nats/token"),
    **_by_length("ranking_accuracy", "Chosen ranked first"),
    **_by_length("preference_accuracy", "Chosen rewarded more"),
    "longer_wins": MetricWording("Longer answer taken, for comparison", None, share=True),
    "chosen_longer": MetricWording("Chosen answer is the longer one", None, share=True, detail=True),
    "preference_margin": MetricWording("Preference margin", True, digits=3),
    "chosen_reward": MetricWording("Reward of chosen answers", None, digits=3, detail=True),
    "rejected_reward": MetricWording("Reward of rejected answers", None, digits=3, detail=True),
    "judge_score": MetricWording("Judge's score", True, digits=2),
    "kl_per_token": MetricWording("KL from reference", None, digits=4, unit="nats/token"),
    "kl_per_answer": MetricWording("KL from reference, whole answers", None, digits=2, unit="nats/answer"),
    **_TEXTS,
    **_sampled(_TEXTS),
}
"""Known metrics in the order in which they are shown; an unknown one is shown under its own name."""

MODELS = {"base": "Base", "sft": "SFT", "dpo": "DPO", "incumbent": "Incumbent"}
"""Known models, in the order in which they are shown."""

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


_TASK_SHARES = ("acc", "acc_norm", "exact_match", "f1", "pass@1")
"""What the lm-evaluation-harness measures as a share of right answers."""


def wording(metric: str) -> MetricWording:
    """Return how a metric is shown."""
    family, _, of = metric.partition("/")
    if family == "judge_win_rate" and of:
        return MetricWording(f"Judged better than {model_label(of)}", True, share=True)
    if family == "harness" and of:
        is_share = of.rpartition("/")[2] in _TASK_SHARES
        return MetricWording(of, True if is_share else None, share=is_share, digits=1 if is_share else 4)
    return METRICS.get(metric, MetricWording(metric, digits=4))


def higher_is_better(metric: str) -> bool | None:
    """Return whether more of a metric is a success; None where neither direction is one by itself."""
    return wording(metric).higher_is_better


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
    words = wording(metric)
    return f"{100 * value if words.share else value:,.{words.digits}f}"


def quantity(metric: str, value: float) -> str:
    """Return a value as it is written in running text: ``95.3 %``, ``0.0412 nats/token``."""
    unit = unit_of(metric)
    return f"{number(metric, value)} {unit}" if unit else number(metric, value)


def unit_of(metric: str) -> str:
    """Return the unit that a metric is shown in, if it has one."""
    words = wording(metric)
    return "%" if words.share else words.unit


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
    by = f" by {within_sentence(wording(report.metric).label)}" if report.metric else ""
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
