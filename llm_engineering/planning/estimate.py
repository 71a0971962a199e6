"""What a training will need: memory and time, from the model's shape, the rows and the configuration.

These are sums of what is known before anything runs, not measurements: :data:`LEFT_OUT` says what they lack, and every
total is a range. N are parameters, T tokens, V the vocabulary, E the width of the hidden states. Where several
processes train, memory is that of each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, FullFineTuning, QloraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.planning.shape import ModelShape
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.folders import RowKind, StageName
from llm_engineering.training.arguments import planned_steps
from llm_engineering.training.dpo_arguments import stores_reference
from llm_engineering.training.losses import uses_reference

MARGIN = 1.25
"""The upper end of a memory range over the sum of its parts: fragments, workspaces of kernels, short-lived tensors."""
GPU_CONTEXT = 0.7e9
"""Bytes that CUDA and its libraries take beside the tensors; in the upper end alone."""
USED_SHARE = (0.2, 0.7)
"""The shares of a plain matrix product's speed between which trainings usually come to lie."""
GPU_SPEED = 100e12
"""FLOP/s of a matrix product on the GPU that is assumed where there is none."""
CHUNK_TOKENS = 256
"""Tokens whose logits are held at once where the loss is computed in chunks."""
NF4_BYTES = 4.127 / 8
"""Bytes of a weight in 4 bits with doubly quantised scales (QLoRA, Dettmers et al. 2023, section 3)."""
OPTIMIZER_BYTES = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "rmsprop": 4, "adafactor": 0, "sgd": 0}
"""Bytes of optimizer state per trained parameter; the others are AdamW's with two numbers in fp32."""
LEFT_OUT = (
    "Left out: loading, generating and evaluating, and what GPUs say to each other, in time; attention's own products."
)
GATHERED_UNITS = 2
"""Decoder layers whose weights are whole at once where they are shared out: one computes, the next is on its way."""


@dataclass(frozen=True)
class Machine:
    """Where a training would run."""

    name: str
    on_gpu: bool
    speed: float
    """FLOP/s of a large matrix product in the precision that is trained in."""
    measured: bool


@dataclass(frozen=True)
class StageRows:
    """What a stage trains on."""

    rows: int
    tokens: float
    """Mean tokens a row; a pair has those of its prompt twice."""
    longest: int
    """Tokens of the longest row; of a pair, its prompt and the longer answer."""
    at_most: bool = False
    """How many rows there will be is only known as an upper bound."""


@dataclass(frozen=True)
class Range:
    """A low and a high end."""

    low: float
    high: float

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class StageEstimate:
    """What one training stage will need."""

    steps: int
    at_most: bool
    """The rows, and with them the steps, are an upper bound."""
    memory: dict[str, float]
    """Bytes by what takes them, in one process."""
    peak: Range
    """Bytes, in one process."""
    flops: float
    seconds: Range


@dataclass(frozen=True)
class Estimate:
    """What a run will need on one machine."""

    machine: Machine
    parameters: int
    trained: int
    stages: dict[StageName, StageEstimate]
    merge: Range
    """Bytes while an adapter is merged, which is done in fp32."""
    evaluation: Range
    """Bytes while models are measured: two of them for the KL, or one and the keys and values of a batch of answers."""
    processes: int
    """How many train together."""
    loading: float
    """Bytes of main memory that all of them take together until the model is shared out; 0: it is loaded in place."""


def weight_bytes(config: RunConfig, on_gpu: bool) -> int:
    """Return the bytes of a weight that is loaded but not trained; ``auto`` is half precision on a GPU."""
    dtype = config.model.dtype
    return 2 if dtype in ("bfloat16", "float16") or (dtype == "auto" and on_gpu) else 4


def trained_parameters(config: RunConfig, shape: ModelShape) -> int:
    """Return how many parameters are trained: of an adapter r (inputs + outputs) a layer, DoRA's magnitudes besides."""
    adapter = config.adapter
    if isinstance(adapter, FullFineTuning):
        return shape.parameters
    targeted = [layer for layer in shape.linear if adapter.targets == "all-linear" or layer.name in adapter.targets]
    magnitudes = sum(layer.count * layer.outputs for layer in targeted) if isinstance(adapter, DoraAdapter) else 0
    return sum(layer.count * adapter.r * (layer.inputs + layer.outputs) for layer in targeted) + magnitudes


