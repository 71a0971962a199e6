"""Parity of an exported model with the merged one: the same tokens in, the same predictions out, within a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.config.export import Likeness
from llm_engineering.errors import ProofError
from llm_engineering.models.generation import generate_answers
from llm_engineering.reports.promotion import ExportParity

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 32
"""Longest answer that is compared."""


@dataclass(frozen=True)
class Predictions:
    """What the merged model says at every position of its own greedy answers."""

    prompts: Sequence[Sequence[int]]
    answers: list[list[int]]
    logits_TV: "torch.Tensor"
    """Of all positions of all answers (T) over the vocabulary (V), in float32 on the CPU."""


def predictions_of(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Sequence[int]]
) -> Predictions:
    """Return what a model says along its own greedy answers to prompts, each given as token ids.

    Raises:
        ProofError: No prompt leaves room for an answer.
    """
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=NEW_TOKENS, batch_size=len(prompts))
    kept = [answer.token_ids for answer in answers]
    return Predictions(prompts, kept, _logits(model, prompts, kept))


def compare(model: "PreTrainedModel", with_: Predictions, threshold: Likeness) -> ExportParity:
    """Return how a model's predictions compare with the merged model's."""
    import torch

    logits_TV = _logits(model, with_.prompts, with_.answers)
    merged_TV = with_.logits_TV
    difference = (logits_TV - merged_TV).abs()
    same = logits_TV.argmax(-1) == merged_TV.argmax(-1)
    kl = torch.nn.functional.kl_div(
        logits_TV.log_softmax(-1), merged_TV.log_softmax(-1), log_target=True, reduction="none"
    )
    return ExportParity(
        prompts=len(with_.prompts),
        positions=len(merged_TV),
        agreement=float(same.float().mean()),
        kl_per_token=float(kl.sum(-1).mean()),
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        least_agreement=threshold.agreement,
        most_kl=threshold.kl,
    )


def _logits(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> "torch.Tensor":
    """Return the logits from which each token of the answers is chosen; nothing is padded."""
    import torch

    found = []
    model.eval()
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer:
                ids = torch.tensor([[*prompt, *answer]], device=model.device)
                found.append(model(ids).logits[0, len(prompt) - 1 : -1].float().cpu())
    if not found:
        raise ProofError("The held-out prompts leave no room for an answer: nothing can be compared on them.")
    return torch.cat(found)
