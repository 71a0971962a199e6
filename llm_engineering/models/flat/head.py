"""The language-model head on the tokens that are scored, and on no others.

Shapes: K scored tokens, E width of the hidden states, V vocabulary, C tokens of one chunk.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm_engineering.models.flat.linear import linear, linear_transposed

CHUNK_LOGITS = 2**21
"""Logits computed at once: 8 MB in float32, so that they stay in the processor's cache."""
SMALLEST_CHUNK = 64
"""Tokens; with fewer a matrix product reads the head's weights too often."""


class TokenScores(NamedTuple):
    """What the head says of each scored token; in float32, in nats."""

    logps_K: Tensor
    entropies_K: Tensor | None = None
    hits_K: Tensor | None = None
    """1 where the token is the likeliest one, else 0."""
    mean_logits_K: Tensor | None = None
    """The mean over the vocabulary."""


def score_tokens(head: nn.Linear, hidden_KE: Tensor, targets_K: Tensor, statistics: bool) -> TokenScores:
    """Return the log-probability of each target, given the hidden state before it.

    Args:
        head: Frozen.
        hidden_KE: Hidden states; gradients flow into them from the log-probabilities alone.
        targets_K: Token ids.
        statistics: Compute what is only logged, too.
    """
    logps_K, entropies_K, hits_K = _HeadScores.apply(hidden_KE, head.weight, head.bias, targets_K, statistics)  # type: ignore[no-untyped-call]
    if not statistics:
        return TokenScores(logps_K)
    return TokenScores(logps_K, entropies_K, hits_K, _mean_logits(head, hidden_KE.detach()))


def _mean_logits(head: nn.Linear, hidden_KE: Tensor) -> Tensor:
    """Return the mean logit over the vocabulary: ``mean_v (h . w_v + b_v) = h . mean_v w_v + mean_v b_v``."""
    mean_K = hidden_KE.float() @ head.weight.detach().mean(0, dtype=torch.float32)
    return mean_K if head.bias is None else mean_K + head.bias.detach().mean(dtype=torch.float32)


class _HeadScores(torch.autograd.Function):
    """Log-probabilities, entropies and hits in one pass over the logits, chunk by chunk.

    With ``z = h W^T + b``, ``l = log_softmax(z)`` and ``p = exp(l)``: the log-probability of target y is ``l_y``, the
    entropy ``-sum_v p_v l_v``, and the gradient ``d l_y / d h = (onehot(y) - p) W``. The gradient is computed while the
    logits are there, so that no logits are kept for the backward pass, nor computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_KE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, targets_K: Tensor, statistics: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(targets_K)
        logps_K, entropies_K, hits_K = (torch.zeros(count, device=hidden_KE.device) for _ in range(3))
        wants_gradient = ctx.needs_input_grad[0]
        gradient_KE = torch.empty_like(hidden_KE) if wants_gradient else None
        size = max(SMALLEST_CHUNK, CHUNK_LOGITS // len(weight_VE))
        for start in range(0, count, size):
            chunk = slice(start, start + size)
            target_C1 = targets_K[chunk, None]
            z_CV = linear(hidden_KE[chunk], weight_VE, bias_V).float()
            if statistics:
                hits_K[chunk] = _hits(z_CV, target_C1)
            l_CV = functional.log_softmax(z_CV, -1)
            logps_K[chunk] = l_CV.gather(1, target_C1).squeeze(1)
            if not (statistics or wants_gradient):
                continue
            p_CV = torch.exp(l_CV, out=z_CV)
            if statistics:
                entropies_K[chunk] = -torch.linalg.vecdot(p_CV, l_CV)
            if gradient_KE is not None:
                p_CV.scatter_add_(1, target_C1, torch.full_like(target_C1, -1, dtype=p_CV.dtype))
                gradient_KE[chunk] = linear_transposed(p_CV.to(weight_VE.dtype), weight_VE).neg_()
        ctx.save_for_backward(gradient_KE)
        ctx.mark_non_differentiable(entropies_K, hits_K)
        return logps_K, entropies_K, hits_K

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (gradient_KE,) = ctx.saved_tensors
        return gradient_KE * grad_K[:, None].to(gradient_KE.dtype), None, None, None, None


def _hits(logits_CV: Tensor, target_C1: Tensor) -> Tensor:
    """Return 1 where the target is the first of the largest logits, as argmax counts it."""
    hits_C = (logits_CV.gather(1, target_C1).squeeze(1) >= logits_CV.amax(-1)).float()
    best = hits_C.nonzero().squeeze(1)  # ties are common in half precision
    hits_C[best] = (logits_CV[best].argmax(-1) == target_C1[best].squeeze(1)).float()
    return hits_C
