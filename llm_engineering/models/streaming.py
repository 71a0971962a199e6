"""One answer as it grows: pieces of text while the model generates, and a way to stop it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from llm_engineering.errors import ModelError
from llm_engineering.models.generation import end_tokens, generating

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are sampled."""
    max_new_tokens: int = 200
    seed: int = 42


def stream_answer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt_ids: Sequence[int],
    sampling: Sampling,
    stop: Event,
) -> Iterator[str]:
    """Yield the answer piece by piece; greedy answers are those of :func:`generate_answers`.

    Args:
        model: Of its generation config only the end tokens count.
        tokenizer: Gives EOS and padding.
        prompt_ids: Token ids, generation prompt included.
        sampling: How tokens are chosen; an answer ends where the model has no positions left.
        stop: Ends the answer after the next token, once it is set.

    Raises:
        ModelError: The prompt alone fills the model's positions.
    """
    from transformers import StoppingCriteriaList, TextIteratorStreamer

    options = _options(model, len(prompt_ids), sampling)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    criteria = StoppingCriteriaList([lambda ids, _scores: ids.new_full((len(ids),), stop.is_set(), dtype=bool)])
    with generating(model), ThreadPoolExecutor(max_workers=1) as executor:
        done = executor.submit(
            _generate, model, tokenizer, list(prompt_ids), sampling.seed, streamer, criteria, options
        )
        done.add_done_callback(lambda _: streamer.on_finalized_text("", stream_end=True))  # a failure ends it, too
        try:
            yield from (text for text in streamer if text)
        finally:
            stop.set()
        done.result()


def _options(model: "PreTrainedModel", prompt_tokens: int, sampling: Sampling) -> dict[str, Any]:
    positions = getattr(model.config, "max_position_embeddings", None)
    most = sampling.max_new_tokens if positions is None else min(sampling.max_new_tokens, positions - prompt_tokens)
    if most <= 0:
        raise ModelError(
            f"The conversation has {prompt_tokens} tokens and the model {positions} positions: no answer fits. Begin "
            "a new one, or say less."
        )
    if sampling.temperature == 0:
        return {"max_new_tokens": most, "do_sample": False}
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return {"max_new_tokens": most, "do_sample": True, **how}


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt_ids: list[int],
    seed: int,
    streamer: Any,
    criteria: Any,
    options: dict[str, Any],
) -> None:
    import torch

    ids = torch.tensor([prompt_ids], device=model.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end_tokens(model, tokenizer),
            streamer=streamer,
            stopping_criteria=criteria,
            **options,
        )
