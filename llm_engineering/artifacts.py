"""What a run hands from step to step and reports at its end: plain pydantic data, free of torch.

Folders (:class:`Checkpoint`, :class:`RowSet`) are handed on by path and content hash; reports are values.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

StageName = Literal["sft", "dpo"]
Split = Literal["train", "eval", "test"]
RowKind = Literal["sft", "preference"]
DropReason = Literal[
    "unparsable",
    "not text",
    "bad role order",
    "empty prompt",
    "empty answer",
    "filtered by rule",
    "identical pair",
    "contradictory pair",
    "exact duplicate",
    "near-duplicate",
    "leaked into evaluation",
    "over the mix",
    "special token in text",
    "not renderable",
    "too long",
]
"""Why a row is dropped, in the order in which it is looked for."""
ASKED_FOR: tuple[DropReason, ...] = ("filtered by rule", "over the mix")
"""Rows that the configuration leaves out; they say nothing about the data."""


def hash_files(folder: Path, leave_out: str | None = None) -> str:
    """Return the sha256 over the relative names and contents of all files below a folder, one name left out."""
    contents = {}
    for path in (p for p in folder.rglob("*") if p.is_file() and p.name != leave_out):
        with path.open("rb") as file:
            contents[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hash_contents(contents)


def hash_contents(contents: Mapping[str, str]) -> str:
    """Return what :func:`hash_files` returns of a folder with files of these relative names and sha256 hashes."""
    digest = hashlib.sha256()
    for name in sorted(contents, key=PurePosixPath):
        digest.update(name.encode() + b"\0")
        digest.update(bytes.fromhex(contents[name]))
    return digest.hexdigest()


class Artifact(BaseModel):
    """The base of everything here: strict, and unchanged once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Folder(Artifact):
    """A folder that is stored as it is."""

    path: Annotated[Path, PlainSerializer(str)]
    """Where the folder lies now; text wherever it is stored, as cache keys see it."""
    sha256: str
    """Hash over the names and contents of its files."""


class FromPackage(Artifact):
    """The folder comes with this package, wherever that is installed."""

    type: Literal["package"]


class FromHub(Artifact):
    """The folder is a repository of the Hugging Face hub."""

    type: Literal["hub"]
    repository: str
    """``OWNER/NAME``."""
    revision: str
    """The commit, so that the content is settled though nobody has read it yet."""


class FromStore(Artifact):
    """The folder lies in an artifact store that is no file system of this machine."""

    type: Literal["store"]
    address: str
    """Where the store keeps it, such as ``s3://bucket/...``."""
    version: str | None = None
    """The id of the artifact's version, where it is known."""


Fetch = Annotated[FromPackage | FromHub | FromStore, Field(discriminator="type")]


class Checkpoint(Folder):
    """A model folder: an adapter, or a full model with tokenizer, chat template and generation configuration."""

    kind: Literal["adapter", "model"]
    weights_sha256: str
    """Hash over names and values of the tensors alone: equal weights, equal hash."""
    base: str
    """The name of the model that training started from."""
    base_sha256: str
    """Weights hash of the model that an adapter belongs to, or that a merged model was made from."""
    fetch: Fetch | None = None
    """From where whoever wants the folder gets it; None: it lies at ``path``.

    While it is set, ``path`` has no weights, and hashes may be empty that nobody knows before they are fetched.
    """


class RowSet(Folder):
    """Rows as Arrow folders, one sub-folder a split."""

    rows: dict[str, int]
    """Rows per split."""


class MeasuredModels(Artifact):
    """Models that were named to be measured together."""

    checkpoints: dict[str, Checkpoint]
    parents: dict[str, str]
    """What a model was trained from, by name, where that is known."""


class ReferenceKey(Artifact):
    """What log-probabilities of a reference depend on."""

    weights_sha256: str
    """The reference's weights: the SFT model's."""
    rows_sha256: str
    """Content hash of the preference rows: their token ids, as they were cut."""
    dtype: str
    """Precision of the weights as they are loaded."""
    ld_alpha: float | None = None
    """Weight of an answer's tokens beyond the length of the other answer (LD-DPO); None: every token counts alike."""


