"""The head and the adapters, one operation each, against their definitions in float64."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from llm_engineering.models.flat import head as head_module
from llm_engineering.models.flat.head import score_tokens
from llm_engineering.models.flat.linear import linear, linear_transposed
from llm_engineering.models.flat.lora import fuse_adapters


def frozen_head(bias, width=12, vocabulary=50):
    torch.manual_seed(0)
    return nn.Linear(width, vocabulary, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [3, 1000], ids=["chunks", "at once"])
def test_scores_are_those_of_the_logits(chunk, bias, monkeypatch):
    monkeypatch.setattr(head_module, "SMALLEST_CHUNK", chunk)
    monkeypatch.setattr(head_module, "CHUNK_LOGITS", 1)
    head = frozen_head(bias)
    hidden = torch.randn(10, 12, requires_grad=True)
    targets = torch.tensor([3, 0, 49, 7, 7, 1, 2, 30, 31, 32])
    weights = torch.linspace(-1, 2, 10)
    scores = score_tokens(head, hidden, targets, statistics=True)
    gradient = torch.autograd.grad((scores.logps_K * weights).sum(), hidden)[0]

    exact = hidden.detach().double().requires_grad_()
    logits = exact @ head.weight.double().T + (head.bias.double() if bias else 0)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    logps = probabilities[torch.arange(10), targets].log()
    assert torch.allclose(scores.logps_K.double(), logps, atol=1e-6)
    assert torch.allclose(scores.entropies_K.double(), -(probabilities * probabilities.log()).sum(1), atol=1e-6)
    assert scores.hits_K.tolist() == (logits.argmax(1) == targets).float().tolist()
    assert torch.allclose(scores.mean_logits_K.double(), logits.mean(1), atol=1e-6)
    expected = torch.autograd.grad((logps * weights.double()).sum(), exact)[0]
    assert torch.allclose(gradient.double(), expected, atol=1e-6)


def test_likeliest_token_counts_as_argmax_counts_it():
    head = nn.Linear(1, 3, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[1.0], [1.0], [0.0]]))  # tokens 0 and 1 tie: argmax takes the first
    hits = score_tokens(head, torch.ones(3, 1), torch.tensor([0, 1, 2]), statistics=True).hits_K
    assert hits.tolist() == [1, 0, 0]


def test_no_scored_token_is_no_error():
    scores = score_tokens(frozen_head(False), torch.zeros(0, 12, requires_grad=True), torch.zeros(0).long(), True)
    scores.logps_K.sum().backward()
    assert scores.logps_K.shape == (0,)


def test_reference_pass_takes_no_statistics():
    with torch.no_grad():
        scores = score_tokens(frozen_head(True), torch.randn(4, 12), torch.tensor([1, 2, 3, 4]), statistics=False)
    assert scores[1:] == (None, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear_maps(dtype):
    x, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((2, 5, 3), (4, 3), (4,)))
    assert torch.allclose(linear(x, weight, bias), x @ weight.T + bias, atol=0.05 if dtype == torch.bfloat16 else 1e-6)
    y = torch.randn(6, 4).to(dtype)
    assert torch.allclose(linear_transposed(y, weight), y @ weight, atol=0.05 if dtype == torch.bfloat16 else 1e-6)


class Layers(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8, bias=True), nn.Linear(8, 5, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def adapted(dtype=torch.float32, **settings):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["first", "second"], **settings)
    model = get_peft_model(
        Layers(bias=settings.get("lora_bias", False)).to(dtype), config, autocast_adapter_dtype=False
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.5)
    return model


def outcome(model, x, weight):
    model.zero_grad()
    x = x.clone().requires_grad_()
    output = model(x)
    (output * weight).sum().backward()
    return [output.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def test_merged_layers_give_pefts_outputs_and_gradients():
    plain, fused = adapted(), adapted()
    assert fuse_adapters(fused) == 2
    x, weight = torch.randn(2, 30, 6), torch.randn(2, 30, 5)
    exact = outcome(adapted().double(), x.double(), weight.double())
    for a, b, c in zip(exact, outcome(plain, x, weight), outcome(fused, x, weight), strict=True):
        assert (c - a).abs().max() <= 2 * (b - a).abs().max() + 1e-5
    assert grad_fn_names(fused(x)) >= {"_MergedLinearBackward"}


def test_adapters_stay_beside_the_weights_in_half_precision():
    plain, fused = adapted(torch.bfloat16), adapted(torch.bfloat16)
    fuse_adapters(fused)
    x, weight = torch.randn(2, 30, 6).bfloat16(), torch.randn(2, 30, 5).bfloat16()
    for a, b in zip(outcome(plain, x, weight), outcome(fused, x, weight), strict=True):
        assert torch.allclose(a, b, rtol=0.05, atol=0.03 * float(a.abs().max()))
    assert grad_fn_names(fused(x)) >= {"_AdaptedLinearBackward"}


def test_autocast_computes_in_half_precision_and_keeps_float32_gradients():
    plain, fused = adapted(), adapted()
    fuse_adapters(fused)
    x, weight = torch.randn(2, 30, 6), torch.randn(2, 30, 5)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = outcome(plain, x, weight), outcome(fused, x, weight)
    for expected, found in zip(a, b, strict=True):
        assert found.dtype == expected.dtype
        assert torch.allclose(expected, found, rtol=0.05, atol=0.03 * float(expected.abs().max()))


def test_merge_follows_updates_that_leave_no_trace():
    # fused AdamW changes parameters without moving Tensor._version
    fused, plain = adapted(), adapted()
    fuse_adapters(fused)
    x, weight = torch.randn(2, 30, 6), torch.randn(2, 30, 5)
    for model in (fused, plain):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)
        for _ in range(3):
            outcome(model, x, weight)
            optimizer.step()
    assert torch.allclose(fused(x), plain(x), atol=1e-4)


def test_few_tokens_and_disabled_adapters():
    plain, fused = adapted(), adapted()
    fuse_adapters(fused)
    few, many = torch.randn(1, 1, 6), torch.randn(2, 30, 6)
    assert torch.equal(plain(few), fused(few))  # a generated token: PEFT's own pass, to the bit
    with torch.no_grad(), plain.disable_adapter(), fused.disable_adapter():
        assert torch.equal(plain(few), fused(few))
        assert torch.allclose(plain(many), fused(many), atol=1e-6)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_other_adapters_keep_pefts_own_pass(settings):
    plain, fused = adapted(**settings), adapted(**settings)
    fuse_adapters(fused)
    x = torch.randn(2, 30, 6)
    outputs = []
    for model in (plain, fused):
        torch.manual_seed(3)
        outputs.append(model.train()(x))
    assert torch.equal(*outputs)
    assert not grad_fn_names(outputs[1]) & {"_MergedLinearBackward", "_AdaptedLinearBackward"}


def grad_fn_names(output):
    """Return the kinds of operations that an output was made by."""
    names, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(type(node).__name__)
            todo += [parent for parent, _ in node.next_functions]
    return names
