"""Attention over a flat row of segments, registered as one of transformers' attention implementations.

Every token belongs to one segment. It sees the tokens of its segment up to itself, and the whole prefix of its segment,
which lies in an earlier one; no N x N mask is built. Shapes: N tokens of the flat row, H heads, D width of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llm_engineering.models.flat.layout import Segment

IMPLEMENTATION = "segments"
"""The name under which transformers knows this attention; without segments it is ``sdpa``."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
"""How far outputs and gradients of about 1 may lie from a masked softmax."""


@dataclass
class Segments:
    """The segments of one forward pass, and how many layers have attended over them."""

    segments: tuple[Segment, ...]
    layers: int = 0


def register() -> None:
    """Make the implementation known to transformers, with the masks of ``sdpa``."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def attend(
    module: torch.nn.Module,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return the output of one attention layer, (1, N, H, D), and no weights: transformers' interface.

    Args:
        module: The attention layer.
        query_1HND: Queries.
        key_1HND: Keys; with fewer heads where heads share them.
        value_1HND: Values, as the keys.
        attention_mask: Of no meaning where there are segments.
        dropout: None, where there are segments.
        scaling: Of the scores, ``D^-0.5`` if None.
        segments: Of a flat row; None for an ordinary pass, as in generation.
        **kwargs: What else transformers hands on.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if segments is None:
        ordinary: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_1HND, key_1HND, value_1HND, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return ordinary
    window = kwargs.get("sliding_window")
    assert not dropout, "Attention dropout is TRL's own path."
    assert not window or all(segment.span <= window for segment in segments.segments), "A row is above the window."
    segments.layers += 1
    if torch.is_autocast_enabled(query_1HND.device.type):  # which casts sdpa's inputs, but not a custom function's
        dtype = torch.get_autocast_dtype(query_1HND.device.type)
        query_1HND, key_1HND, value_1HND = (t.to(dtype) for t in (query_1HND, key_1HND, value_1HND))
    groups = query_1HND.shape[1] // key_1HND.shape[1]
    key_1HND, value_1HND = repeat_kv(key_1HND, groups), repeat_kv(value_1HND, groups)
    attention = pick_attention(query_1HND.device.type, query_1HND.dtype)
    return attention(query_1HND, key_1HND, value_1HND, segments.segments, scaling).transpose(1, 2), None


SegmentAttention = Callable[[Tensor, Tensor, Tensor, tuple[Segment, ...], float | None], Tensor]
"""From queries, keys and values, (1, H, N, D), segments and scale to the outputs, (1, H, N, D)."""


def pick_attention(device: str, dtype: torch.dtype) -> SegmentAttention:
    """Return how a device computes segment attention."""
    if device == "cpu":
        return _cpu_flash
    return gathered_varlen if dtype in (torch.bfloat16, torch.float16) else gathered_sdpa


@cache
def worst_difference(device: str, dtype: torch.dtype) -> float:
    """Return how far this device's segment attention is from a masked softmax in float64, gradients included.

    Three segments, the last one with a prefix; run before anything is trained on it.
    """
    segments = (Segment(0, 5), Segment(5, 12), Segment(12, 15, 5, 9))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 1, 2, 15, 16, generator=generator, dtype=torch.float64)
    found = []
    for attention, where, precision in (
        (masked_softmax, "cpu", torch.float64),
        (pick_attention(device, dtype), device, dtype),
    ):
        query, key, value, weight = (t.to(where, precision) for t in inputs)
        q, k, v = (t.clone().requires_grad_() for t in (query, key, value))
        output = attention(q, k, v, segments, None)
        gradients = torch.autograd.grad((output * weight).sum(), (q, k, v))
        found.append([t.detach().double().cpu() for t in (output, *gradients)])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def visible(segments: tuple[Segment, ...], size: int) -> Tensor:
    """Return the N x N mask that segments stand for: True where a token (row) sees another (column)."""
    mask_NN = torch.zeros(size, size, dtype=torch.bool)
    for start, stop, prefix_start, prefix_stop in segments:
        mask_NN[start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
        mask_NN[start:stop, prefix_start:prefix_stop] = True
    return mask_NN


def masked_softmax(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    """Return segment attention from its definition, ``softmax(scale q k^T + mask) v``; it builds the mask."""
    hidden = ~visible(segments, query.shape[2]).to(query.device)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value


def _cpu_flash(query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None) -> Tensor:
    """Return segment attention computed in float32: the kernel's backward pass is four times slower in bfloat16."""
    output: Tensor = _CpuFlash.apply(query.float(), key.float(), value.float(), segments, scale)  # type: ignore[no-untyped-call]
    return output.to(query.dtype)


