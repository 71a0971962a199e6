"""What measuring reports."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.reports.folders import Artifact
from llm_engineering.reports.training import MergeReport, TrackerLink, TrainingReport


class Judgement(Artifact):
    """What a checker says about one answer."""

    correct: bool
    """The answer is right."""
    preferred: bool
    """It is right, and nothing is wrong with it."""
    score: Annotated[float, Field(allow_inf_nan=False)]
    """Orders the answers to one prompt; higher is better."""
    flaws: int = 0
    """Things in the answer that should not be there."""


class Metric(Artifact):
    """One measured number and how sure it is."""

    value: float
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, where one is defined."""
    units: int
    """Independent units that it was measured on (facts or prompts, not phrasings)."""


class ModelScores(Artifact):
    """All metrics of one model."""

    checkpoint_sha256: str
    metrics: dict[str, Metric]
    outcomes: dict[str, list[float]] = {}
    """Per-unit values of a metric, whose mean the metric is; units stand in the same order for all models of a report,
    so that two models compare pair by pair."""
    parent: str | None = None
    """The model of the report that it was trained from."""


class PairedDifference(Artifact):
    """By how much one model's metric differs from another's, on the same units."""

    candidate: str
    against: str
    metric: str
    difference: float
    """The candidate's value less the other's."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval of the difference; None for a single unit."""
    p_value: float | None = None
    """Of no difference, two-sided: exact McNemar test for 0/1 outcomes, else a sign-flip permutation test."""
    units: int


class SampleAnswers(Artifact):
    """Greedy answers of all models to one prompt."""

    prompt: str
    reference: str | None
    answers: dict[str, str]


class GreedyAnswers(Artifact):
    """Greedy answers of all models to one held-out question, whole."""

    unit: str
    """What the question belongs to: phrasings of one fact are one unit."""
    prompt: str
    """The prompt's messages as JSON."""
    reference: str
    """The row's own answer; empty where there is none."""
    answers: dict[str, str]


VerdictProblem = Literal["unparsable", "empty", "refused", "cut off", "failed"]
"""Why a request to the judge gave no verdict; ``failed``: the server gave no reply at all."""


class JudgeVerdict(Artifact):
    """What the judge said to one request; one row of the verdicts' file."""

    mode: Literal["pairwise", "rubric"]
    model: str
    against: str | None = None
    """The other model of a pairwise comparison."""
    shown_first: bool = True
    """The model's answer was answer A."""
    unit: str
    question: str
    """The last message of the prompt."""
    answer: str
    other_answer: str | None = None
    winner: Literal["model", "against", "tie"] | None = None
    score: int | None = None
    asked: bool = True
    """False where both answers are the same, which is a tie without asking."""
    problem: VerdictProblem | None = None
    reply: str = ""
    """All that the judge wrote."""


class JudgeCount(Artifact):
    """What became of the questions of one comparison, or of one model's answers under the rubric."""

    mode: Literal["pairwise", "rubric"]
    model: str
    against: str | None = None
    questions: int
    judged: int
    """Questions with a verdict that counts; in a comparison, with one in both orders."""
    invalid: int
    """Questions without a verdict, because the judge's reply was none; they are averaged into nothing."""
    failed: int
    """Questions without a verdict, because the server gave no reply."""
    wins: int = 0
    """Both orders agree that the model's answer is better."""
    losses: int = 0
    ties: int = 0
    """The judge sees a tie, the orders disagree, or the answers are the same."""
    identical: int = 0
    """Of the ties, answers that are the same."""
    disagreements: int = 0
    """Of the ties, questions whose two orders got different verdicts."""
    prefers_first: int = 0
    """Of the disagreements, answer A was better in both orders: a bias of position."""
    prefers_second: int = 0


class JudgeReport(Artifact):
    """What a language model says of the answers, and how far it can be trusted."""

    judge: str
    """The judge's name at the endpoint."""
    endpoint: str
    """The endpoint's address."""
    settings_sha256: str
    """Hash of all that shapes a verdict: judges with equal hashes compare."""
    questions: int
    counts: list[JudgeCount]
    metrics: dict[str, dict[str, Metric]] = {}
    """Per model: ``judge_score``, and ``judge_win_rate/NAME`` against that model."""
    outcomes: dict[str, dict[str, list[float]]] = {}
    """Per model, on the units that all models with this metric have a verdict for."""
    disagreement: float | None = None
    """Share of the comparisons judged in both orders whose orders disagree."""
    requests: int = 0
    """Requests that got a reply, those of an interrupted run included."""
    input_tokens: int = 0
    """Tokens read, as the server reports them."""
    output_tokens: int = 0
    unreported: int = 0
    """Replies whose server said nothing of tokens."""
    cost: float | None = None
    """In the currency of the configured prices."""
    failures: dict[str, int] = {}
    """What the server did instead of replying, and how often."""
    error: str | None = None
    """Why the judge was given up, in one sentence."""
    notes: list[str] = []
    """Sentences that a reader should know."""
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every request got a reply."""
        return self.error is None and not self.failures


class HarnessReport(Artifact):
    """Results of the lm-evaluation-harness."""

    settings_sha256: str
    """Hash of all that shapes a result: reports with equal hashes compare."""
    version: str
    """The harness's."""
    metrics: dict[str, dict[str, Metric]]
    """Per model: ``harness/TASK/METRIC``."""
    outcomes: dict[str, dict[str, list[float]]] = {}
    """Per model and document, for metrics that are their mean."""
    notes: list[str] = []
    seconds: float


class EvaluationReport(Artifact):
    """How the models of a run compare."""

    fingerprint: str
    """Hash of the questions, the held-out rows and the settings: reports with equal fingerprints compare."""
    split: str
    questions: int
    pairs: int
    models: dict[str, ModelScores]
    samples: list[SampleAnswers]
    changes: dict[str, dict[str, int]] = {}
    """How many held-out pairs and answers a model learned, unlearned, ... since its parent, by outcome."""
    answers: list[GreedyAnswers] = []
    """To all held-out questions; what a judge is shown."""
    judge: JudgeReport | None = None
    """None where no judge is configured."""
    notes: list[str] = []
    seconds: float
    tracker: TrackerLink | None = None


class Variant(Artifact):
    """One model of a comparison or a sweep, and how it was made."""

    name: str
    """Unique in its report; the model's name in the evaluation: ``base``, ``sft_dpo``, ``dpo.beta=0.1`` ..."""
    title: str
    """The same in words: ``SFT → DPO + NLL``."""
    changes: dict[str, str | float | int | bool | None] = {}
    """Keys of the configuration in which it differs, and their values there."""
    trainings: list[TrainingReport] = []
    """In the order in which they ran; those it shares with others, too."""
    merges: list[MergeReport] = []
    model_sha256: str | None = None
    """Weights hash of its model; None where it failed."""
    error: str | None = None
    """What failed, in one sentence, and in which piece."""


class ComparisonReport(Artifact):
    """Models that were made in different ways from one base and measured alike: the recipes, or the runs of a sweep."""

    kind: Literal["comparison", "sweep"]
    variants: list[Variant]
    """In the order in which they are shown; the failed ones, too."""
    evaluation: EvaluationReport | None = None
    """All variants that were made, by name; None where none was."""
    differences: list[PairedDifference] = []
    """The paired tests that the report shows."""
    metric: str | None = None
    """What the variants are ranked by."""
    best: str | None = None
    """The best variant by it."""
    notes: list[str] = []
    """Sentences that a reader should know."""
    seconds: float