def estimate(config: RunConfig, shape: ModelShape, rows: Mapping[StageName, StageRows], machine: Machine) -> Estimate:
    """Return what the stages need that there are rows for.

    Args:
        config: The run's.
        shape: The base's.
        rows: By stage.
        machine: Where it would run.
    """
    settings: dict[StageName, StageConfig] = {"sft": config.sft, "dpo": config.dpo}
    saved = shape.parameters * weight_bytes(config, machine.on_gpu)
    context = GPU_CONTEXT if machine.on_gpu else 0.0
    merge = 4.0 * shape.parameters
    hardware = config.hardware
    loaded = 4 * shape.parameters if isinstance(config.adapter, FullFineTuning) else saved
    in_main_memory = hardware.sharding != "none" and not isinstance(config.adapter, QloraAdapter)
    measured = saved + max(saved, _generation(config, shape, rows, machine.on_gpu))
    return Estimate(
        machine=machine,
        parameters=shape.parameters,
        trained=trained_parameters(config, shape),
        stages={stage: _stage(config, settings[stage], stage, shape, own, machine) for stage, own in rows.items()},
        merge=Range(merge, max(merge, 2 * saved) * MARGIN + context),
        evaluation=Range(measured, measured * MARGIN + context),
        processes=hardware.processes,
        loading=float(hardware.processes * loaded) if in_main_memory else 0.0,
    )


def _stage(
    config: RunConfig, settings: StageConfig, stage: StageName, shape: ModelShape, rows: StageRows, machine: Machine
) -> StageEstimate:
    memory = stage_memory(config, settings, stage, shape, rows, machine.on_gpu)
    total = sum(memory.values())
    flops = stage_flops(config, settings, stage, shape, rows)
    low, high = USED_SHARE
    speed = machine.speed * (config.hardware.processes if machine.on_gpu else 1)  # cores are counted already
    return StageEstimate(
        steps=planned_steps(settings, rows.rows),
        at_most=rows.at_most and settings.max_steps is None,
        memory=memory,
        peak=Range(total, total * MARGIN + (GPU_CONTEXT if machine.on_gpu else 0.0)),
        flops=flops,
        seconds=Range(flops / (speed * high), flops / (speed * low)),
    )


def stage_memory(
    config: RunConfig, settings: StageConfig, stage: StageName, shape: ModelShape, rows: StageRows, on_gpu: bool
) -> dict[str, float]:
    """Return the bytes that one process of a stage holds at once, by what takes them.

    Weights that are trained are in fp32, with their gradients; the frozen ones are in the model's precision. DPO's
    reference is the policy with the adapter off; where all weights are trained, it is a model of its own.

    Of P processes each takes 1/P of a batch's rows. FSDP and ZeRO-3 leave it 1/P of weights, gradients and optimizer
    state, and the layers that compute whole besides; ZeRO-2 1/P of gradients and optimizer state (Rajbhandari et al.
    2020, arXiv:1910.02054, section 5). DDP leaves it all, and a copy of the gradients on their way to the others.
    """
    trained = trained_parameters(config, shape)
    width = weight_bytes(config, on_gpu)
    is_full = isinstance(config.adapter, FullFineTuning)
    hardware = config.hardware
    in_memory = isinstance(settings, DPOStageConfig) and is_full and _holds_reference(settings, rows.rows)
    tokens = settings.batch_size / hardware.processes * rows.longest * (2 if stage == "dpo" else 1)
    of_weights = 1 / hardware.processes if hardware.strategy in ("fsdp", "deepspeed_zero3") else 1.0
    of_state = 1 / hardware.processes if hardware.sharding != "none" else 1.0
    in_chunks = stage == "sft" or (not is_full and hardware.sharding == "none")  # DPO's fast path shares nothing out
    return {
        "weights": of_weights * (4.0 * shape.parameters if is_full else _frozen_bytes(config, shape, width)),
        "adapter": of_weights * (0.0 if is_full else 4.0 * trained),
        "gradients": of_state * 4.0 * trained,
        "optimizer": of_state * float(OPTIMIZER_BYTES.get(settings.optimizer, 8) * trained),
        "activations": tokens * _activation_bytes(shape, settings.gradient_checkpointing, width),
        "logits": _logit_bytes(settings, stage, shape, tokens, in_chunks=in_chunks),
        "reference": of_weights * 4.0 * shape.parameters if in_memory else 0.0,
        **({"gradients on their way": 4.0 * trained} if hardware.strategy == "ddp" else {}),
        **({"gathered layers": _gathered_bytes(shape, width)} if of_weights < 1 else {}),
    }


def _gathered_bytes(shape: ModelShape, width: int) -> float:
    """Return the bytes of weights that are whole at once where they are shared out; embeddings and head are, too."""
    layer = shape.linear_parameters / shape.layers
    return (GATHERED_UNITS * layer + (1 if shape.tied else 2) * shape.vocabulary * shape.hidden) * width