class _CpuFlash(torch.autograd.Function):
    """PyTorch's flash attention for CPUs, one call a segment and one more for its prefix.

    The kernel gives the output o and the log-sum-exp of the scores l. With those of the segment (1) and of the prefix
    (2), ``l = log(exp l1 + exp l2)`` and ``o = exp(l1 - l) o1 + exp(l2 - l) o2`` are those of both together (Dao et al.
    2022, arXiv:2205.14135, section 3.1). The backward pass takes the weights of the softmax from l, and the term
    ``sum(do * o)`` from o: fed with the merged ones it gives each part's share of the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
    ) -> Tensor:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, sums = _like(value, query.shape[1]), []
        for segment in segments:
            own = slice(segment.start, segment.stop)
            out, lse = flash(query[:, :, own], key[:, :, own], value[:, :, own], 0.0, True, scale=scale)
            if segment.prefix_stop > segment.prefix_start:
                prefix = slice(segment.prefix_start, segment.prefix_stop)
                other = flash(query[:, :, own], key[:, :, prefix], value[:, :, prefix], 0.0, False, scale=scale)
                out, lse = _merged(out, lse, *other)
            output[:, :, own] = out
            sums.append(lse)
        if not (query.sum() + key.sum()).isfinite():  # the kernel gives 0 where a score is no number
            for start, stop, prefix_start, prefix_stop in segments:
                keys = key[:, :, start:stop].sum() + key[:, :, prefix_start:prefix_stop].sum()
                if not (query[:, :, start:stop].sum() + keys).isfinite():
                    output[:, :, start:stop] = float("nan")
        ctx.save_for_backward(query, key, value, output, *sums)
        ctx.segments, ctx.scale = segments, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, *sums = ctx.saved_tensors
        grad_q, grad_k, grad_v = (_like(t, t.shape[1]) for t in (query, key, value))
        parts = list(zip(ctx.segments, sums, strict=True))
        for segment, lse in parts:
            own = slice(segment.start, segment.stop)
            grad, q, k, v, out = (t[:, :, own] for t in (grads[0], query, key, value, output))
            grad_q[:, :, own], grad_k[:, :, own], grad_v[:, :, own] = flash_backward(
                grad, q, k, v, out, lse, 0.0, True, scale=ctx.scale
            )
        for segment, lse in parts:  # once every prefix has the gradient of its own segment
            if segment.prefix_stop == segment.prefix_start:
                continue
            own, prefix = slice(segment.start, segment.stop), slice(segment.prefix_start, segment.prefix_stop)
            grad, q, out = (t[:, :, own] for t in (grads[0], query, output))
            k, v = key[:, :, prefix], value[:, :, prefix]
            dq, dk, dv = flash_backward(grad, q, k, v, out, lse, 0.0, False, scale=ctx.scale)
            grad_q[:, :, own] += dq
            grad_k[:, :, prefix] += dk
            grad_v[:, :, prefix] += dv
        return grad_q, grad_k, grad_v, None, None


def _merged(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp of two parts of the keys together."""
    both = torch.logaddexp(lse, other_lse)
    return out * (lse - both).exp().unsqueeze(-1) + other_out * (other_lse - both).exp().unsqueeze(-1), both


def _like(t_1HND: Tensor, heads: int) -> Tensor:
    """Return room for (1, H, N, D) with a token's heads side by side, as the layers around attention want them."""
    return torch.empty(1, t_1HND.shape[2], heads, t_1HND.shape[3], dtype=t_1HND.dtype).transpose(1, 2)


def gathered_keys(segments: tuple[Segment, ...]) -> tuple[list[int], list[int], list[int]]:
    """Return what attention kernels for rows of unequal length want.

    A segment's keys are its prefix and then itself, one segment behind the other, so that its last query sees all of
    its keys and each one before it a key less: causal attention that is aligned at the end.

    Returns:
        Where each key stands in the flat row, and where the queries and the keys of each segment start (and, at the
        end, stop).
    """
    places: list[int] = []
    query_starts, key_starts = [0], [0]
    for start, stop, prefix_start, prefix_stop in segments:
        places += [*range(prefix_start, prefix_stop), *range(start, stop)]
        query_starts.append(stop)
        key_starts.append(len(places))
    return places, query_starts, key_starts


def gathered_varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    """Return segment attention by FlashAttention for rows of unequal length, in half precision on a GPU.

    It aligns causal attention at the end of the keys, as :func:`gathered_keys` needs it.
    """
    from torch.nn.attention.varlen import varlen_attn

    index, query_starts, key_starts = _on_device(segments, query.device)
    output = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1).index_select(0, index),
        value[0].transpose(0, 1).index_select(0, index),
        query_starts,
        key_starts,
        max(segment.stop - segment.start for segment in segments),
        max(segment.span for segment in segments),
        scale=scale,
        window_size=(-1, 0),
    )
    assert isinstance(output, Tensor)
    return output.transpose(0, 1)[None]


@lru_cache(maxsize=4)  # the layers of a pass ask for the same
def _on_device(segments: tuple[Segment, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    places, query_starts, key_starts = gathered_keys(segments)
    return (
        torch.tensor(places, device=device),
        torch.tensor(query_starts, device=device, dtype=torch.int32),
        torch.tensor(key_starts, device=device, dtype=torch.int32),
    )


def gathered_sdpa(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float | None
) -> Tensor:
    """Return segment attention by PyTorch's own attention, one call a segment: float32 on a GPU."""
    places, query_starts, key_starts = gathered_keys(segments)
    outputs = []
    for i in range(len(segments)):
        queries, keys = query_starts[i + 1] - query_starts[i], key_starts[i + 1] - key_starts[i]
        index = torch.tensor(places[key_starts[i] : key_starts[i + 1]], device=query.device)
        sees = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
        q = query[:, :, query_starts[i] : query_starts[i + 1]]
        k, v = key.index_select(2, index), value.index_select(2, index)
        outputs.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=sees, scale=scale))
    return torch.cat(outputs, 2)
