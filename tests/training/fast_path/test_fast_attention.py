"""Segment attention against its definition, written out in float64."""

import math

import pytest
import torch
from torch import nn

from llm_engineering.models.flat import attention
from llm_engineering.models.flat.attention import Segments, gathered_keys, gathered_sdpa, visible
from llm_engineering.models.flat.layout import Segment

LAYOUTS = {
    "one": (Segment(0, 9),),
    "rows": (Segment(0, 4), Segment(4, 5), Segment(5, 9)),
    "pair": (Segment(0, 6), Segment(6, 9, 0, 4)),
    "pairs": (Segment(0, 3), Segment(3, 5, 0, 1), Segment(5, 8), Segment(8, 9, 5, 8)),
    "two share one": (Segment(0, 4), Segment(4, 6, 0, 3), Segment(6, 9, 0, 2)),
    "long": (Segment(0, 300), Segment(300, 420, 0, 170), Segment(420, 700), Segment(700, 701, 420, 699)),
}


def by_hand(q, k, v, segments, scale):
    """Return softmax(scale q k^T) v, query by query, over the tokens that a query sees."""
    out = torch.zeros_like(q)
    for start, stop, prefix_start, prefix_stop in segments:
        for i in range(start, stop):
            seen = [*range(prefix_start, prefix_stop), *range(start, i + 1)]
            for head in range(q.shape[1]):
                scores = torch.stack([(q[0, head, i] * k[0, head, j]).sum() * scale for j in seen])
                weights = scores.exp() / scores.exp().sum()
                out[0, head, i] = sum(w * v[0, head, j] for w, j in zip(weights, seen, strict=True))
    return out


def inputs(size, heads=2, width=8):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, heads, size, width, generator=draw, dtype=torch.float64)


def with_gradients(attend, segments, scale, dtype=torch.float64):
    *leaves, weight = (t.to(dtype) for t in inputs(segments[-1].stop))
    leaves = [t.clone().requires_grad_() for t in leaves]
    output = attend(*leaves, segments, scale)
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), leaves)]


def test_mask_of_a_pair():
    # chosen 0 1 2, rejected 3 4 behind the common tokens 0 1
    expected = ["x....", "xx...", "xxx..", "xx.x.", "xx.xx"]
    found = visible((Segment(0, 3), Segment(3, 5, 0, 2)), 5)
    assert ["".join("x" if seen else "." for seen in row) for row in found.tolist()] == expected


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "long"])
def test_masked_softmax_is_the_definition(layout):
    for found, expected in zip(
        with_gradients(attention.masked_softmax, LAYOUTS[layout], 0.3),
        with_gradients(by_hand, LAYOUTS[layout], 0.3),
        strict=True,
    ):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("kernel", ["cpu", "gathered"])
def test_outputs_and_gradients_are_those_of_a_masked_softmax(kernel, scale, layout):
    attend = attention.pick_attention("cpu", torch.float32) if kernel == "cpu" else gathered_sdpa
    exact = with_gradients(attention.masked_softmax, LAYOUTS[layout], scale)
    found = with_gradients(attend, LAYOUTS[layout], scale, torch.float32)
    for a, b in zip(exact, found, strict=True):
        assert torch.allclose(a, b.double(), rtol=1e-5, atol=5e-6)


def test_layout_for_kernels_of_unequal_rows():
    places, query_starts, key_starts = gathered_keys((Segment(0, 3), Segment(3, 5, 0, 2)))
    assert places == [0, 1, 2, 0, 1, 3, 4]
    assert query_starts == [0, 3, 5]
    assert key_starts == [0, 3, 7]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_for_varlen_kernels_gives_segment_attention(layout, monkeypatch):
    def varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        """FlashAttention's interface: causal attention is aligned at the end of the keys."""
        assert window_size == (-1, 0)
        assert (cu_seq_q.diff().max(), cu_seq_k.diff().max()) == (max_q, max_k)
        outputs = []
        bounds = [c.tolist() for c in (cu_seq_q[:-1], cu_seq_q[1:], cu_seq_k[:-1], cu_seq_k[1:])]
        for qs, qe, ks, ke in zip(*bounds, strict=True):
            scores = torch.einsum("qhd,khd->hqk", q[qs:qe], k[ks:ke]) * scale
            seen = torch.ones(qe - qs, ke - ks, dtype=torch.bool).tril((ke - ks) - (qe - qs))
            outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -math.inf).softmax(-1), v[ks:ke]))
        return torch.cat(outputs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    exact = with_gradients(attention.masked_softmax, LAYOUTS[layout], 0.3)
    found = with_gradients(attention.gathered_varlen, LAYOUTS[layout], 0.3)
    for a, b in zip(exact, found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_kernel_is_tried_before_it_is_used():
    assert attention.worst_difference("cpu", torch.float32) < 1e-5
    assert attention.worst_difference("cpu", torch.bfloat16) < attention.TOLERANCE[torch.bfloat16]


def test_what_is_no_number_stays_none_in_its_own_row():
    query, key, value, _ = inputs(9).float()
    query[0, 0, 2, 1] = math.nan
    found = attention.pick_attention("cpu", torch.float32)(query, key, value, LAYOUTS["rows"], None)
    first = LAYOUTS["rows"][0]
    assert found[:, :, : first.stop].isnan().all()
    assert found[:, :, first.stop :].isfinite().all()


def test_layer_counts_itself_and_repeats_shared_heads():
    query, key, value, _ = inputs(9, heads=4).float()
    segments = Segments(LAYOUTS["pair"])
    key, value = key[:, :2], value[:, :2]
    output, weights = attention.attend(nn.Identity(), query, key, value, None, segments=segments)
    assert segments.layers == 1
    assert weights is None
    repeated = [t.repeat_interleave(2, 1) for t in (key, value)]
    expected = attention.masked_softmax(query, *repeated, segments.segments, None).transpose(1, 2)
    assert torch.allclose(output, expected, atol=1e-6)


def test_rows_above_a_window_and_dropout_are_refused():
    tensors = inputs(9).float()[:3]
    with pytest.raises(AssertionError, match="above the window"):
        attention.attend(nn.Identity(), *tensors, None, segments=Segments(LAYOUTS["pair"]), sliding_window=6)
    attention.attend(nn.Identity(), *tensors, None, segments=Segments(LAYOUTS["pair"]), sliding_window=7)
    with pytest.raises(AssertionError, match="dropout"):
        attention.attend(nn.Identity(), *tensors, None, dropout=0.1, segments=Segments(LAYOUTS["pair"]))