class ReferenceLogProbs(RowSet):
    """The reference's log-probability of every chosen and rejected answer, in the order of the preference rows.

    ``rows`` is empty where the rows are seen too rarely for storing them to pay.
    """

    key: ReferenceKey


class SourceLedger(Artifact):
    """What became of every row of one source: each row has exactly one fate."""

    kind: RowKind
    source: str
    format: str
    rows: int
    """Rows that were read."""
    train: int = 0
    eval: int = 0
    test: int = 0
    dropped: dict[DropReason, int] = {}
    found: dict[DropReason, int] = {}
    """Rows that a rule found and the configuration keeps; they are counted in train, eval or test as well."""
    first_problem: dict[DropReason, str] = {}
    """What was wrong with the first row of a reason, and where it stands."""
    examples: int = 0
    """Conversations or pairs that the kept rows gave; a row of ranked answers gives several."""
    truncated: int = 0
    """Rows that lost tokens; they are counted in train, eval or test as well."""
    tokens_lost: int = 0
    """Tokens that truncation removed."""
    trained_tokens_lost: int = 0
    """Of those, tokens that would have carried loss."""
    answers_cut: int = 0
    """Answers that lost their end, EOS included."""
    repeated_prompts: int = 0
    """Kept examples whose prompt an earlier one had, with another answer."""
    asked: str | None = None
    """What the mix asks of the source, such as ``weight 2`` or ``count 500``."""
    share: float | None = None
    """The source's share of the training examples of its kind, as obtained."""

    @property
    def faulty(self) -> int:
        """Rows that were dropped for what they are, not because the configuration leaves them out."""
        return sum(rows for reason, rows in self.dropped.items() if reason not in ASKED_FOR)

    @model_validator(mode="after")
    def _reconcile(self) -> Self:
        fates = self.train + self.eval + self.test + sum(self.dropped.values())
        assert fates == self.rows, f"{self.source}: {self.rows} rows read, {fates} accounted for"
        return self


class RowChange(Artifact):
    """How the rows of one source differ between two runs, by their content."""

    source: str
    before: int
    """Rows in the first run."""
    after: int
    added: int
    """Rows of the second run that the first has not; a row that stands twice counts twice."""
    removed: int


class Token(Artifact):
    """One token as a reader sees it; private data in it is masked."""

    text: str
    trained: bool = False
    """It carries loss."""
    special: bool = False


class RenderedPart(Artifact):
    """A stretch of a training row: a conversation, or the prompt, the chosen or the rejected answer of a pair."""

    name: Literal["conversation", "prompt", "chosen", "rejected"]
    tokens: list[Token]
    cut_at: int | None = None
    """Before which of the tokens others were cut out; the number of tokens where the end was."""
    tokens_lost: int = 0


class RenderedRow(Artifact):
    """One training row as the trainer gets it."""

    kind: RowKind
    source: str
    row: int
    """Its number in the source, from 1."""
    split: Split
    parts: list[RenderedPart]


class Histogram(Artifact):
    """How many values fall between successive edges, the last edge included."""

    edges: list[float]
    counts: list[int]


class Overlap(Artifact):
    """Prompts that two sets of examples have in common, before leaks were removed."""

    first: str
    """Kind and split, such as ``sft/train``."""
    second: str
    exact: int
    """Distinct prompts of the first that stand in the second, whatever their case and spacing."""
    near: int
    """Further prompts of the first that nearly stand in the second."""


