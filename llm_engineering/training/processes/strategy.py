"""What transformers is told of a strategy, and the proof that it is the one that runs.

accelerate falls back in silence, from FSDP to DDP on a CPU for example: what was made is looked at before every
training.
"""

from typing import Any

from llm_engineering.config.hardware import HardwareConfig, TorchrunHardware
from llm_engineering.errors import ProofError

FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
    "cpu_ram_efficient_loading": False,
}
"""FSDP2: each decoder layer is a unit, whose weights are whole only while it computes."""


def strategy_arguments(hardware: HardwareConfig) -> dict[str, Any]:
    """Return the arguments of TRL's trainers that make a strategy."""
    if not isinstance(hardware, TorchrunHardware):
        return {}
    if hardware.strategy == "ddp":
        return {"ddp_find_unused_parameters": False}  # to look for some costs a pass over the graph
    if hardware.strategy == "fsdp":
        return {"fsdp": True, "fsdp_config": dict(FSDP)}
    return {"deepspeed": deepspeed_settings(3 if hardware.strategy == "deepspeed_zero3" else 2)}


def deepspeed_settings(stage: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a ZeRO stage; ``auto`` is what the trainer's arguments say."""
    zero = {"stage": stage, **({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {})}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # the configuration's own optimizer, not one of DeepSpeed's
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }


def prove_strategy(trainer: Any, model: Any, hardware: HardwareConfig) -> None:
    """Check that a training is shared out as it is configured.

    Args:
        trainer: Ready to make its first update.
        model: What it will train.
        hardware: What is configured.

    Raises:
        ProofError: Another number of processes runs, or another strategy.
    """
    wanted = (hardware.processes, hardware.strategy or "none")
    found = (int(trainer.accelerator.num_processes), strategy_of(trainer.accelerator, model))
    if found != wanted:
        raise ProofError(
            f"hardware asks for {_words(wanted)}, and {_words(found)} would train. Check that this machine and the "
            "installed accelerate can do what is asked, or change hardware."
        )


def strategy_of(accelerator: Any, model: Any) -> str:
    """Return the strategy that wraps a model, by the wrapper itself as well as by accelerate's word for it."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    kind = accelerator.distributed_type.value
    if kind == "FSDP" and isinstance(model, FSDPModule):
        return "fsdp"
    if kind == "DEEPSPEED":
        return f"deepspeed_zero{model.zero_optimization_stage()}"
    if isinstance(model, DistributedDataParallel):
        return "ddp"
    return "none"


def _words(asked: tuple[int, str]) -> str:
    processes, strategy = asked
    return f"{processes} process{'es' if processes > 1 else ''} with the strategy {strategy}"
