"""Model, chat template, adapter and backend."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt


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
