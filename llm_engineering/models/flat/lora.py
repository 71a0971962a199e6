"""Low-rank adapters in one operation a layer, with exact gradients.

A layer with an adapter (Hu et al. 2021, arXiv:2106.09685, equation 3) is ``y = x W^T + b + s (x A^T) B^T``. Shapes: N
tokens, I inputs, O outputs, R rank.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn

from llm_engineering.models.flat.linear import linear, linear_transposed


def fuse_adapters(model: nn.Module) -> int:
    """Let every plain LoRA layer of a model compute itself in one operation; return how many do.

    In float32 on a CPU the adapter is merged into the layer's weights, anew in every pass; elsewhere it stays beside
    them, since half precision would round small updates away. Other adapters (DoRA), layers that are quantised or no
    ``nn.Linear``, and passes with dropout or with several adapters keep PEFT's own forward pass.
    """
    from peft.tuners.lora import Linear

    layers = [m for m in model.modules() if type(m) is Linear and type(m.base_layer) is nn.Linear]
    for layer in layers:
        layer.forward = types.MethodType(_forward, layer)
    return len(layers)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for the forward pass of ``peft.tuners.lora.Linear``."""
    weight_OI, bias_O = self.base_layer.weight, self.base_layer.bias
    autocast = torch.is_autocast_enabled(x.device.type)
    in_float32 = x.device.type == "cpu" and x.dtype == weight_OI.dtype == torch.float32 and not autocast
    peft_forward = type(self).forward
    if args or kwargs or self.merged or (in_float32 and not _merging_pays(x, weight_OI)):
        return peft_forward(self, x, *args, **kwargs)  # type: ignore[no-any-return]
    if in_float32 and self.disable_adapters and not torch.is_grad_enabled():
        return linear(x, weight_OI, bias_O)
    adapter = _only_adapter(self)
    if adapter is None:
        return peft_forward(self, x)  # type: ignore[no-any-return]
    a_RI, b_OR, scale = self.lora_A[adapter].weight, self.lora_B[adapter].weight, self.scaling[adapter]
    if in_float32 and a_RI.dtype == torch.float32:
        return _MergedLinear.apply(x, weight_OI, bias_O, a_RI, b_OR, scale)  # type: ignore[no-any-return, no-untyped-call]
    if autocast or x.dtype == weight_OI.dtype == a_RI.dtype:
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
        return _AdaptedLinear.apply(x, weight_OI, bias_O, a_RI, b_OR, scale, dtype)  # type: ignore[no-any-return, no-untyped-call]
    return peft_forward(self, x)  # type: ignore[no-any-return]


def _merging_pays(x: Tensor, weight_OI: Tensor) -> bool:
    """Tell whether ``s B A`` (R I O products) costs less than ``(x A^T) B^T`` (N R (I + O)): not for a few tokens."""
    outputs, inputs = weight_OI.shape
    return x.numel() // inputs * (inputs + outputs) >= inputs * outputs


def _only_adapter(layer: Any) -> str | None:
    """Return the name of the one plain adapter that acts in this pass, None if there is another case."""
    active = layer.active_adapters
    if layer.disable_adapters or len(active) != 1 or active[0] not in layer.lora_A or active[0] in layer.lora_variant:
        return None
    if layer.training and getattr(layer.lora_dropout[active[0]], "p", 0.0) > 0:
        return None
    if layer.lora_B[active[0]].bias is not None:
        return None
    return str(active[0])


class _MergedLinear(torch.autograd.Function):
    """``y = x M^T + b`` with ``M = W + s B A``.

    M is made anew in every forward and every backward pass: nothing tells when A or B have changed (fused AdamW does
    not move ``Tensor._version``), and a copy of all weights need not be kept in between. With the output's gradient g:
    ``dx = g M``, ``dB = s g^T (x A^T)``, ``dA = s (g B)^T x``; W and b are frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight_OI, a_RI, b_OR)
        ctx.scale = scale
        return linear(x, torch.addmm(weight_OI, b_OR, a_RI, alpha=scale), bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, a_RI, b_OR = ctx.saved_tensors
        x_NI, g_NO = x.reshape(-1, x.shape[-1]), grads[0].reshape(-1, weight_OI.shape[0])
        grad_b_OR = (g_NO.t() @ (x_NI @ a_RI.t())).mul_(ctx.scale)
        grad_a_RI = ((g_NO @ b_OR).t() @ x_NI).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            merged_OI = torch.addmm(weight_OI, b_OR, a_RI, alpha=ctx.scale)
            grad_x = linear_transposed(g_NO, merged_OI).view_as(x)
        return grad_x, None, None, grad_a_RI, grad_b_OR, None


class _AdaptedLinear(torch.autograd.Function):
    """``y = x W^T + b + s z B^T`` with ``z = x A^T``, in the dtype of autocast where it is on.

    With the output's gradient g and ``u = s g B``: ``dx = g W + u A``, ``dB = s g^T z``, ``dA = u^T x``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x_NI = x.reshape(-1, x.shape[-1]).to(dtype)
            y_NO = linear(x_NI, weight_OI.to(dtype), None if bias_O is None else bias_O.to(dtype))
            z_NR = x_NI @ a_RI.t().to(dtype)
            y_NO = torch.addmm(y_NO, z_NR, b_OR.t().to(dtype), alpha=scale)
        ctx.save_for_backward(x_NI, z_NR, weight_OI, a_RI, b_OR)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, z_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        dtype = x_NI.dtype
        g_NO = grads[0].reshape(-1, weight_OI.shape[0]).to(dtype)
        u_NR = (g_NO @ b_OR.to(dtype)).mul_(ctx.scale)
        grad_b_OR = (g_NO.t() @ z_NR).mul_(ctx.scale).to(b_OR.dtype)
        grad_a_RI = (u_NR.t() @ x_NI).to(a_RI.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(linear_transposed(g_NO, weight_OI.to(dtype)), u_NR, a_RI.to(dtype))
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, grad_a_RI, grad_b_OR, None, None
