"""What preparing rows reports."""

from typing import Literal, Self

from pydantic import model_validator

from llm_engineering.reports.folders import Artifact, RowKind, Split

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
