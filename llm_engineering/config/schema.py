"""The configuration of a run. Every key is optional over its default; an unknown key is an error."""

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("must consist of letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


def _check_measured_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise ValueError("must consist of at most 40 letters, digits, '_' and '-', the first a letter or digit")
    return name


Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
PositiveFloat = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
ModelName = Annotated[str, Field(max_length=80), AfterValidator(_check_name)]
MeasuredName = Annotated[str, AfterValidator(_check_measured_name)]


class Block(BaseModel):
    """The base of every block: strict about keys, never changed once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _is_default(block: Block, name: str) -> bool:
    return bool(getattr(block, name) == type(block).model_fields[name].default)


class SpecialTokens(Block):
    """Tokens that replace the tokenizer's own; they must be in its vocabulary already."""

    pad: str | None = None
    """The token that fills up a batch."""
    eos: str | None = None
    """The token that ends an answer."""
    bos: str | None = "auto"
    """The token that begins a text; ``auto``: the tokenizer's own; null: it has none."""


class PeftBackend(Block):
    """Adapters by PEFT, training by TRL, on any hardware."""

    type: Literal["peft"] = "peft"


class UnslothBackend(Block):
    """Models loaded and sped up by Unsloth, which the extra of that name installs; see docs/backends.md."""

    type: Literal["unsloth"] = "unsloth"


BackendConfig = Annotated[PeftBackend | UnslothBackend, Field(discriminator="type")]


class TemplateText(Block):
    """A chat template as text, in place of a file that not every machine has."""

    name: str
    """What reports call it."""
    text: str
    """The Jinja template."""


class ModelConfig(Block):
    """The model that training starts from."""

    base: str = "embedded"
    """``embedded``, a model folder, a hub id, or ``NAME@VERSION_OR_STAGE`` of a model that an earlier run made."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    dtype: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    """Precision of weights and products; ``auto``: bfloat16 on a GPU that has it, float16 on another, else float32.

    ``tf32``: float32 weights whose products a GPU computes with TF32's shorter mantissa.
    """
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """The attention kernel while training; ``auto`` is transformers' choice for the model."""
    chat_template: str | TemplateText = "auto"
    """``auto``, ``model``, ``chatml``, ``llama3``, ``alpaca``, the path of a Jinja file, or ``{name, text}``.

    ``auto`` is the model's own, else ChatML if its tokens are in the vocabulary, else Alpaca.
    """
    special_tokens: SpecialTokens = SpecialTokens()
    backend: BackendConfig = PeftBackend()


class LoraAdapter(Block):
    """Low-rank adapters on linear layers (Hu et al. 2021, arXiv:2106.09685)."""

    type: Literal["lora"] = "lora"
    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveFloat = 32.0
    """Scale; the update is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that are zeroed while training."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the modules that get an adapter."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""

    @property
    def words(self) -> str:
        """What is trained, in a phrase."""
        return f"{self.type} r {self.r} on {self.targets}"


class DoraAdapter(LoraAdapter):
    """Weight-decomposed low-rank adapters (Liu et al. 2024, arXiv:2402.09353)."""

    type: Literal["dora"] = "dora"  # type: ignore[assignment]  # the tag of the union


class QloraAdapter(LoraAdapter):
    """Low-rank adapters on a base kept in few bits (Dettmers et al. 2023, arXiv:2305.14314); needs a CUDA GPU."""

    type: Literal["qlora"] = "qlora"  # type: ignore[assignment]  # the tag of the union
    bits: Literal[4, 8] = 4
    """4: NormalFloat with double quantisation; 8: LLM.int8(). Needs the extra ``cuda``.

    Merging reads the base in its own precision again.
    """


class FullFineTuning(Block):
    """No adapter: all weights are trained, in float32 where the model is in half precision."""

    type: Literal["full"] = "full"

    @property
    def words(self) -> str:
        """What is trained, in a phrase."""
        return "all weights"


AdapterConfig = Annotated[LoraAdapter | DoraAdapter | QloraAdapter | FullFineTuning, Field(discriminator="type")]


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


Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "rmsprop",
    "adafactor",
    "sgd",
]


class StageConfig(Block):
    """What SFT and DPO have in common."""

    epochs: PositiveFloat = 1.0
    """Passes over the training rows; ``max_steps`` overrides it."""
    max_steps: PositiveInt | None = None
    """Optimizer updates."""
    batch_size: PositiveInt = 8
    """Rows in one forward pass, all processes together: each of them takes its part (``hardware.processes``)."""
    accumulation: PositiveInt = 1
    """Forward passes per optimizer update: the effective batch is batch_size x accumulation."""
    optimizer: Optimizer = "adamw_torch_fused"
    """transformers' name; 8-bit and paged ones need a CUDA GPU and the extra ``cuda``.

    Where those are missing ``adamw_torch_fused`` steps in, and log and report say so.
    """
    learning_rate: Rate
    """Peak rate, after the warm-up."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay of the mean squared gradient."""
    adam_epsilon: PositiveFloat = 1e-8
    """AdamW's term against division by 0."""
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    """How the learning rate falls after the warm-up."""
    min_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where the cosine ends, as a share of ``learning_rate``."""
    warmup: Annotated[float, Field(ge=0)] = 0.05
    """Warm-up: a share of the steps below 1, a number of steps from 1 on."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The optimizer's weight decay, decoupled in AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Let torch compile the model, by TRL's own path; needs a C++ compiler, and pays off on long GPU trainings."""
    liger_kernel: bool = False
    """Liger's fused kernels, by TRL's own path; needs a CUDA GPU and the package ``liger-kernel``."""
    fast_path: Literal["auto", "off"] = "auto"
    """``auto`` trains without padding and computes shared prompts once, where the model allows it; ``off`` never.

    The numbers are TRL's either way, to its last digits; the report says which path ran, and why.
    """
    logging_steps: PositiveInt = 10
    """Updates between two entries of the log."""
    save_steps: PositiveInt = 50
    """Updates between two checkpoints, which a killed run resumes from."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """So many of the newest checkpoints are kept while training, the best besides; at least two, as one may be torn."""
    evaluation_steps: PositiveInt | None = None
    """Updates between two evaluations on the held-out rows; none: at the end only."""
    evaluation_examples: PositiveInt | None = None
    """Training rows between two evaluations, rounded to whole updates, in place of ``evaluation_steps``."""
    evaluate_first: bool = False
    """Evaluate before the first update too."""
    best_metric: Literal["loss", "answer_accuracy", "preferred_rate", "answer_score"] | None = None
    """Keep the weights of the evaluation with the best value of this metric; a checkpoint is then saved at each.

    All but ``loss`` are measured on generated answers to held-out prompts, and need ``evaluation.checker``.
    """
    patience: PositiveInt | None = None
    """Stop after so many evaluations without a better ``best_metric``."""
    samples: Annotated[int, Field(ge=0)] = 3
    """The first held-out questions whose greedy answers are kept at each of the ``evaluation_steps``."""

    @model_validator(mode="after")
    def _check_best(self) -> "StageConfig":
        if self.patience and not self.best_metric:
            raise ValueError("patience needs best_metric, the metric to be patient about")
        if self.evaluation_steps and self.evaluation_examples:
            raise ValueError("evaluation_steps and evaluation_examples say the same; name one")
        if self.best_metric and not self.evaluation_interval:
            raise ValueError("best_metric needs evaluation_steps or evaluation_examples")
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> "StageConfig":
        if self.min_rate and self.schedule != "cosine":
            raise ValueError(f"min_rate does nothing for the schedule {self.schedule}; use cosine, or 0")
        if self.max_steps and self.warmup >= self.max_steps:
            raise ValueError(f"warmup ({self.warmup:g}) is no shorter than the training (max_steps {self.max_steps})")
        adam = [name for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if not _is_default(self, name)]
        if adam and "adamw" not in self.optimizer:
            raise ValueError(
                f"{adam[0]} does nothing for the optimizer {self.optimizer}; use an adamw, or leave it out"
            )
        return self

    @property
    def effective_batch(self) -> int:
        """Rows per optimizer update."""
        return self.batch_size * self.accumulation

    @property
    def evaluation_interval(self) -> int | None:
        """Updates between two evaluations on the held-out rows."""
        if self.evaluation_examples:
            return max(round(self.evaluation_examples / self.effective_batch), 1)
        return self.evaluation_steps


class SFTStageConfig(StageConfig):
    """Supervised fine-tuning: cross-entropy on the answer tokens."""

    learning_rate: Rate = 2.0e-4
    """Peak rate, after the warm-up."""
    disable_dropout: bool = False
    """Take out the dropout that the base model was built with; DPO always does. ``adapter.dropout`` stays."""
    neftune_alpha: PositiveFloat | None = None
    """Noise on the embeddings (NEFTune, Jain et al. 2023, arXiv:2310.05914; theirs: 5 to 15); not on the fast path."""


DPOLoss = Literal[
    "sigmoid",
    "ipo",
    "hinge",
    "robust",
    "sigmoid_norm",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]
SMOOTHED_LOSSES = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
DIVERGENCE_LOSSES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
"""Losses of the difference between chosen and rejected score, where f-divergences apply."""


class DPOStageConfig(StageConfig):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

    learning_rate: Rate = 5.0e-6
    """Peak rate, after the warm-up."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """How strongly the policy is held to the reference."""
    loss: DPOLoss = "sigmoid"
    """TRL's name of the preference loss; docs/losses.md gives the formula and the source of each.

    ``sigmoid_norm`` is ``sigmoid`` on log-ratios per token of the answer; ``ipo`` is per token, too.
    """
    f_divergence: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """What holds the policy to the reference (Wang et al. 2023, arXiv:2309.16240)."""
    alpha_divergence: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The alpha of ``f_divergence: alpha_divergence``."""
    ld_alpha: Share | None = None
    """Weight of an answer's tokens beyond the length of the other one (LD-DPO, Liu et al. 2024, arXiv:2409.06411)."""
    discopop_tau: PositiveFloat = 0.05
    """Temperature of the loss ``discopop`` (Lu et al. 2024, arXiv:2406.08414)."""
    reference_free: bool = False
    """Leave the reference out: log-ratios become the policy's log-probabilities alone."""
    nll_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean token cross-entropy on the chosen answers, added to the loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels (cDPO for ``sigmoid``)."""
    reference: Literal["auto", "stored", "on_the_fly"] = "auto"
    """``stored`` scores all pairs with the reference once, for every run with other losses; ``on_the_fly`` each batch.

    ``auto`` stores where a pair is seen more than 1.5 times on average.
    """
    kl_answers: Annotated[int, Field(ge=0)] = 16
    """Held-out questions on whose sampled answers KL from the reference is measured at each of ``evaluation_steps``."""

    @model_validator(mode="after")
    def _check_loss(self) -> "DPOStageConfig":
        if self.label_smoothing and self.loss not in SMOOTHED_LOSSES:
            raise ValueError(
                f"label_smoothing does nothing for the loss {self.loss}; use one of {', '.join(SMOOTHED_LOSSES)}, or 0"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs label_smoothing above 0; its paper's is 1e-3")
        if self.f_divergence != "reverse_kl" and self.loss not in DIVERGENCE_LOSSES:
            raise ValueError(
                f"f_divergence {self.f_divergence} is not defined for the loss {self.loss}; use one of "
                f"{', '.join(DIVERGENCE_LOSSES)}, or reverse_kl"
            )
        if self.reference_free and self.reference != "auto":
            raise ValueError(
                f"reference {self.reference} does nothing where reference_free is true; remove one of them"
            )
        for name, needs, value in (
            ("alpha_divergence", "f_divergence", "alpha_divergence"),
            ("discopop_tau", "loss", "discopop"),
        ):
            if not _is_default(self, name) and getattr(self, needs) != value:
                raise ValueError(f"{name} does nothing unless {needs} is {value}")
        return self


class OpenAIJudge(Block):
    """A language model behind an OpenAI-compatible endpoint judges the greedy answers; docs/judging.md describes it."""

    type: Literal["openai"] = "openai"
    base_url: str
    """The endpoint's address, such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``; without a key."""
    model: str
    """The judge's name at the endpoint."""
    modes: Annotated[list[Literal["pairwise", "rubric"]], Field(min_length=1)] = ["pairwise"]
    """``pairwise``: which of two models answers better; ``rubric``: a score for every answer."""
    against: Annotated[list[Literal["parent", "base"]], Field(min_length=1)] = ["parent", "base"]
    """What a model is compared with: the model that it was trained from, and the base."""
    rubric: str = (
        "A good answer is right, answers what was asked, and says nothing made up or superfluous. "
        "Length by itself is no merit."
    )
    """What the judge is to go by, in both modes."""
    scale: Annotated[int, Field(ge=2, le=100)] = 5
    """Scores of ``rubric`` go from 1 to this, the best."""
    show_reference: bool = True
    """Show the judge the row's reference answer, where there is one."""
    questions: PositiveInt = 100
    """Only so many held-out questions, drawn by the seed; fixed prompts (``evaluation.prompts``) come on top."""
    verdicts: Literal["auto", "json", "text"] = "auto"
    """How the judge answers: JSON by ``response_format``, or a last line; ``auto``: JSON where the server takes it."""
    max_tokens: PositiveInt = 512
    """Longest reply of the judge; one that thinks aloud needs more."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that limit; newer models of OpenAI want the second."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """The judge's; none: left to the server, as models that refuse the setting want it."""
    timeout: PositiveFloat = 60.0
    """Seconds to wait for the server in one attempt."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Further attempts after a time-out, a lost connection, 408, 409, 429 or a server's fault, with growing pauses."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests at once."""
    input_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens read, in a currency of yours; with ``output_price`` the report shows the cost."""
    output_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens written."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; none: no key is sent."""
    api_key_secret: str | None = None
    """``SECRET.KEY``: a value of a ZenML secret that holds the key, in place of ``api_key_env``."""

    @property
    def deciding(self) -> "OpenAIJudge":
        """What of it shapes verdicts: time-outs, prices and keys are left at their defaults."""
        other = {"timeout", "retries", "concurrency", "input_price", "output_price", "api_key_env", "api_key_secret"}
        return OpenAIJudge.model_validate(self.model_dump(exclude=other))

    @model_validator(mode="after")
    def _check_address(self) -> "OpenAIJudge":
        """Not a rule of the field: messages show a field's value, which may hold a password."""
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("base_url must hold no user, password or query; a key belongs in the environment")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an address such as https://api.openai.com/v1")
        return self

    @model_validator(mode="after")
    def _check_secret(self) -> "OpenAIJudge":
        if self.api_key_secret is not None and not re.fullmatch(r"[^.]+\.[^.]+", self.api_key_secret):
            raise ValueError("api_key_secret must name a ZenML secret and a key in it: SECRET.KEY")
        return self


class HarnessConfig(Block):
    """Tasks of EleutherAI's lm-evaluation-harness, which the extra of that name installs; see docs/judging.md."""

    tasks: Annotated[list[str], Field(min_length=1)]
    """Names of tasks, groups or tags: the harness's own, or those of ``include_path``."""
    include_path: str | None = None
    """A folder with task files (YAML); relative paths of their data start there, and code that they name is run."""
    hub: bool = False
    """Data sets of tasks may be fetched from the hub; else only what lies here is used."""
    limit: PositiveInt | None = None
    """Only the first so many documents of a task."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before every question; none: as the task says."""
    batch_size: PositiveInt = 16
    """Requests at once."""
    apply_chat_template: bool = False
    """Put every question into the model's chat template; base models are usually measured without."""


class EvaluationConfig(Block):
    """How models are measured."""

    checker: str | None = None
    """Judges generated answers against the row's reference; as in ``data.preference``."""
    max_new_tokens: PositiveInt = 200
    """Longest generated answer."""
    batch_size: PositiveInt = 192
    """Answers generated at once."""
    max_questions: PositiveInt | None = None
    """Only so many held-out questions, drawn by the seed."""
    sampled_answers: Annotated[int, Field(ge=0)] = 1
    """Answers per question that are sampled, besides the greedy one."""
    temperature: PositiveFloat = 1.0
    """Of the sampled answers; the KL from the parent is measured at 1 alone."""
    top_p: Rate = 1.0
    """Sampled from are only the likeliest tokens that together have this probability; likewise."""
    prompts: list[str] = []
    """Fixed prompts whose greedy answers are shown side by side; else the first held-out questions."""
    shown: Annotated[int, Field(ge=0)] = 3
    """Held-out questions whose answers are shown, where there are no fixed prompts."""
    models: dict[MeasuredName, str] = {}
    """What ``--run-evaluation`` measures: names, and folders, hub ids or ``NAME@VERSION_OR_STAGE``.

    Where none is named, it measures the newest models of ``name``.
    """
    parents: dict[MeasuredName, MeasuredName] = {}
    """What each of ``models`` was trained from, another one's name; without, ``base`` is, where one is called so."""

    @property
    def samples_are_the_models_own(self) -> bool:
        """Whether answers are sampled from the model's full distribution, as the KL needs it."""
        return self.temperature == 1.0 and self.top_p == 1.0

    @model_validator(mode="after")
    def _check_parents(self) -> "EvaluationConfig":
        for name, parent in self.parents.items():
            for unknown in {name, parent} - set(self.models):
                raise ValueError(f"parents names {unknown!r}, which is none of models ({', '.join(self.models)})")
            if name == parent:
                raise ValueError(f"parents says that {name!r} was trained from itself")
        return self

    def parent_names(self) -> dict[str, str]:
        """Return what each of ``models`` was trained from, as far as that is said."""
        known = {name: "base" for name in self.models if "base" in self.models and name != "base"}
        return known | self.parents

    judge: OpenAIJudge | None = None
    """A language model that judges the greedy answers; none: nothing leaves this machine."""
    harness: HarnessConfig | None = None
    """Tasks of the lm-evaluation-harness; none: it is not run."""

    @property
    def of_answers(self) -> "EvaluationConfig":
        """What shapes answers and their scores: another judge or other tasks generate nothing anew.

        Nor do the names of models: a step that measures them is given the models themselves.
        """
        return EvaluationConfig.model_validate(self.model_dump(exclude={"judge", "harness", "models", "parents"}))


class PromotionConfig(Block):
    """When the aligned model replaces the one in use."""

    stage: Literal["staging", "production"] = "staging"
    """The stage of the ZenML model that the better version gets."""
    tolerances: dict[str, Annotated[float, Field(ge=0)]] = {
        "preferred_rate": 0.02,
        "answer_accuracy": 0.03,
        "ranking_accuracy": 0.02,
        "repetition": 0.05,
        "unfinished": 0.05,
    }
    """How much worse a metric may be, absolute; only metrics named here and measured decide.

    Keys in a configuration are laid over these; a tolerance of 1 takes a metric out of the decision.
    """
    undecided: Literal["value", "refuse"] = "value"
    """Where the interval of a loss holds the tolerance: the measured value decides, or the check fails."""
    least_units: PositiveInt = 30
    """An undecided check on fewer independent units than this fails, whatever its value."""
    approval: bool = False
    """A person has to say yes: training moves no stage, and tools/promote.py asks in the dashboard."""
    approval_minutes: PositiveFloat = 60.0
    """How long tools/promote.py waits for the answer; none promotes nothing."""


class PlateauWatch(Block):
    """SFT's loss stands still early, while the learning rate is high (sign: Axolotl guide; numbers: ours)."""

    fall: Share = 0.01
    """Less of its value than this the mean loss falls from one half of the stretch to the other."""
    converged: Share = 0.5
    """A loss below this share of its start has converged: it may stand still."""


class UnstableWatch(Block):
    """The loss rises again, or jumps (sign: Axolotl guide; numbers: ours)."""

    rise: PositiveFloat = 0.1
    """How far the smoothed loss stands above its lowest, as a share of the loss at the start; more than noise, too."""
    spike: PositiveFloat = 1.0
    """How far a logged loss jumps above the smoothed one, as a share of the loss at the start."""
    spikes: PositiveInt = 3
    """So many jumps within the last 10 logged losses."""


class OverfittingWatch(Block):
    """The held-out loss rises while the training loss does not (sign: Axolotl guide; numbers: ours)."""

    rise: PositiveFloat = 0.05
    """How far both of the last two held-out losses stand above the lowest, as a share of it."""
    least: Annotated[float, Field(ge=0)] = 0.02
    """And at least so far, in the loss's own unit (nats for SFT): a share of next to nothing is nothing."""


class GradientWatch(Block):
    """The gradient norm, before clipping, leaves its bounds for long."""

    high: PositiveFloat = 10.0
    """The median of the last ``watch.min_points`` logged norms is above this; the Axolotl guide says 2, others 10."""
    low: Annotated[float, Field(ge=0)] = 0.1
    """A median below this is no verdict, but evidence where a loss stands still; the Axolotl guide: 0.5, others 0.1."""


class DisplacedWatch(Block):
    """Chosen and rejected answers become less likely, and generations worse (sign: AgileRL tutorial; numbers: ours)."""

    nats: PositiveFloat = 5.0
    """How far both mean log-ratios lie below zero, in nats an answer."""
    drop: Share = 0.1
    """How far right or preferred generated answers fall below their best, absolute; not asked where none are judged."""
    nll_weight: PositiveFloat = 1.0
    """``dpo.nll_weight`` of a restart (``watch.on.displaced: restart_with_nll``); the AgileRL tutorial's."""


class CollapsedWatch(Block):
    """Displaced, with a loss near 0 or broken generations (sign: AgileRL tutorial; numbers: ours)."""

    loss: Share = 0.05
    """The smoothed loss is below this share of its start; asked only where no generated answers are judged."""
    nats: PositiveFloat = 5.0
    """How far both mean log-ratios lie below zero, in nats an answer."""
    broken: Share = 0.5
    """Right or preferred generated answers fall to this share of their best or below."""


class TrivialWatch(Block):
    """The pairs are told apart at once (sign: Axolotl guide, accuracy 100 % or a loss near 0; numbers: ours)."""

    accuracy: Share = 0.99
    """The reward accuracy reaches this, and keeps it for ``watch.min_points`` logged points."""
    loss: Share = 0.05
    """Or the loss falls below this share of its start, for as long."""
    early: Share = 0.25
    """Within this share of the planned steps."""


class NoSignalWatch(Block):
    """Reward accuracy stays at chance and the margin at 0 (sign: users' reports of stuck rewards; numbers: ours)."""

    accuracy: Share = 0.55
    """The mean reward accuracy is no higher; chance is 0.5, and a tie counts as wrong."""
    margin: Annotated[float, Field(ge=0)] = 0.02
    """The mean reward margin is no higher, in units of the reward (beta times nats)."""
    after: Share = 0.3
    """It is not asked before this share of the planned steps is made."""


class LogRatioWatch(Block):
    """Answers are far more or less likely than under the reference; this is no KL (number: ours)."""

    nats: PositiveFloat = 100.0
    """Size of a smoothed mean log-ratio, in nats an answer."""


class KLWatch(Block):
    """The KL of the DPO model from the SFT model, as the evaluation measures it; it only warns."""

    nats: PositiveFloat = 10.0
    """Nats an answer; the Axolotl guide's."""


WarnOrStop = Literal["warn", "stop"]


class WatchActions(Block):
    """What a verdict leads to: a warning, or the end of the stage; docs/watch.md says with which weights."""

    plateau: WarnOrStop = "warn"
    """SFT only."""
    unstable: WarnOrStop = "warn"
    """Both stages."""
    overfitting: WarnOrStop = "warn"
    """Both stages."""
    exploding_gradients: WarnOrStop = "warn"
    """Both stages."""
    displaced: Literal["warn", "stop", "restart_with_nll"] = "warn"
    """DPO only. ``restart_with_nll``: once, from the same SFT model, with ``watch.displaced.nll_weight``."""
    collapsed: WarnOrStop = "warn"
    """DPO only."""
    trivial_pairs: WarnOrStop = "warn"
    """DPO only."""
    no_signal: WarnOrStop = "warn"
    """DPO only."""
    log_ratio_high: WarnOrStop = "warn"
    """DPO only."""


SFT_VERDICTS = ("plateau", "unstable", "overfitting", "exploding_gradients")
DPO_VERDICTS = (
    "unstable",
    "overfitting",
    "exploding_gradients",
    "displaced",
    "collapsed",
    "trivial_pairs",
    "no_signal",
    "log_ratio_high",
)


class WatchConfig(Block):
    """From when on a training curve is a verdict, and what the verdict leads to; docs/watch.md describes each."""

    smoothing: PositiveInt = 5
    """Logged points that the exponential moving average spans; it weighs the newest with 2 / (span + 1)."""
    min_points: Annotated[int, Field(ge=3)] = 5
    """Logged points below which a series is not judged."""
    on: WatchActions = WatchActions()
    plateau: PlateauWatch = PlateauWatch()
    unstable: UnstableWatch = UnstableWatch()
    overfitting: OverfittingWatch = OverfittingWatch()
    exploding_gradients: GradientWatch = GradientWatch()
    displaced: DisplacedWatch = DisplacedWatch()
    collapsed: CollapsedWatch = CollapsedWatch()
    trivial_pairs: TrivialWatch = TrivialWatch()
    no_signal: NoSignalWatch = NoSignalWatch()
    log_ratio_high: LogRatioWatch = LogRatioWatch()
    kl_high: KLWatch = KLWatch()

    def acting(self, stage: Literal["sft", "dpo"]) -> "WatchConfig":
        """Return what of the watch can change a stage's result: the verdicts that do more than warn.

        All else is at its default, so that a threshold which only warns does not train anew.
        """
        verdicts = SFT_VERDICTS if stage == "sft" else DPO_VERDICTS
        acting = {name for name in verdicts if getattr(self.on, name) != "warn"}
        if not acting:
            return WatchConfig()
        kept = self.model_dump(include={"smoothing", "min_points", *acting})
        return WatchConfig.model_validate({**kept, "on": self.on.model_dump(include=acting)})


class CometTracking(Block):
    """Comet: online with an API key, else one offline archive a stage; docs/comet.md says what is logged."""

    type: Literal["comet"] = "comet"
    project: str | None = None
    """Comet's project; none: that of the active ZenML stack's Comet tracker, else ``llm-engineering``."""
    workspace: str | None = None
    """Comet's workspace; none: that of the active ZenML stack's Comet tracker, else your default one."""
    secret: str | None = None
    """ZenML secret whose value ``api_key`` is Comet's API key; COMET_API_KEY goes before it."""
    log_adapter_mb: Annotated[float, Field(ge=0)] = 100.0
    """Adapters up to this size, in MB, are logged as Comet models; 0: none."""
    log_model: bool = False
    """Log the promoted model, merged and in full, as a Comet model."""


class TransformersTracking(Block):
    """Trackers that transformers knows, by its own callbacks; each has its own settings."""

    type: Literal["transformers"] = "transformers"
    report_to: Annotated[list[str], Field(min_length=1)]
    """Names that transformers takes in ``report_to``, such as ``tensorboard``, ``wandb`` or ``mlflow``."""


class NoTracking(Block):
    """No experiment tracker."""

    type: Literal["none"] = "none"


TrackingConfig = Annotated[CometTracking | TransformersTracking | NoTracking, Field(discriminator="type")]


RegimeName = Literal["base", "sft", "dpo", "dpo_nll", "sft_dpo", "sft_dpo_nll", "sft_chosen", "sft_clean"]


class ComparisonConfig(Block):
    """Which models a comparison makes and measures side by side; docs/comparison.md describes each."""

    regimes: Annotated[list[RegimeName], Field(min_length=1)] = [
        "base",
        "sft",
        "dpo",
        "dpo_nll",
        "sft_dpo",
        "sft_dpo_nll",
        "sft_chosen",
        "sft_clean",
    ]
    """The regimes, in the order in which they are shown; those that cannot run here are left out with a note."""
    nll_weight: PositiveFloat | None = None
    """``dpo.nll_weight`` of the regimes with NLL; none: the configured one where it is above 0, else 1."""

    @model_validator(mode="after")
    def _check_regimes(self) -> "ComparisonConfig":
        if len(set(self.regimes)) < len(self.regimes):
            raise ValueError("regimes names one twice; each is made once")
        return self


class SweepRange(Block):
    """Numbers between two ends, of which a random sweep draws."""

    low: int | float
    """The smallest; whole numbers are drawn where both ends are whole."""
    high: int | float
    """The largest."""
    scale: Literal["linear", "log"] = "linear"
    """``log`` draws every order of magnitude alike: for learning rates and weights."""

    @model_validator(mode="after")
    def _check_ends(self) -> "SweepRange":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.scale == "log" and self.low <= 0:
            raise ValueError("the scale log needs a low above 0")
        return self


SweepValue = bool | int | float | str | None | list[str]
SweepValues = Annotated[list[SweepValue], Field(min_length=1)]


class Sweep(Block):
    """What both kinds of sweep have in common."""

    metric: str | None = None
    """What the best run is the best by; none: ``preferred_rate`` where a checker judges, else ``ranking_accuracy``."""


class GridSweep(Sweep):
    """Every combination of the values."""

    type: Literal["grid"] = "grid"
    values: Annotated[dict[str, SweepValues], Field(min_length=1)]
    """Keys of this configuration by their dotted paths, and the values that each takes."""


class RandomSweep(Sweep):
    """Combinations drawn at random."""

    type: Literal["random"] = "random"
    runs: PositiveInt
    """So many combinations, each another."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds the draw."""
    values: Annotated[dict[str, SweepRange | SweepValues], Field(min_length=1)]
    """Keys of this configuration by their dotted paths, and a list of values or ``{low, high, scale}`` for each."""


SWEEP_KEYS = ("type", "metric", "runs", "seed", "values")


def flat_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a sweep tries by dotted paths, from blocks within blocks such as ``--set sweep.dpo.beta=[..]`` makes.

    A block with the key ``low`` or ``high`` is a range.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and not {"low", "high"} & set(value):
            flat |= {f"{key}.{inner}": below for inner, below in flat_values(value).items()}
        else:
            flat[key] = value
    return flat


def _whole_sweep(value: Any) -> Any:
    """Return a sweep's long form: keys that are none of a sweep's own are values to try."""
    if not isinstance(value, dict):
        return value
    own = {key: found for key, found in value.items() if key in SWEEP_KEYS}
    tried = {key: found for key, found in value.items() if key not in SWEEP_KEYS}
    listed = own.get("values", {})
    if isinstance(listed, dict):
        own["values"] = flat_values(listed | tried)
    return {"type": "grid", **own}


SweepConfig = Annotated[
    Annotated[GridSweep | RandomSweep, Field(discriminator="type")],
    BeforeValidator(_whole_sweep),
]


ExportFormat = Literal["merged", "bfloat16", "int8", "int4", "gguf"]


class Likeness(Block):
    """How much like the merged model an export has to be, on the merged model's own greedy answers."""

    agreement: Share
    """Least share of the positions at which both models find the same token likeliest."""
    kl: PositiveFloat
    """Greatest mean KL divergence of the export from the merged model, in nats a token."""


class ParityConfig(Block):
    """From when on an export is too unlike the merged model to be published."""

    bfloat16: Likeness = Likeness(agreement=0.95, kl=0.01)
    int8: Likeness = Likeness(agreement=0.95, kl=0.02)
    int4: Likeness = Likeness(agreement=0.85, kl=0.1)
    gguf: Likeness = Likeness(agreement=0.95, kl=0.01)
    prompts: PositiveInt = 16
    """Held-out questions that the models are compared on."""


def _check_repository(repository: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", repository):
        raise ValueError("must be an owner and a name, such as my-name/my-model")
    return repository


class HubExport(Block):
    """The repository on the Hugging Face hub that gets the promoted model."""

    repository: Annotated[str, Field(max_length=90), AfterValidator(_check_repository)]
    """``OWNER/NAME``; formats other than ``merged`` go to ``OWNER/NAME-FORMAT``. It is made where it is missing."""
    private: bool = True
    """Whether nobody else may see it; an export is never put into a repository that is public against this."""


class ExportConfig(Block):
    """Where the promoted model goes, and in which formats; docs/export.md describes them."""

    dir: str | None = None
    """A folder that gets the promoted model; relative paths start at the working directory.

    Formats other than ``merged`` go beside it, into a folder whose name ends in the format: ``DIR-int8``.
    """
    hub: HubExport | None = None
    formats: Annotated[list[ExportFormat], Field(min_length=1)] = ["merged"]
    """``merged`` is the model as it was measured; the others are made from it and compared with it."""
    parity: ParityConfig = ParityConfig()
    license: str | None = None
    """The licence that the model card states, by its identifier on the hub; none: ``unknown``."""

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be exported."""
        return self.dir is not None or self.hub is not None

    @model_validator(mode="after")
    def _check(self) -> "ExportConfig":
        if len(set(self.formats)) < len(self.formats):
            raise ValueError("formats names one twice; remove it")
        if not self.is_asked and not _is_default(self, "formats"):
            raise ValueError("formats does nothing without dir or hub; name one of them")
        return self


class LocalHardware(Block):
    """Training in the process that runs the step, on its GPU, or on the CPU."""

    type: Literal["local"] = "local"

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return 1

    @property
    def strategy(self) -> None:
        """There is nothing to share with other processes."""
        return None

    @property
    def sharding(self) -> str:
        """How checkpoints are cut."""
        return "none"


Strategy = Literal["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"]


class TorchrunHardware(Block):
    """Training in several processes of one machine, each with a GPU of its own; docs/many_gpus.md describes them."""

    type: Literal["torchrun"] = "torchrun"
    processes: Annotated[int, Field(ge=2, le=1024)]
    """How many: one for each GPU that is to be used. Batch sizes must be multiples of it."""
    strategy: Strategy = "ddp"
    """``ddp``: each process holds the whole model; ``fsdp`` (FSDP2) and ``deepspeed_zero3``: a part of everything.

    ``deepspeed_zero2``: the whole model, and a part of the gradients and of the optimizer's state.
    """

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only a part of what it trains."""
        return self.strategy != "ddp"

    @property
    def sharding(self) -> str:
        """How checkpoints are cut: those of ``ddp`` are whole, as those of one process are."""
        return self.strategy if self.is_sharded else "none"


HardwareConfig = Annotated[LocalHardware | TorchrunHardware, Field(discriminator="type")]
SORTING_LOSSES = ("aot", "aot_unpaired")
"""Losses that sort the pairs of a batch: parts of it are sorted otherwise than the whole."""
SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "rmsprop")
"""Optimizers whose step on a part of a weight is a part of the step on the whole."""


class RunConfig(Block):
    """One run."""

    name: ModelName = "run"
    """Names the ZenML model and its runs."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds splits, shuffling, adapters, sampling."""
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = LoraAdapter()
    data: DataConfig = DataConfig()
    sft: SFTStageConfig = SFTStageConfig()
    dpo: DPOStageConfig = DPOStageConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    watch: WatchConfig = WatchConfig()
    tracking: TrackingConfig = CometTracking()
    comparison: ComparisonConfig = ComparisonConfig()
    sweep: SweepConfig | None = None
    """``--run-sweep`` tries these: ``{dpo.beta: [0.05, 0.1]}`` is every combination; docs/sweeps.md has more."""
    export: ExportConfig = ExportConfig()
    hardware: HardwareConfig = LocalHardware()

    @model_validator(mode="after")
    def _check_hardware(self) -> "RunConfig":
        if isinstance(self.hardware, LocalHardware):
            return self
        if isinstance(self.model.backend, UnslothBackend):
            raise ValueError("hardware.type torchrun needs model.backend {type: peft}: Unsloth trains in one process")
        if self.dpo.loss in SORTING_LOSSES:
            raise ValueError(
                f"dpo.loss {self.dpo.loss} sorts the pairs of a batch, which hardware.processes would tear apart; use "
                "another loss, or hardware {type: local}"
            )
        if self.hardware.is_sharded:
            self._check_sharded(self.hardware.strategy)
        return self

    def _check_sharded(self, strategy: str) -> None:
        named = f"hardware.strategy {strategy}"
        if isinstance(self.adapter, DoraAdapter):
            raise ValueError(f"adapter.type dora needs whole weights, which {named} shares out; use lora, or ddp")
        if isinstance(self.adapter, QloraAdapter) and (self.adapter.bits == 8 or strategy != "fsdp"):
            raise ValueError(
                f"adapter.type qlora with {self.adapter.bits} bits does not go with {named}; 4 bits go with fsdp, any "
                "with ddp"
            )
        in_memory = isinstance(self.adapter, FullFineTuning) and self.dpo.reference != "stored"
        if strategy == "deepspeed_zero3" and self.data.preference and in_memory and not self.dpo.reference_free:
            raise ValueError(f"adapter.type full with {named} holds no reference besides; set dpo.reference to stored")
        for name, stage in (("sft", self.sft), ("dpo", self.dpo)):
            if stage.optimizer not in SHARDED_OPTIMIZERS:
                raise ValueError(
                    f"{name}.optimizer {stage.optimizer} needs whole weights, which {named} shares out; use one of "
                    f"{', '.join(SHARDED_OPTIMIZERS)}"
                )
            if stage.best_metric:
                raise ValueError(f"{name}.best_metric does not go with {named}; leave it out, or use ddp")
            if stage.compile:
                raise ValueError(f"{name}.compile does not go with {named}; set it to false, or use ddp")

    @model_validator(mode="after")
    def _check_best_metric(self) -> "RunConfig":
        for name, stage in (("sft", self.sft), ("dpo", self.dpo)):
            if stage.best_metric not in (None, "loss") and self.evaluation.checker is None:
                raise ValueError(
                    f"{name}.best_metric {stage.best_metric} needs evaluation.checker, which judges answers"
                )
        return self

    @property
    def warnings(self) -> list[str]:
        """What is allowed but seldom meant."""
        found = []
        if self.data.preference and self.data.sft and self.dpo.learning_rate >= self.sft.learning_rate:
            found.append(
                f"dpo.learning_rate {self.dpo.learning_rate:g} is not below sft.learning_rate "
                f"{self.sft.learning_rate:g}: DPO usually wants a tenth of it or less."
            )
        if self.hardware.processes > 1:
            noisy = [
                name
                for name, value in (
                    ("adapter.dropout", getattr(self.adapter, "dropout", 0)),
                    ("sft.neftune_alpha", self.sft.neftune_alpha),
                )
                if value
            ]
            found += [
                f"{name} is drawn by each process alone: another hardware.processes draws other noise, and only to "
                "that extent trains another model."
                for name in noisy
            ]
        return found

    @model_validator(mode="after")
    def _check_restart(self) -> "RunConfig":
        if self.watch.on.displaced == "restart_with_nll" and self.dpo.nll_weight >= self.watch.displaced.nll_weight:
            raise ValueError(
                f"watch.displaced.nll_weight ({self.watch.displaced.nll_weight:g}) must be above dpo.nll_weight "
                f"({self.dpo.nll_weight:g}): DPO would only be restarted as it was"
            )
        return self

    def policy_while_scoring(self) -> tuple[ModelConfig, AdapterConfig]:
        """Return what scoring the reference uses of ``model`` and ``adapter``: a change of the rest scores nothing."""
        used = {"dtype", "attention", "chat_template", "special_tokens", "backend"}
        model = ModelConfig.model_validate(self.model.model_dump(include=used))
        adapter: AdapterConfig = LoraAdapter(type="lora")  # the tags are named: ZenML hands on what is set alone
        if isinstance(self.adapter, QloraAdapter):
            adapter = QloraAdapter(type="qlora", bits=self.adapter.bits)
        if isinstance(self.adapter, FullFineTuning):
            adapter = FullFineTuning(type="full")
        return model, adapter

    def evaluation_while_training(self, stage: StageConfig) -> EvaluationConfig:
        """Return what a training stage uses of ``evaluation``, so that a change of the rest does not train anew."""
        if stage.evaluation_interval is None:
            return EvaluationConfig()
        used = {"checker", "max_new_tokens", "batch_size", "max_questions"}
        return EvaluationConfig.model_validate(self.evaluation.model_dump(include=used))
