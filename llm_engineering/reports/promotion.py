"""What deciding and exporting report."""

from typing import Literal

from pydantic import Field

from llm_engineering.reports.evaluation import PairedDifference
from llm_engineering.reports.folders import Artifact

CheckVerdict = Literal["no worse", "worse", "undecided"]


class PromotionCheck(Artifact):
    """One comparison that decided."""

    candidate: str
    against: str
    metric: str
    candidate_value: float
    against_value: float
    tolerance: float
    passed: bool
    verdict: CheckVerdict | None = None
    """What the evidence says at the 95 % level; None in decisions that were stored before this was asked."""
    paired: PairedDifference | None = None
    """The difference on the same units, its interval and its p-value; None where only values are compared."""
    note: str = ""
    """Why an undecided check passed or failed, or what else decided it."""


class Force(Artifact):
    """Somebody promoted a version whatever the gate says."""

    user: str
    """The name of the account on the machine where the command ran."""
    reason: str


class PromotionDecision(Artifact):
    """Which model of the run is promoted, if any, and why."""

    promoted: Literal["dpo", "sft"] | None
    stage: str
    reason: str
    checks: list[PromotionCheck] = Field(default_factory=list)
    incumbent: str | None = None
    """The version that held the stage before."""
    version: str | None = None
    """The ZenML model version of this run."""
    chosen: Literal["dpo", "sft"] | None = None
    """What the gate lets pass and no stage was given to, since a person has to approve it first."""
    notes: list[str] = []
    """What a reader should know of the comparison: metrics that one side lacks, an incumbent that is measured anew."""
    forced: Force | None = None
    approved: bool | None = None
    """The answer of the person who was asked; None where nobody was, or nobody answered."""


class ExportParity(Artifact):
    """How an exported model compares with the merged one, on the merged model's greedy answers to held-out questions.

    Both models are given the same tokens, and compared at every position of the answers.
    """

    prompts: int
    positions: int
    agreement: float
    """Share of the positions at which both find the same token likeliest."""
    kl_per_token: float
    """Mean KL divergence of the exported model from the merged one, in nats."""
    max_logit_difference: float
    mean_logit_difference: float
    least_agreement: float
    """The configured threshold."""
    most_kl: float
    """The configured threshold."""

    @property
    def passed(self) -> bool:
        """Whether the export is enough like the merged model; NaN never is."""
        return self.agreement >= self.least_agreement and self.kl_per_token <= self.most_kl


class Export(Artifact):
    """The promoted model in one format."""

    format: str
    path: str | None = None
    """The folder it was written to."""
    repository: str | None = None
    """The repository on the hub it was pushed to."""
    megabytes: float | None = None
    """Size of its weights."""
    parity: ExportParity | None = None
    """None where it could not be made, or is the merged model file by file."""
    problem: str | None = None
    """Why it is not, or not everywhere, where it was asked for."""


class ExportReport(Artifact):
    """Where the promoted model went."""

    exports: list[Export] = []
