"""Answers from a model: batched, greedy or sampled, with a random generator of their own."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_engineering.progress import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str
    token_ids: list[int]
    """Generated tokens, EOS included where there is one."""
    finished: bool
    """It ended with EOS within the allowed number of tokens."""

    @property
    def own_token_ids(self) -> list[int]:
        """Generated tokens without EOS."""
        return self.token_ids[:-1] if self.finished else self.token_ids


def generate_answers(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[Answer]:
    """Return one answer per prompt, in the order of the prompts.

    The random state of the process is left as it was, so that a training that generates draws the same batches as one
    that does not. Of the model's generation config only the end tokens count (no repetition penalty, for example), so
    that models with different ones compare. Where a model has no positions left, an answer ends unfinished.

    Args:
        model: In training or evaluation mode; it is given back in the mode it came in.
        tokenizer: Gives EOS and padding.
        prompts: Token ids, generation prompt included.
        max_new_tokens: Longest answer in tokens.
        batch_size: Prompts at once.
        temperature: 0 is greedy; else answers are sampled at this temperature.
        top_p: Only the most probable tokens that together have this probability are sampled from.
        seed: Seeds the sampling.
    """
    import torch

    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Answer] = {}
    with torch.no_grad(), generating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        with Work("generated", len(prompts), "answers") as work:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                new_ids = _generate(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, how)
                answers.update(zip(chosen, (_cut(ids, model, tokenizer) for ids in new_ids), strict=True))
                work(len(chosen))
    return [answers[i] for i in range(len(prompts))]


def end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the ids that end an answer: the tokenizer's EOS first, then those of the model's generation config."""
    return listed_ends(tokenizer, model.generation_config)


def listed_ends(tokenizer: "PreTrainedTokenizerBase", config: "GenerationConfig | None") -> list[int]:
    """Return the tokenizer's EOS, and behind it the other ends that a generation config lists."""
    known = config.eos_token_id if config else None
    listed = [known] if isinstance(known, int) else list(known or [])
    return list(dict.fromkeys([tokenizer.eos_token_id, *listed]))


@contextmanager
def generating(model: "PreTrainedModel") -> "Iterator[None]":
    """Evaluation mode with the key-value cache on, and a generation config that says nothing but the end tokens."""
    from transformers import GenerationConfig

    inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model
    was_training, had_cache, own_config = model.training, model.config.use_cache, inner.generation_config
    model.eval()
    model.config.use_cache = True
    inner.generation_config = GenerationConfig(eos_token_id=own_config.eos_token_id if own_config else None)
    try:
        yield
    finally:
        inner.generation_config = own_config
        model.config.use_cache = had_cache
        model.train(was_training)


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[Sequence[int]],
    max_new_tokens: int,
    how: dict[str, Any],
) -> list[list[int]]:
    batch = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt")
    width, positions = batch["input_ids"].shape[1], getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        max_new_tokens = min(max_new_tokens, positions - width)
    if max_new_tokens <= 0:
        return [[] for _ in prompts]
    output = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(model, tokenizer),
        **how,
    )
    ids: list[list[int]] = output[:, width:].tolist()
    return ids


def _cut(ids: list[int], model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Answer:
    """Return the answer up to its first EOS."""
    ends = set(end_tokens(model, tokenizer))
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), None)
    kept = ids[:length]
    return Answer(tokenizer.decode(kept, skip_special_tokens=True).strip(), kept, length is not None)