def _frozen_bytes(config: RunConfig, shape: ModelShape, width: int) -> float:
    """Return the bytes of frozen weights; quantisation is for the linear layers, without the head."""
    if not isinstance(config.adapter, QloraAdapter):
        return float(shape.parameters * width)
    each = 1.0 if config.adapter.bits == 8 else NF4_BYTES
    return shape.linear_parameters * each + (shape.parameters - shape.linear_parameters) * width


def _activation_bytes(shape: ModelShape, checkpointing: bool, width: int) -> float:
    """Return the bytes that a token's activations take until the backward pass.

    A layer keeps what its linear layers and the operations between them put out (twice the linear outputs), and five
    times the width of the hidden states for norms and residuals. With checkpointing a layer keeps its input, and one
    layer at a time is computed anew.
    """
    outputs = sum(layer.count * layer.outputs for layer in shape.linear) / shape.layers
    layer = 2 * outputs + 5 * shape.hidden
    kept = shape.layers * shape.hidden + layer if checkpointing else shape.layers * layer
    return float(kept * width)


def _logit_bytes(settings: StageConfig, stage: StageName, shape: ModelShape, tokens: float, in_chunks: bool) -> float:
    """Return the bytes of logits and their gradients in fp32: of a chunk, or of all tokens on TRL's own path of DPO."""
    held = min(tokens, CHUNK_TOKENS) if in_chunks and (stage == "sft" or settings.fast_path == "auto") else tokens
    return 2 * 4.0 * held * shape.vocabulary


def _generation(config: RunConfig, shape: ModelShape, rows: Mapping[StageName, StageRows], on_gpu: bool) -> float:
    """Return the bytes of the keys and values of one batch of generated answers."""
    longest = max((own.longest for own in rows.values()), default=0) + config.evaluation.max_new_tokens
    each = 2 * shape.layers * shape.key_value_width * weight_bytes(config, on_gpu)
    return float(config.evaluation.batch_size * longest * each)


def stage_flops(
    config: RunConfig, settings: StageConfig, stage: StageName, shape: ModelShape, rows: StageRows
) -> float:
    """Return the floating-point operations of a stage's matrix products.

    A token costs 2 N forward, 2 N backward to the activations, and 2 N more for the gradients of weights that are
    trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), so that frozen weights cost a third less. Checkpointing
    computes the forward pass again. DPO's reference adds a forward pass, once a row where rows are seen repeatedly.
    """
    trained, multiplied = trained_parameters(config, shape), shape.multiplied
    is_full = trained == shape.parameters
    per_token = 6.0 * multiplied if is_full else 4.0 * multiplied + 6.0 * trained
    if settings.gradient_checkpointing:
        per_token += 2 * multiplied
    seen = planned_steps(settings, rows.rows) * settings.batch_size * settings.accumulation
    referenced = _referenced(settings, seen, rows.rows) if isinstance(settings, DPOStageConfig) else 0
    return rows.tokens * (seen * per_token + referenced * 2 * multiplied)


def _holds_reference(settings: DPOStageConfig, rows: int) -> bool:
    """Return whether a copy of the model stays in memory as the reference, where all weights are trained."""
    return uses_reference(settings) and not stores_reference(settings, rows)


def _referenced(settings: DPOStageConfig, seen: int, rows: int) -> int:
    """Return how many rows the reference scores: each once where its scores are stored, none where it is left out."""
    if not uses_reference(settings):
        return 0
    return rows if stores_reference(settings, rows) else seen


def rows_of(
    report: DatasetReport, config: RunConfig, share: Mapping[RowKind, float] | None = None
) -> dict[StageName, StageRows]:
    """Return what each stage trains on, by the report of prepared data; a stage without rows is left out.

    Pairs that are sampled from the SFT model are not there yet: they are taken to be as many as pairing allows, and
    twice as long as SFT's rows.

    Args:
        report: Of all rows, or of a part of them.
        config: The run's.
        share: Which part of the rows of each kind the report is of; all, if it is not named.
    """
    kinds: dict[StageName, RowKind] = {"sft": "sft", "dpo": "preference"}
    found: dict[StageName, StageRows] = {}
    for stage, kind in kinds.items():
        name = f"{kind}/train"
        if name in report.lengths:
            examples = sum(report.lengths[name].counts)
            rows = round(examples / (share or {}).get(kind, 1.0))
            counts = [source.count for own, source in config.data.row_sources if own == kind]
            rows = min([rows, sum(filter(None, counts))]) if counts and all(counts) else rows
            found[stage] = StageRows(rows, report.tokens[name] / examples, report.longest[name])
    sampling = config.data.sampling
    if sampling is not None and "sft" in found:
        own, given = found["sft"], found["dpo"].rows if "dpo" in found else 0
        found["dpo"] = StageRows(sampling.most_pairs(own.rows) + given, 2 * own.tokens, own.longest, at_most=True)
    return found