class TextAudit(Artifact):
    """What the texts of one kind of examples are like, as they were read and before any was dropped."""

    examples: int
    prompts: int
    """Distinct prompts."""
    near_prompts: int
    """Of those, prompts that are nearly an earlier one."""
    duplicate_answers: int
    """Examples whose (chosen) answer an earlier one has, to whatever prompt."""
    short_answers: int
    """Answers of fewer than three words."""
    non_printing: int
    """Examples with control or invisible characters."""
    private: dict[Literal["e-mail", "phone", "key"], int]
    """Examples with something like an e-mail address, a telephone number or a secret key."""
    languages: dict[str, int]
    """ISO 639-1 codes and how many of ``language_sample`` examples seem to be in them, the most frequent first."""
    language_sample: int


class PreferenceAudit(Artifact):
    """What a preference set rewards, over its readable pairs."""

    pairs: int
    identical: int
    """Chosen equals rejected."""
    contradictory: int
    """The same two answers were preferred the other way round before."""
    chosen_longer: float
    """Share of the pairs with different answers whose chosen one has more characters."""
    longer_wins: float
    """Accuracy of preferring the longer answer on these pairs; answers of equal length count half."""
    overlap: float
    """Mean share of words that both answers have, of those that either has (Jaccard), on these pairs."""


class DataAudit(Artifact):
    """What was found in the rows."""

    similarity: float
    """From which Jaccard similarity of three-word shingles on texts are near-duplicates."""
    texts: dict[RowKind, TextAudit]
    preference: PreferenceAudit | None = None
    overlaps: list[Overlap] = []


class DatasetReport(Artifact):
    """The row ledger, and how rows became tokens."""

    sources: list[SourceLedger]
    template: str
    """Which chat template rendered the rows, and why that one."""
    eos_token: str
    tokens: dict[str, int]
    """Tokens per kind and split, such as ``sft/train``."""
    trained_tokens: dict[str, int]
    """Tokens that carry loss, likewise."""
    longest: dict[str, int]
    """Tokens of the longest row, likewise; of a pair with the longer answer, as ``data.max_length`` counts."""
    lengths: dict[str, Histogram] = {}
    """Tokens a row, counted so."""
    turns: Histogram | None = None
    """Answers a conversation, over the SFT rows that are kept."""
    fingerprints: dict[str, str]
    """Content hash of the prepared rows of each kind."""
    mask_proof: str
    """What was checked on every row: trained tokens, EOS, BOS, prompt as served."""
    split_proof: str
    """What was checked across the splits."""
    audit: DataAudit | None = None
    """None where ``data.audit`` is off."""
    examples: list[RenderedRow]
    notes: list[str] = []
    """Sentences that a reader should know: what was kept, cut or replaced, by which rule."""

    def ledger(self, kind: RowKind) -> list[SourceLedger]:
        """Return the ledgers of one kind of rows."""
        return [source for source in self.sources if source.kind == kind]


class PreferenceReport(Artifact):
    """How preference pairs were sampled from the run's own SFT model."""

    checker: str
    prompts: int
    samples: int
    """Answers that were sampled."""
    pairs: dict[str, int]
    """Pairs per split."""
    without_pair: int
    """Prompts whose samples gave no contrast: all scored alike, or all unfinished."""
    unfinished: int
    """Samples that did not end with EOS; they are never chosen."""
    chosen_correct: float
    """Share of chosen answers that the checker calls correct."""
    rejected_correct: float
    seconds: float


class TrackerLink(Artifact):
    """Where the experiment tracker keeps one stage."""

    stage: str
    url: str | None = None
    offline_archive: str | None = None
    key: str | None = None
    """Comet's key of the experiment, the same online and in an archive."""
    failures: int = 0
    """Calls to the tracker that failed; training does not depend on them."""


class ReferenceProof(Artifact):
    """The frozen reference of DPO, before and after training; none is made where the loss has no reference."""

    step0_loss: float
    """Loss of the untrained policy on the first batch."""
    expected_loss: float
    """The configured loss at zero log-ratios, plus its NLL part (ln 2 for ``sigmoid`` alone)."""
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
    """Models that were made in different ways from one base and measured alike: the regimes, or the runs of a sweep."""

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
