"""Where rows come from, and the rules by which they are dropped."""

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt, Share


class Source(Block):
    """What all sources of rows have in common."""

    format: str = "auto"
    """``auto`` or the name of a format; see docs/data.md."""
    columns: dict[str, str] = {}
    """Own column names for the format's: ``{instruction: question}`` reads ``question`` as the instruction."""
    first: PositiveInt | None = None
    """Only the first so many rows."""
    split: Literal["train", "eval", "test"] | None = None
    """All rows go to this split; else rows are drawn, unless a column ``split`` places them."""
    count: PositiveInt | None = None
    """So many training examples of the source, drawn by the seed."""
    weight: PositiveFloat | None = None
    """The source's part of the training examples, relative to the weights of the other sources of its kind."""
    truncate: Literal["keep_end", "keep_start"] = "keep_end"
    """Which end of a prompt stays when it is cut: the end suits dialogue, the start suits instructions."""
    min_score_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Pairs of scored answers whose better score is less than so many times the other are left out."""
    max_pairs_per_prompt: PositiveInt | None = None
    """Only the first so many pairs of a prompt."""

    @model_validator(mode="after")
    def _check_mix(self) -> "Source":
        if self.count and self.weight:
            raise ValueError("a source takes count or weight, not both")
        return self


class FileSource(Source):
    """Rows of files: json, jsonl, csv, tsv, parquet or arrow, each as it is or packed with gz or zst."""

    path: str
    """A file, a folder, a pattern such as ``rows/*.jsonl``, or an address such as ``s3://bucket/rows.jsonl``.

    Relative paths start at the configuration file's folder.
    """

    @property
    def name(self) -> str:
        """What ledgers and messages call this source."""
        return PurePath(self.path).name


class HubSource(Source):
    """Rows of a Hugging Face data set."""

    hub: str
    """``org/name``."""
    subset: str | None = None
    """The data set's configuration."""
    hub_split: str = "train"
    """The data set's split that is read."""
    revision: str | None = None
    """Commit, tag or branch."""

    @property
    def name(self) -> str:
        """What ledgers and messages call this source."""
        return f"{self.hub}:{self.hub_split}"


class ArtifactSource(Source):
    """Rows that a ZenML pipeline stored: a list of objects, a data frame, or a folder of files."""

    artifact: str
    """The artifact's name."""
    version: str | None = None
    """The artifact's version; none: the newest."""

    @property
    def name(self) -> str:
        """What ledgers and messages call this source."""
        return f"{self.artifact}:{self.version or 'latest'}"


class EmbeddedSource(Source):
    """The domain that is bundled with the embedded model."""

    embedded: Literal[True]

    @property
    def name(self) -> str:
        """What ledgers and messages call this source."""
        return "embedded"


class SampleSettings(Block):
    """How preference pairs are sampled from the run's own SFT model."""

    checker: str
    """``exact``, ``numeric``, ``regex``, ``json_schema`` or ``package.module:function``: judges an answer."""
    num_samples: Annotated[int, Field(ge=2)] = 4
    """Answers per training prompt."""
    pairing: Literal["best_worst", "disjoint"] = "best_worst"
    """One pair a prompt from the extremes, or one from every two samples."""
    temperature: PositiveFloat = 1.0
    """1 samples from the model's own distribution; lower is closer to greedy."""
    max_new_tokens: PositiveInt = 72
    """Longest sampled answer; one that is not finished by then takes no part."""
    batch_size: PositiveInt = 192
    """Answers generated at once."""
    max_prompts: PositiveInt | None = None
    """Only so many prompts of every split, drawn by the seed."""

    def most_pairs(self, prompts: int) -> int:
        """Return how many pairs so many prompts give at most; a prompt whose answers score alike gives none."""
        each = self.num_samples // 2 if self.pairing == "disjoint" else 1
        return each * min(prompts, self.max_prompts or prompts)


class SampledSource(Block):
    """Preference pairs from the run's own SFT model."""

    sample: SampleSettings


def _source_kind(value: Any) -> str | None:
    keys = type(value).model_fields if isinstance(value, Block) else value if isinstance(value, dict) else {}
    found = [kind for kind in ("path", "hub", "artifact", "embedded", "sample") if kind in keys]
    return found[0] if len(found) == 1 else None


_AnySource = Discriminator(
    _source_kind,
    custom_error_type="source_kind",
    custom_error_message="a source needs exactly one of the keys path, hub, artifact, embedded, or sample for pairs",
)
SftSource = Annotated[
    Annotated[FileSource, Tag("path")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[ArtifactSource, Tag("artifact")]
    | Annotated[EmbeddedSource, Tag("embedded")],
    _AnySource,
]
PreferenceSource = Annotated[
    Annotated[FileSource, Tag("path")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[ArtifactSource, Tag("artifact")]
    | Annotated[SampledSource, Tag("sample")],
    _AnySource,
]
RowSource = FileSource | HubSource | ArtifactSource | EmbeddedSource
Finding = Literal["drop", "keep", "error"]


def _distinct(source: FileSource, sources: list[RowSource]) -> str:
    """Return the shortest end of a source's path that no other source's path has."""
    parts = PurePath(source.path).parts
    others = [PurePath(other.path).parts for other in sources if isinstance(other, FileSource) and other is not source]
    ends = (parts[-length:] for length in range(1, len(parts)))
    unique = next((end for end in ends if all(other[-len(end) :] != end for other in others)), parts)
    return str(PurePath(*unique))


class RulesConfig(Block):
    """What happens to a row that a rule finds: it is dropped, kept and counted, or the run stops and names it."""

    identical_pair: Literal["drop", "error"] = "drop"
    """A preference pair whose chosen answer equals the rejected one."""
    contradictory_pair: Finding = "drop"
    """A pair whose two answers an earlier pair of the prompt has the other way round."""
    exact_duplicate: Finding = "drop"
    """A row whose prompt and answers an earlier row has."""
    near_duplicate: Finding = "drop"
    """A row that is nearly an earlier one, prompt and answers together; needs ``data.audit``."""
    leak: Literal["drop", "error"] = "drop"
    """A training row whose prompt is held out, or, with ``data.audit``, nearly is."""
    similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.9
    """From which similarity on texts are near-duplicates: the Jaccard index of their three-word shingles."""


class DataConfig(Block):
    """Which rows are trained on, and by which rules rows are dropped, cut and split."""

    sft: list[SftSource] = []
    preference: list[PreferenceSource] = []
    evaluation_share: Share = 0.05
    """Share of the prompts that are held out to steer training."""
    test_share: Share = 0.0
    """Share of the prompts that are held out to judge the models."""
    train_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Which assistant turns of a conversation carry loss."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a row, prompt and answer together."""
    max_prompt_length: PositiveInt | None = None
    """Tokens of a prompt; none: only ``max_length`` counts."""
    too_long: Literal["truncate_prompt", "drop", "error"] = "truncate_prompt"
    """What happens to a longer row: the prompt loses tokens and then the answer, it is dropped, or the run stops."""
    rules: RulesConfig = RulesConfig()
    audit: bool = True
    """Look for near-duplicates and near leaks, and measure what the texts are like."""
    max_dropped_share: Share = 0.2
    """The run stops where a larger share of the rows of one source is dropped for its faults."""

    @property
    def row_sources(self) -> list[tuple[Literal["sft", "preference"], RowSource]]:
        """All sources that rows are read from, with their kind."""
        sft: list[tuple[Literal["sft", "preference"], RowSource]] = [("sft", source) for source in self.sft]
        return sft + [("preference", s) for s in self.preference if not isinstance(s, SampledSource)]

    @property
    def source_names(self) -> list[str]:
        """What ledgers and messages call the sources: sources of one name show so much of their paths as differs."""
        sources = [source for _, source in self.row_sources]
        names = [source.name for source in sources]
        return [
            _distinct(source, sources) if isinstance(source, FileSource) and names.count(name) > 1 else name
            for source, name in zip(sources, names, strict=True)
        ]

    @property
    def sampling(self) -> SampleSettings | None:
        """How pairs are sampled from the SFT model, if they are."""
        return next((s.sample for s in self.preference if isinstance(s, SampledSource)), None)

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.evaluation_share + self.test_share >= 1:
            raise ValueError("evaluation_share and test_share together leave no rows to train on")
        if self.max_prompt_length and self.max_prompt_length >= self.max_length:
            raise ValueError("max_prompt_length leaves no room for an answer; it must be below max_length")
        for kind in ("sft", "preference"):
            sources = [source for own, source in self.row_sources if own == kind]
            if any(source.weight for source in sources) and not all(source.weight for source in sources):
                raise ValueError(f"either all sources of {kind} have a weight or none; add the missing ones")
        if sum(isinstance(source, SampledSource) for source in self.preference) > 1:
            raise ValueError("preference takes one sample block at most")
        return self
