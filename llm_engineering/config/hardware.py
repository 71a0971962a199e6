"""In how many processes is trained."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.config.block import Block


class LocalHardware(Block):
    """Training in the process that runs the step, on its GPU, or on the CPU."""

    type: Literal["local"] = "local"

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return 1

    @property
    def strategy(self) -> None:
        """There is nothing to share with other processes."""
        return None

    @property
    def sharding(self) -> str:
        """How checkpoints are cut."""
        return "none"


Strategy = Literal["ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"]


class TorchrunHardware(Block):
    """Training in several processes of one machine, each with a GPU of its own; docs/many_gpus.md describes them."""

    type: Literal["torchrun"] = "torchrun"
    processes: Annotated[int, Field(ge=2, le=1024)]
    """How many: one for each GPU that is to be used. Batch sizes must be multiples of it."""
    strategy: Strategy = "ddp"
    """``ddp``: each process holds the whole model; ``fsdp`` (FSDP2) and ``deepspeed_zero3``: a part of everything.

    ``deepspeed_zero2``: the whole model, and a part of the gradients and of the optimizer's state.
    """

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only a part of what it trains."""
        return self.strategy != "ddp"

    @property
    def sharding(self) -> str:
        """How checkpoints are cut: those of ``ddp`` are whole, as those of one process are."""
        return self.strategy if self.is_sharded else "none"


HardwareConfig = Annotated[LocalHardware | TorchrunHardware, Field(discriminator="type")]
SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "rmsprop")
"""Optimizers whose step on a part of a weight is a part of the step on the whole."""
