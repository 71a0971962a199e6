"""Too little memory: said in a sentence that names a remedy, and found out before an hour is spent."""

from collections.abc import Iterator
from contextlib import contextmanager

from llm_engineering.config.model import AdapterConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import TrainingError
from llm_engineering.reports.folders import StageName

OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "std::bad_alloc", "ALLOC_FAILED")
"""What RuntimeErrors of PyTorch and CUDA's libraries say."""
WORTH_TRYING = 100
"""Batches of a training on a CPU from which on one batch more is no cost: it takes about a hundredth at most."""


@contextmanager
def enough_memory(
    stage: StageName, config: StageConfig, adapter: AdapterConfig, longest: int, processes: int = 1
) -> Iterator[None]:
    """Say in a sentence that memory ran out, and by what to change what.

    A process that the operating system kills for its memory says nothing; it goes on from its last checkpoint.

    Args:
        stage: Which stage trains.
        config: Its configuration.
        adapter: What is trained.
        longest: Tokens of the longest row, or pair.
        processes: How many share a batch.

    Raises:
        TrainingError: No memory was left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(_sentence(stage, config, adapter, longest, processes)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the GPU or on the CPU."""
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    return told or isinstance(error, MemoryError)


def _sentence(stage: StageName, config: StageConfig, adapter: AdapterConfig, longest: int, processes: int) -> str:
    import torch

    rows = ("row" if stage == "sft" else "pair") + ("" if config.batch_size == 1 else "s")
    others = [f"lower data.max_length (the longest has {longest} tokens)"]
    if torch.cuda.is_available() and adapter.type in ("lora", "dora"):
        others.insert(0, "keep the base in 4 bits (adapter.type: qlora)")
    if not config.gradient_checkpointing:
        others.insert(0, f"set {stage}.gradient_checkpointing to true")
    first = ""
    if config.batch_size // 2 >= processes:
        size = config.batch_size // 2 // processes * processes
        accumulation = -(-config.batch_size * config.accumulation // size)
        first = (
            f"Set {stage}.batch_size to {size} and {stage}.accumulation to {accumulation}, which trains the same; or "
        )
    advice = ", or ".join(others)
    advice = f"{first}{advice}" if first else advice[0].upper() + advice[1:]
    shared = f", shared by {processes} processes" if processes > 1 else ""
    return (
        f"Memory ran out in {stage.upper()}, at {config.batch_size} {rows} of up to {longest} tokens{shared}. {advice}."
    )


def worth_trying(batches: int, device: str) -> bool:
    """Return whether a training is so long that one batch more, the largest, is no cost: on a GPU always."""
    return device != "cpu" or batches >= WORTH_TRYING
