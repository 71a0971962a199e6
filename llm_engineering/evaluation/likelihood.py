"""Log-probabilities of given tokens under a model. Shapes: B rows, T tokens, V vocabulary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.data.rendering import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Row = tuple[list[int], list[int]]
"""Token ids and labels, -100 where a token is not scored."""
LOGITS_AT_ONCE = 2**26
"""Logits held in memory at a time: 256 MB in fp32."""


@dataclass(frozen=True)
class ScoredTokens:
    """Sums over the scored tokens of one row, in nats."""

    logp: float
    tokens: int


def _batches(rows: Sequence[Row], vocabulary: int) -> Iterator[list[int]]:
    """Yield indices of rows of like length, as many as fit."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]), reverse=True)
    while order:
        size = max(1, LOGITS_AT_ONCE // (len(rows[order[0]][0]) * vocabulary))
        yield order[:size]
        order = order[size:]


def _forward(model: "PreTrainedModel", rows: Sequence[Row]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return next-token log-probabilities (B, T-1, V) in fp32 and the labels they predict (B, T-1)."""
    import torch

    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.zeros(len(rows), length, dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, IGNORED)
    mask_BT = torch.zeros_like(ids_BT)
    for i, (ids, labels) in enumerate(rows):
        ids_BT[i, : len(ids)] = torch.tensor(ids)
        labels_BT[i, : len(ids)] = torch.tensor(labels)
        mask_BT[i, : len(ids)] = 1
    device = model.device
    logits_BTV = model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False).logits
    return logits_BTV[:, :-1].float().log_softmax(-1), labels_BT[:, 1:].to(device)


def score_rows(model: "PreTrainedModel", rows: Sequence[Row]) -> list[ScoredTokens]:
    """Return the summed log-probability of the labelled tokens of every row.

    Args:
        model: In any mode; it is scored in evaluation mode and left in it.
        rows: Token ids and labels, -100 where a token is not scored.
    """
    import torch

    model.eval()
    scores: dict[int, ScoredTokens] = {}
    with torch.no_grad():
        for batch in _batches(rows, model.config.get_text_config().vocab_size):
            logps_BTV, labels_BT = _forward(model, [rows[i] for i in batch])
            scored_BT = labels_BT != IGNORED
            picked_BT = logps_BTV.gather(2, labels_BT.clamp(min=0)[..., None])[..., 0] * scored_BT
            sums, counts = picked_BT.sum(1).tolist(), scored_BT.sum(1).tolist()
            scores.update({i: ScoredTokens(s, int(n)) for i, s, n in zip(batch, sums, counts, strict=True)})
    return [scores[i] for i in range(len(rows))]


def kl_per_row(policy: "PreTrainedModel", reference: "PreTrainedModel", rows: Sequence[Row]) -> list[float]:
    """Return KL(policy || reference) per token of every row, in nats, over the whole vocabulary.

    On answers that were sampled from the policy, the mean estimates the KL that DPO's beta bounds (Rafailov et al.
    2023, equation 3), divided by the number of tokens.
    """
    import torch

    policy.eval()
    reference.eval()
    values: dict[int, float] = {}
    with torch.no_grad():
        for batch in _batches(rows, policy.config.get_text_config().vocab_size):
            chosen = [rows[i] for i in batch]
            policy_BTV, labels_BT = _forward(policy, chosen)
            reference_BTV, _ = _forward(reference, chosen)
            scored_BT = labels_BT != IGNORED
            kl_BT = (policy_BTV.exp() * (policy_BTV - reference_BTV)).sum(-1) * scored_BT
            per_row = (kl_BT.sum(1) / scored_BT.sum(1).clamp(min=1)).tolist()
            values.update(zip(batch, per_row, strict=True))
    return [values[i] for i in range(len(rows))]


def labelled(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """Return a prompt with an answer as token ids and labels; the answer is scored."""
    return [*prompt, *answer], [IGNORED] * len(prompt) + list(answer)
