"""Log-probabilities of given tokens under a model. Shapes: B rows, T tokens, V vocabulary."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from math import fsum
from typing import TYPE_CHECKING

from llm_engineering.data.rowsets import IGNORED
from llm_engineering.progress import Work

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Row = tuple[list[int], list[int]]
"""Token ids and labels, -100 where a token is not scored."""
LOGITS_AT_ONCE = 2**26
"""Logits held in memory at a time: 256 MB in fp32."""
LOGITS_IN_FLOAT32 = 2**23
"""Logits of a half-precision model that are cast to fp32 at a time, where only their sums are kept."""


@dataclass(frozen=True)
class ScoredTokens:
    """Sums over the scored tokens of one row, in nats."""

    logp: float
    tokens: int


@dataclass(frozen=True)
class Divergence:
    """The KL of a policy from its reference along one answer."""

    nats: float
    """Summed over the answer's tokens."""
    tokens: int


def _batches(rows: Sequence[Row], vocabulary: int) -> Iterator[list[int]]:
    """Yield indices of rows of like length, as many as fit."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]), reverse=True)
    while order:
        size = max(1, LOGITS_AT_ONCE // (len(rows[order[0]][0]) * vocabulary))
        yield order[:size]
        order = order[size:]


def _padded(rows: Sequence[Row], device: "torch.device") -> "tuple[dict[str, torch.Tensor], torch.Tensor]":
    """Return what a model takes (B, T), and the labels that its logits but the last predict (B, T-1)."""
    import torch

    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.zeros(len(rows), length, dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, IGNORED)
    mask_BT = torch.zeros_like(ids_BT)
    for i, (ids, labels) in enumerate(rows):
        ids_BT[i, : len(ids)] = torch.tensor(ids)
        labels_BT[i, : len(ids)] = torch.tensor(labels)
        mask_BT[i, : len(ids)] = 1
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    return inputs, labels_BT[:, 1:].to(device)


def _forward(model: "PreTrainedModel", rows: Sequence[Row]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return next-token log-probabilities (B, T-1, V) in fp32 and the labels they predict (B, T-1)."""
    inputs, labels_BT = _padded(rows, model.device)
    logits_BTV = model(**inputs, use_cache=False).logits
    return logits_BTV[:, :-1].float().log_softmax(-1), labels_BT


def score_rows(model: "PreTrainedModel", rows: Sequence[Row]) -> list[ScoredTokens]:
    """Return the summed log-probability of the labelled tokens of every row.

    Args:
        model: In any mode; it is scored in evaluation mode and left in it.
        rows: Token ids and labels, -100 where a token is not scored.
    """
    import torch

    model.eval()
    scores: dict[int, ScoredTokens] = {}
    with torch.no_grad(), Work("scored", len(rows)) as work:
        for batch in _batches(rows, model.config.get_text_config().vocab_size):
            logps_BTV, labels_BT = _forward(model, [rows[i] for i in batch])
            scored_BT = labels_BT != IGNORED
            picked_BT = logps_BTV.gather(2, labels_BT.clamp(min=0)[..., None])[..., 0] * scored_BT
            sums, counts = picked_BT.sum(1).tolist(), scored_BT.sum(1).tolist()
            scores.update({i: ScoredTokens(s, int(n)) for i, s, n in zip(batch, sums, counts, strict=True)})
            work(len(batch))
    return [scores[i] for i in range(len(rows))]


def divergences(
    policy: "PreTrainedModel", reference: "PreTrainedModel | None", rows: Sequence[Row]
) -> list[Divergence]:
    """Return KL(policy || reference) summed over the labelled tokens of every row.

    At each position it is the exact KL of the two next-token distributions, over the whole vocabulary. By the chain
    rule their sum along an answer that was sampled from the policy has KL(policy || reference) of whole answers as its
    mean, as the sampled ``log pi(y) - log pi_ref(y)`` has, with less variance and never below zero (Amini, Vieira and
    Cotterell 2025, arXiv:2504.10637: the Rao-Blackwellized estimator). It is the KL that DPO's beta bounds (Rafailov et
    al. 2023, equation 3).

    Args:
        policy: In any mode; it is left in evaluation mode.
        reference: Likewise; None: the policy with its adapter off.
        rows: Prompts with answers that were sampled from the policy at temperature 1, the answers labelled.
    """
    import torch

    for model in (policy, reference):
        if model is not None:
            model.eval()
    found: dict[int, Divergence] = {}
    with torch.no_grad():
        for batch in _batches(rows, policy.config.get_text_config().vocab_size):
            inputs, labels_BT = _padded([rows[i] for i in batch], policy.device)
            scored_BT = labels_BT != IGNORED
            policy_KV = policy(**inputs, use_cache=False).logits[:, :-1][scored_BT]
            with policy.disable_adapter() if reference is None else nullcontext():
                other = policy if reference is None else reference
                reference_KV = other(**inputs, use_cache=False).logits[:, :-1][scored_BT]
            counts = scored_BT.sum(1).tolist()
            values = iter(_kl(policy_KV, reference_KV))
            nats = [fsum(islice(values, count)) for count in counts]
            found.update({i: Divergence(n, c) for i, n, c in zip(batch, nats, counts, strict=True)})
    return [found[i] for i in range(len(rows))]


def _kl(policy_KV: "torch.Tensor", reference_KV: "torch.Tensor") -> list[float]:
    """Return the KL of each position, computed in float32 and summed in float64, a few positions at a time."""
    import torch

    size = max(1, LOGITS_IN_FLOAT32 // policy_KV.shape[1])
    values: list[float] = []
    for start in range(0, len(policy_KV), size):
        chunk = slice(start, start + size)
        logp_CV, logq_CV = (logits_KV[chunk].float().log_softmax(-1) for logits_KV in (policy_KV, reference_KV))
        values += (logp_CV.exp() * (logp_CV - logq_CV)).sum(-1, dtype=torch.float64).tolist()
    return values


def labelled(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """Return a prompt with an answer as token ids and labels; the answer is scored."""
    return [*prompt, *answer], [IGNORED] * len(prompt) + list(answer)
