"""Every metric in one row: what measures it, which way is better, and how it is written.

A row is plain data; its function is named by an import path that :mod:`llm_engineering.scoring.measures` follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Final, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from llm_engineering.config.yaml.problems import nearest

Takes = Literal["answer", "judgement", "texts", "pair", "rewarded pair", "lengths", "row sums", "sample sums"]
"""What a metric's function is given: an answer; what a checker says of one; the texts of all answers; a preference pair
under a model, or under its parent too; a pair's lengths alone; sums over held-out rows, or over sampled answers."""
GROUPS = (
    "Greedy answers",
    "Sampled answers",
    "Length of answers",
    "Likelihood of held-out answers",
    "Preference on held-out pairs",
    "Distance from the parent",
    "Judge",
    "Tasks",
    "Other",
)
"""What metrics measure, in the order in which it is shown."""
SAMPLED = "sampled_"
"""Stands before the name of a metric of greedy answers where it is measured on sampled ones."""
SLICES = {
    "_like_length": "answers of like length",
    "_chosen_longer": "chosen longer",
    "_chosen_shorter": "chosen shorter",
}
"""Pairs that their answers' lengths tell apart: what stands behind the name of a metric that is measured on them."""


@dataclass(frozen=True)
class MetricRow:
    """One metric."""

    name: str
    label: str
    function: str = ""
    """``module:function``; what it is given follows from ``takes``."""
    better: Literal["higher", "lower"] | None = None
    """None: neither direction is a success by itself, so that it decides nothing."""
    unit: str = ""
    """``%``: a share between 0 and 1, shown in percent."""
    digits: int = 1
    group: str = "Other"
    """One of ``GROUPS``."""
    takes: Takes | None = None
    """None: it follows from another row, or a judge or the lm-evaluation-harness measures it."""
    is_rate: bool = False
    """Its outcomes are 0 or 1, so that its interval is Wilson's."""
    by_length: bool = False
    """It is measured on the ``SLICES`` of the pairs as well."""
    detail: bool = False
    """Left out where there is little room, as in the terminal."""

    @property
    def is_share(self) -> bool:
        """Whether it is shown in percent."""
        return self.unit == "%"


_ANSWERS: Final = "llm_engineering.scoring.answers"
_PAIRS: Final = "llm_engineering.scoring.pairs"
_SUMS: Final = "llm_engineering.scoring.sums"
_TEXTS: Final = "llm_engineering.scoring.texts"
_judgement = partial(MetricRow, group="Greedy answers", takes="judgement")
_likelihood = partial(MetricRow, group="Likelihood of held-out answers", takes="row sums", better="lower")
_pair = partial(MetricRow, group="Preference on held-out pairs", takes="rewarded pair")
_accuracy = partial(_pair, better="higher", unit="%", is_rate=True, by_length=True)
_lengths = partial(_pair, unit="%", takes="lengths")
_distance = partial(MetricRow, group="Distance from the parent", takes="sample sums")
_answer = partial(MetricRow, group="Greedy answers", takes="answer")
_texts = partial(_answer, unit="%", takes="texts", detail=True)
_length = partial(_answer, group="Length of answers")

_BLOCKS = (
    (
        _judgement("answer_accuracy", "Right answers", f"{_ANSWERS}:right", "higher", "%", is_rate=True),
        _judgement("preferred_rate", "Preferred answers", f"{_ANSWERS}:preferred", "higher", "%", is_rate=True),
        _judgement("answer_score", "Answer score", f"{_ANSWERS}:score", "higher", digits=3),
        _judgement("flaws_per_answer", "Flaws per answer", f"{_ANSWERS}:flaws", "lower", digits=2),
    ),
    (
        _likelihood("perplexity", "Perplexity", f"{_SUMS}:perplexity", digits=2),
        _likelihood("held_out_loss", "Held-out loss", f"{_SUMS}:held_out_loss", unit="nats/token", digits=3),
        _accuracy("ranking_accuracy", "Chosen ranked first", f"{_PAIRS}:ranked_right", takes="pair"),
        _accuracy("preference_accuracy", "Chosen rewarded more", f"{_PAIRS}:rewarded_right"),
        _lengths("longer_wins", "Longer answer taken, for comparison", f"{_PAIRS}:longer_wins"),
        _lengths("chosen_longer", "Chosen answer is the longer one", f"{_PAIRS}:longer", is_rate=True, detail=True),
        _pair("preference_margin", "Preference margin", f"{_PAIRS}:margin", "higher", digits=3),
        _pair("chosen_reward", "Reward of chosen answers", f"{_PAIRS}:chosen_reward", digits=3, detail=True),
        _pair("rejected_reward", "Reward of rejected answers", f"{_PAIRS}:rejected_reward", digits=3, detail=True),
        MetricRow("judge_score", "Judge's score", better="higher", digits=2, group="Judge"),
        _distance("kl_per_token", "KL from reference", f"{_SUMS}:kl_per_token", unit="nats/token", digits=4),
        _distance(
            "kl_per_answer", "KL from reference, whole answers", f"{_SUMS}:kl_per_answer", unit="nats/answer", digits=2
        ),
    ),
    (
        _answer("repetition", "Repetition", f"{_TEXTS}:repetition", "lower", "%"),
        _answer("looping", "Answers that end in a loop", f"{_TEXTS}:loops", "lower", "%", is_rate=True),
        _answer("unfinished", "Unfinished answers", f"{_TEXTS}:unfinished", "lower", "%", is_rate=True),
        _answer("refusals", "Refusals", f"{_TEXTS}:refuses", "lower", "%", is_rate=True),
        _answer("compression_ratio", "Compression ratio", f"{_TEXTS}:compression_ratio", digits=2, detail=True),
        _texts("distinct_1", "Different words", f"{_TEXTS}:distinct_words"),
        _texts("distinct_2", "Different word pairs", f"{_TEXTS}:distinct_word_pairs"),
        _length("answer_tokens", "Answer length", f"{_TEXTS}:token_count", unit="tokens"),
        _length("answer_words", "Answer length in words", f"{_TEXTS}:word_count", unit="words", detail=True),
    ),
)
"""What a checker says; what log-probabilities say; what answers are like, whatever they say."""
_JUDGED_WHEN_SAMPLED = ("answer_accuracy", "preferred_rate", "flaws_per_answer", "unfinished")
"""Of sampled answers these alone are no detail."""


