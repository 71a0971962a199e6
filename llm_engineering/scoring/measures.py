"""Measures what the table of metrics (`llm_engineering/config/metrics.py`) has a row of.

Outcomes are per-unit values; their mean is the metric. Values of one unit (one prompt, mostly) are dependent, so that
they are averaged first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from statistics import fmean
from typing import Any, Literal

from llm_engineering.config.metrics import METRICS, SAMPLED, SLICES, MetricRow, Takes, row_of
from llm_engineering.reports.evaluation import Metric
from llm_engineering.scoring import answers, pairs, sums, texts
from llm_engineering.scoring.answers import JudgedAnswers
from llm_engineering.scoring.intervals import by_unit, mean, rate
from llm_engineering.scoring.pairs import Lengths, ScoredPair, in_slice

Outcomes = dict[str, list[float]]
_MODULES = {module.__name__: module for module in (answers, pairs, sums, texts)}
"""Those of the rows: a step that measures depends on them, as cache keys follow imports and no paths in strings."""


def function_of(row: MetricRow) -> Callable[..., Any]:
    """Return what measures a metric."""
    module, _, name = row.function.partition(":")
    function: Callable[..., Any] = getattr(_MODULES.get(module) or import_module(module), name)
    return function


def _taking(takes: Takes) -> Iterator[tuple[MetricRow, Callable[..., Any]]]:
    """Yield the metrics whose functions take one kind of thing."""
    yield from ((row, function_of(row)) for row in METRICS.values() if row.takes == takes)


def summarise(outcomes: Mapping[str, Sequence[float]]) -> dict[str, Metric]:
    """Return every outcome as a metric with its interval over the units."""
    return {name: rate(values) if row_of(name).is_rate else mean(values) for name, values in outcomes.items()}


def answer_outcomes(judged: JudgedAnswers) -> Outcomes:
    """Return what is measured of each answer, and of each judgement where a checker judged."""
    units = [question.unit for question in judged.questions]
    seen: list[tuple[Takes, Sequence[object] | None]] = [("answer", judged.answers), ("judgement", judged.judgements)]
    return {
        row.name: by_unit([float(function(each)) for each in values], units)
        for takes, values in seen
        if values is not None
        for row, function in _taking(takes)
    }


def mean_of_rounds(rounds: Sequence[JudgedAnswers]) -> Outcomes:
    """Return the outcomes of several rounds of sampled answers, averaged for every unit, named ``sampled_...``."""
    outcomes = [answer_outcomes(judged) for judged in rounds]
    names = outcomes[0] if outcomes else {}
    return {
        SAMPLED + name: [fmean(each) for each in zip(*(one[name] for one in outcomes), strict=True)] for name in names
    }


def variety(rounds: Sequence[JudgedAnswers]) -> dict[str, Metric]:
    """Return what is measured of all answers of a model taken together: one number, so that it has no interval."""
    texts = [answer.text for judged in rounds for answer in judged.answers]
    units = len({question.unit for judged in rounds for question in judged.questions})
    found = {row.name: function(texts) for row, function in _taking("texts")}
    return {name: Metric(value=value, units=units) for name, value in found.items() if value is not None}


def pair_outcomes(
    takes: Literal["pair", "rewarded pair"], pairs: Sequence[ScoredPair], units: Sequence[str]
) -> Outcomes:
    """Return what is measured of each pair; on the slices of pairs too, as far as there are such pairs."""
    found: Outcomes = {}
    for row, function in _taking(takes):
        values = [function(pair) for pair in pairs]
        for behind in ("", *SLICES) if row.by_length else ("",):
            kept = [not behind or in_slice(behind, pair.lengths) for pair in pairs]
            if any(kept):
                own, of = ([each for each, keep in zip(all_, kept, strict=True) if keep] for all_ in (values, units))
                found[row.name + behind] = by_unit(own, of)
    return found


def length_baselines(lengths: Lengths, units: Sequence[str]) -> dict[str, Metric]:
    """Return what the lengths of the answers alone say: nothing of a model, but what its accuracies are held to."""
    return summarise(
        {row.name: by_unit([function(pair) for pair in lengths], units) for row, function in _taking("lengths")}
    )


def sum_metrics(
    takes: Literal["row sums", "sample sums"], nats: Sequence[float], tokens: Sequence[int], units: Sequence[str]
) -> tuple[dict[str, Metric], Outcomes]:
    """Return what is measured of sums of nats, and the outcomes that there are; nothing where there is no token.

    Args:
        takes: Which metrics: of held-out rows, or of answers that were sampled.
        nats: Of every row.
        tokens: Of every row.
        units: What each row belongs to.
    """
    if not sum(tokens):
        return {}, {}
    of_units = sums.unit_sums(nats, tokens, units)
    found = {row.name: function(of_units) for row, function in _taking(takes)}
    return (
        {name: metric for name, (metric, _) in found.items()},
        {name: outcomes for name, (_, outcomes) in found.items() if outcomes},
    )
