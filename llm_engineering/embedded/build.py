"""Build the bundled base model: train a tokenizer and a small Llama on the prose of the embedded domain.

One CPU thread, fp32, every draw from a seeded generator: the same seed on the same machine with the same versions gives
the same bytes. ``build.json`` beside the weights says what they were built from, so that a rebuild can be compared.

Axes in names: ``B`` sequences, ``T`` positions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from llm_engineering.embedded.zoo import corpus

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

BASE_DIR = Path(__file__).parent / "base"
"""The base model that ships with the library."""
RECORD_NAME = "build.json"
WEIGHTS_NAME = "model.safetensors"

END_OF_TEXT, START_OF_TURN, END_OF_TURN, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN, PAD)
CHATML_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


class BaseModelRecipe(BaseModel):
    """What the base model is built from. Every field changes the bytes that come out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Draws the corpus, the initial weights and the order of the sequences."""
    steps: Annotated[int, Field(gt=0)] = 5500
    """Optimizer steps."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Sequences a step."""
    sequence_length: Annotated[int, Field(gt=1)] = 128
    """Tokens a sequence; documents are joined end to end and cut into sequences of this length."""
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    """Peak rate of AdamW; warmed up linearly, then a cosine down to a twentieth."""
    warmup_steps: Annotated[int, Field(gt=0)] = 50
    """Steps until the peak rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decay of the weight matrices, embeddings included; norms are left alone."""
    num_documents: Annotated[int, Field(gt=0)] = 60_000
    """Documents of the corpus."""
    tokenizer_documents: Annotated[int, Field(gt=0)] = 10_000
    """How many of them, from the first, the tokenizer is trained on."""
    vocab_size: Annotated[int, Field(gt=260)] = 1152
    """Upper bound of the vocabulary; fewer tokens if the corpus has fewer pairs to merge."""
    hidden_size: Annotated[int, Field(gt=0)] = 128
    """Width of the model."""
    intermediate_size: Annotated[int, Field(gt=0)] = 320
    """Width of the feed-forward layers."""
    num_layers: Annotated[int, Field(gt=0)] = 4
    """Decoder layers."""
    num_heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads."""
    max_positions: Annotated[int, Field(gt=0)] = 512
    """Positions the model accepts."""


class BuildRecord(BaseModel):
    """What a built base model came from, kept beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: BaseModelRecipe
    """The recipe in full."""
    sha256: str
    """Of the weights file."""
    num_parameters: int
    """Trainable parameters; tied embeddings count once."""
    num_tokens: int
    """Tokens of the corpus."""
    loss: float
    """Mean training loss of the last hundred steps, in nats a token."""
    versions: dict[str, str]
    """The versions of torch, transformers and tokenizers; with others the bytes may differ."""


class BuildProgress(BaseModel):
    """Where a build stands after one step."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    loss: float
    """Loss of this step, in nats a token."""


def build_base_model(
    out_dir: Path, recipe: BaseModelRecipe, on_step: Callable[[BuildProgress], None] | None = None
) -> BuildRecord:
    """Train the base model from nothing and save model, tokenizer, generation config and record to a folder.

    Takes minutes on one CPU thread at the default recipe. The caller's random state and thread count are restored.

    Args:
        out_dir: Where to save; created if missing, files of an earlier build are overwritten.
        recipe: What to build.
        on_step: Called after every optimizer step.

    Returns:
        The record that was saved.
    """
    with _one_seeded_thread(recipe.seed):
        documents = list(corpus(recipe.num_documents, recipe.seed))
        tokenizer = train_tokenizer(documents[: recipe.tokenizer_documents], recipe)
        tokens = _join(documents, tokenizer)
        model = new_model(tokenizer, recipe)
        loss = _pretrain(model, tokens, recipe, on_step)
    out_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    record = BuildRecord(
        recipe=recipe,
        sha256=sha256_of(out_dir / WEIGHTS_NAME),
        num_parameters=model.num_parameters(),
        num_tokens=len(tokens),
        loss=round(loss, 4),
        versions=_versions(),
    )
    (out_dir / RECORD_NAME).write_text(json.dumps(record.model_dump(), indent=2) + "\n", encoding="utf-8")
    return record


def read_record(model_dir: Path = BASE_DIR) -> BuildRecord:
    """Return the record a build left beside its weights."""
    return BuildRecord.model_validate_json((model_dir / RECORD_NAME).read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def train_tokenizer(texts: Sequence[str], recipe: BaseModelRecipe) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer whose vocabulary holds the tokens of ChatML.

    Args:
        texts: What to learn the merges from.
        recipe: Gives the size of the vocabulary and the longest sequence.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[END_OF_TEXT, START_OF_TURN],
        model_max_length=recipe.max_positions,
        padding_side="left",
        chat_template=CHATML_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: BaseModelRecipe) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings that ends its answers as ChatML does."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    end_of_turn, end_of_text, pad = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT, PAD])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_of_turn,
        pad_token_id=pad,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=None, eos_token_id=[end_of_turn, end_of_text], pad_token_id=pad
    )
    return model


def _join(documents: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return the tokens of all documents in one row, each document closed by the end-of-text token."""
    import torch

    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    encoded = tokenizer(list(documents), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return torch.tensor([token for document in encoded for token in (*document, end_of_text)])


def _pretrain(
    model: LlamaForCausalLM,
    tokens: torch.Tensor,
    recipe: BaseModelRecipe,
    on_step: Callable[[BuildProgress], None] | None,
) -> float:
    """Train the model on every next token; return the mean loss of the last hundred steps."""
    from torch.nn.utils import clip_grad_norm_

    optimizer = _optimizer(model, recipe)
    losses: list[float] = []
    model.train()
    for step, input_ids_BT in enumerate(_batches(tokens, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate_factor(step, recipe)
        loss = model(input_ids=input_ids_BT, labels=input_ids_BT, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if on_step is not None:
            on_step(BuildProgress(step=step + 1, steps=recipe.steps, loss=losses[-1]))
    model.eval()
    last = losses[-100:]
    return sum(last) / len(last)


def _optimizer(model: LlamaForCausalLM, recipe: BaseModelRecipe) -> torch.optim.Optimizer:
    import torch

    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def _batches(tokens: torch.Tensor, recipe: BaseModelRecipe) -> Iterator[torch.Tensor]:
    """Yield one ``[B, T]`` batch a step, going through the corpus in a new order each time round."""
    import torch

    num_sequences = len(tokens) // recipe.sequence_length
    assert num_sequences >= recipe.batch_size, "the corpus is shorter than one batch"
    sequences = tokens[: num_sequences * recipe.sequence_length].view(num_sequences, recipe.sequence_length)
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        if len(order) < recipe.batch_size:
            order = torch.randperm(num_sequences, generator=generator)
        yield sequences[order[: recipe.batch_size]]
        order = order[recipe.batch_size :]


def _rate_factor(step: int, recipe: BaseModelRecipe) -> float:
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return warmup * (0.05 + 0.95 * cosine)


def _versions() -> dict[str, str]:
    import tokenizers
    import torch
    import transformers

    return {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


@contextmanager
def _one_seeded_thread(seed: int) -> Iterator[None]:
    """Run torch on one thread from a seeded state, and give back the caller's threads and state.

    Sums are added up in another order when the number of threads changes, and the bytes change with it.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