def with_variants(rows: Sequence[MetricRow]) -> Iterator[MetricRow]:
    """Yield each row with those of its slices behind it, and then all that are measured on sampled answers too."""
    for row in rows:
        yield row
        if row.by_length:
            yield from (_slice(row, behind) for behind in SLICES)
    yield from (_of_samples(row) for row in rows if row.takes in ("answer", "judgement", "texts"))


def _slice(row: MetricRow, behind: str) -> MetricRow:
    label = f"{row.label}, {SLICES[behind]}"
    return replace(
        row, name=row.name + behind, label=label, takes=None, by_length=False, detail=behind != "_like_length"
    )


def _of_samples(row: MetricRow) -> MetricRow:
    detail = row.name not in _JUDGED_WHEN_SAMPLED
    label = f"{row.label}, sampled"
    return replace(row, name=SAMPLED + row.name, label=label, group="Sampled answers", takes=None, detail=detail)


METRICS: dict[str, MetricRow] = {row.name: row for block in _BLOCKS for row in with_variants(block)}
"""All metrics whose names are known beforehand, in the order in which they are shown."""
MODELS = {"base": "Base", "sft": "SFT", "dpo": "DPO", "incumbent": "Incumbent"}
"""Known models and what they are called, in the order in which they are shown."""
WIN_RATE: Final = "judge_win_rate/"
"""Stands before the name of the model that a judge compares with."""
TASK: Final = "harness/"
"""Stands before ``TASK/METRIC`` and, behind a comma, the filter that answers went through."""
_WIN_RATE = MetricRow(WIN_RATE, "Judged better than", better="higher", unit="%", group="Judge")
_TASK = MetricRow(TASK, "", group="Tasks", digits=4)
_OF_TASKS = {
    **dict.fromkeys(
        ("acc", "acc_norm", "exact_match", "f1", "pass@1"), replace(_TASK, better="higher", unit="%", digits=1)
    ),
    **dict.fromkeys(("acc_mutual_info", "bleu", "chrf", "mcc"), replace(_TASK, better="higher")),
    **dict.fromkeys(
        ("bits_per_byte", "brier_score", "byte_perplexity", "perplexity", "ter", "word_perplexity"),
        replace(_TASK, better="lower"),
    ),
}
"""Metrics of the lm-evaluation-harness whose direction is known."""


def row_of(metric: str) -> MetricRow:
    """Return the row of any metric; one that nobody knows goes by its own name, and neither way is better."""
    if metric in METRICS:
        return METRICS[metric]
    of = metric.partition("/")[2]
    if of and metric.startswith(WIN_RATE):
        return replace(_WIN_RATE, name=metric, label=f"{_WIN_RATE.label} {MODELS.get(of, of)}")
    if of and metric.startswith(TASK):
        measured = of.rpartition("/")[2].partition(",")[0]
        return replace(_OF_TASKS.get(measured, _TASK), name=metric, label=of)
    return MetricRow(metric, metric, digits=4)


def higher_is_better(metric: str) -> bool | None:
    """Return whether more of a metric is a success; None where neither direction is one by itself."""
    better = row_of(metric).better
    return None if better is None else better == "higher"


def _with_a_direction(metric: str) -> str:
    row = row_of(metric)
    if row.better is not None:
        return metric
    says = "more of {metric} is neither better nor worse, so that it decides nothing; name another metric"
    if row.group == "Other":
        meant = nearest(metric, [name for name, known in METRICS.items() if known.better])
        says = f"there is no metric {{metric}}; {f'did you mean {meant}?' if meant else 'docs/evaluation.md lists all'}"
    raise PydanticCustomError("metric", says, {"metric": metric})


DecidingMetric = Annotated[str, AfterValidator(_with_a_direction)]
"""The name of a metric that has a better and a worse."""
