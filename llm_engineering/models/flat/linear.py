"""Linear maps with frozen weights.

In float32 on a CPU oneDNN's kernel is called by name: it is faster than the one that PyTorch takes by itself (MKL), on
AMD most of all. Shapes: ... any, I inputs, O outputs.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b``; the weights get no gradient where oneDNN computes it."""
    if _onednn_takes(x_I, weight_OI):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x_I, weight_OI, bias_O, "none", [], "")
        return product
    return functional.linear(x_I, weight_OI, bias_O)


def linear_transposed(y_O: Tensor, weight_OI: Tensor) -> Tensor:
    """Return ``y W``: the gradient of ``linear``'s input, given its output's."""
    return linear(y_O, weight_OI.t()) if _onednn_takes(y_O, weight_OI) else y_O @ weight_OI


def take_kernel(model: nn.Module) -> None:
    """Let the linear layers of a model that is never trained compute themselves by :func:`linear`."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.forward = partial(_forward, layer)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, input: Tensor) -> Tensor:
    return linear(input, layer.weight, layer.bias)


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
