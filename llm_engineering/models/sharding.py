"""Weights that are shared out among processes, and made whole again."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def whole(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a weight as one tensor, detached; all processes that share it have to ask for it together."""
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        found: torch.Tensor = tensor.full_tensor()
        return found.detach()
    if hasattr(tensor, "ds_id"):
        return _gathered_by_deepspeed(tensor)
    return tensor.detach()


def local(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return what this process has of a weight."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def size_of(parameter: "torch.Tensor") -> int:
    """Return how many numbers a whole weight has."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _gathered_by_deepspeed(parameter: "torch.Tensor") -> "torch.Tensor":
    import deepspeed  # an extra

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()
