"""What training and merging report."""

from typing import Literal

from llm_engineering.reports.folders import Artifact, StageName


class TrackerLink(Artifact):
    """Where the experiment tracker keeps one stage."""

    stage: str
    url: str | None = None
    offline_archive: str | None = None
    key: str | None = None
    """Comet's key of the experiment, the same online and in an archive."""
    failures: int = 0
    """Calls to the tracker that failed; training does not depend on them."""


class LossProof(Artifact):
    """The loss of a policy before its first update."""

    step0_loss: float
    """Loss of the untrained policy on the first batch."""
    expected_loss: float
    """What the configured formula gives, with its NLL part: for ``sigmoid`` alone ln 2, as at all zero log-ratios."""


class ReferenceProof(LossProof):
    """The frozen reference of DPO, before and after training; none is made where the loss has no reference."""

    max_logp_difference: float
    """Largest difference between policy and reference log-probability of one completion, in nats."""
    reference_sha256_before: str
    reference_sha256_after: str
    sft_sha256: str
    """Weights hash of the SFT model that DPO was given."""
    stored_logps: bool = False
    """The reference scored all pairs before training; else it runs on every batch."""
    max_stored_difference: float | None = None
    """Largest difference between a stored log-probability and a fresh one, in nats, over some of the pairs."""


VerdictName = Literal[
    "healthy",
    "plateau",
    "unstable",
    "overfitting",
    "exploding_gradients",
    "displaced",
    "collapsed",
    "trivial_pairs",
    "no_signal",
    "log_ratio_high",
    "kl_high",
]


class Verdict(Artifact):
    """What the training watch reads from the curves of one stage."""

    name: VerdictName
    evidence: str
    """What was measured, with numbers and steps."""
    remedy: str
    """What to change."""
    first_seen: int | None = None
    """The step from whose log on it could be seen; None for what is measured once training is over."""


class TrainingSample(Artifact):
    """Greedy answers to one held-out question while a stage trained."""

    step: int
    prompt: str
    """The question: the last message of its prompt."""
    policy: str
    reference: str | None = None
    """The frozen reference's answer, in DPO."""


class TrainingReport(Artifact):
    """What one training stage did."""

    stage: StageName
    steps: int
    planned_steps: int
    epochs: float
    seconds: float
    rows: int
    effective_batch: int
    """Rows per optimizer update."""
    tokens_per_second: float | None = None
    pairs_per_second: float | None = None
    trainable_parameters: int
    parameters: int
    history: list[dict[str, float]]
    """Everything that was logged, in order; every entry has ``step``."""
    metrics: dict[str, float]
    """The last value of every logged series."""
    best_step: int | None = None
    """The step whose weights were kept, where a metric chose them."""
    best_metric: str | None = None
    resumed_from: int | None = None
    """The checkpoint step that an interrupted training was taken up from."""
    stopped_early: bool = False
    verdicts: list[Verdict] = []
    """What the watch says at the end; empty where too little was logged to say anything."""
    stopped_by: Verdict | None = None
    """The verdict that ended the stage."""
    restarted_with_nll: float | None = None
    """The weight of the NLL term with which DPO was trained anew, because ``first_attempt`` was displaced."""
    first_attempt: "TrainingReport | None" = None
    reference: ReferenceProof | None = None
    first_loss: LossProof | None = None
    """Of DPO by a loss that is not TRL's and has no reference."""
    path: str = "TRL's own"
    """Which forward pass ran: ``fast``, or ``TRL's own`` and why."""
    notes: list[str] = []
    """What was done in another way than configured."""
    hardware: str
    processes: int = 1
    """How many processes trained together."""
    strategy: str | None = None
    """How they shared it: ``ddp``, ``fsdp``, ``deepspeed_zero2`` or ``deepspeed_zero3``; None: one process."""
    tracker: TrackerLink | None = None
    samples: list[TrainingSample] = []
    """Answers to the first held-out questions at every evaluation, in order."""

    @property
    def proof(self) -> LossProof | None:
        """What was proven before the first update."""
        return self.reference or self.first_loss

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return ``(step, value)`` of one logged series."""
        return [(int(entry["step"]), entry[name]) for entry in self.history if name in entry]


class MergeReport(Artifact):
    """Proof that the merged and the saved model are the adapted one."""

    stage: StageName
    max_logit_difference: float
    """Adapter on against merged, in fp32."""
    reload_logit_difference: float
    """Merged in memory against the saved folder loaded anew, in the dtype it was saved in."""
    tolerance: float
    greedy_tokens: int
    """Greedy tokens that were compared; all agree, or the merge is refused."""
    dtype: str
    parameters: int
