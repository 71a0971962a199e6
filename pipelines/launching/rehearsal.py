"""Rehearse a run: its own configuration, data and tokenizer on a tiny random model, and an estimate of the real run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.config.model import QloraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.data.sources import count_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_description
from llm_engineering.models.hardware import count_devices, describe_hardware, matmul_speed, pick_device, pick_dtype
from llm_engineering.planning.estimate import GPU_SPEED, Estimate, Machine, estimate, rows_of
from llm_engineering.planning.rehearsal import rehearsal_of
from llm_engineering.planning.shape import read_shape
from llm_engineering.planning.tiny import write_tiny_model
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.folders import Checkpoint, RowKind
from pipelines.launching.packing import find_artifacts
from pipelines.launching.preflight import Asked, Job, go_through, intent_of_job
from pipelines.launching.prepare import Launch, find_version_model, prepare
from pipelines.stacks.target import Target
from steps.runtime.fetching import described
from steps.runtime.stores import load_artifacts

LONG = 3600.0
"""Seconds from which on a training on this CPU is estimated on a GPU as well."""


@dataclass(frozen=True)
class Prepared:
    """A rehearsal that is ready to be launched."""

    launch: Launch
    real: RunConfig
    description: Path
    """Folder with the real base's configuration and tokenizer."""
    changes: tuple[str, ...]
    """How the rehearsal differs from the real run, a sentence each."""
    warnings: tuple[str, ...]
    """About the real run."""
    extent: dict[RowKind, float]
    """How many times as many rows of a kind the real run has; 0: nobody knows."""
    unknown: tuple[str, ...]
    """Sources whose size is not known."""


def prepare_rehearsal(job: Job, config: RunConfig, target: Target | None = None) -> Prepared:
    """Make the tiny model, and the configuration that trains it; no weights of the base are read or fetched.

    The real run is held against all that is asked before a run, but what only its machines know. Its rows are asked for
    by the rehearsal's own step, which is given the real run's intent.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    real = Asked(job, config, target=target)
    warnings = go_through(real, "configuration", real=False)
    folder = _description(config)
    base = Checkpoint(path=folder, sha256="", kind="model", weights_sha256="", base=config.model.base, base_sha256="")
    chat = load_chat_tokenizer(base, config.model)
    warnings += go_through(replace(real, base=base, chat=chat), "base", real=False)
    root = Path(get_global_config_directory()) / "llm-engineering-rehearsal"
    tiny = write_tiny_model(folder, root, config.seed, chat.tokenizer.eos_token_id)
    rehearsal = rehearsal_of(config, str(tiny), tiny.name, count_devices()[0])
    launch = prepare(job, rehearsal.config, target)
    extent, unknown = _extent(config, rehearsal.config)
    intent = intent_of_job(job, config)
    assert intent is not None
    known = extent | ({"preference": _larger(extent)} if config.data.sampling else {})
    given = {**launch.arguments, "intent": intent.model_copy(update={"extent": known})}
    return Prepared(
        replace(launch, arguments=given), config, folder, rehearsal.changes, tuple(warnings), extent, tuple(unknown)
    )


def _extent(real: RunConfig, small: RunConfig) -> tuple[dict[RowKind, float], list[str]]:
    """Return how many times as many rows of each kind the real run reads, 0 where nobody knows; and what is unknown."""
    artifacts = load_artifacts(find_artifacts(real.data))
    there: Counter[RowKind] = Counter()
    read: Counter[RowKind] = Counter()
    unknown: dict[str, RowKind] = {}
    sources = zip(real.data.row_sources, small.data.row_sources, real.data.source_names, strict=True)
    for (kind, source), (_, limited), name in sources:
        if limited.first == source.first and source.first is None:  # never cut
            continue
        rows = count_rows(source, real.seed, artifacts.get(source.name))
        if rows is None:
            unknown[name] = kind
        there[kind] += rows or 0
        read[kind] += min(rows or 0, limited.first or 0)
    extent = {kind: there[kind] / max(read[kind], 1) for kind in there}
    return extent | dict.fromkeys(unknown.values(), 0.0), list(unknown)


def _larger(extent: dict[RowKind, float]) -> float:
    """Return the extent of pairs where some are sampled from the prompts of SFT's rows."""
    return 0.0 if 0 in extent.values() else max(extent.values(), default=1.0)


def _description(config: RunConfig) -> Path:
    version = find_version_model(config)
    return described(version).path if version else locate_description(config.model)


def estimates(
    config: RunConfig,
    folder: Path,
    report: DatasetReport,
    job: Job,
    share: Mapping[RowKind, float] | None = None,
    *,
    elsewhere: bool = False,
) -> list[Estimate]:
    """Return the estimate for this machine and, where it would take long on a CPU or needs one, for a GPU.

    Args:
        config: The run's.
        folder: Has the base's config.json.
        report: Of the prepared data.
        job: What is run; a stage that it does not have is left out.
        share: Which part of the rows of each kind the report is of.
        elsewhere: It is trained on a GPU that is not here: nothing is estimated for this machine.
    """
    shape = read_shape(folder)
    rows = {stage: own for stage, own in rows_of(report, config, share).items() if job in ("training", stage)}
    needs_gpu = (
        isinstance(config.adapter, QloraAdapter)
        or config.model.dtype in ("float16", "tf32")
        or config.hardware.sharding != "none"
    )
    gpu = Machine("an assumed GPU", on_gpu=True, speed=GPU_SPEED, measured=False)
    if elsewhere or (pick_device().type == "cpu" and needs_gpu):
        return [estimate(config, shape, rows, gpu)]
    dtype = pick_dtype(config.model.dtype)
    here = Machine(describe_hardware(), pick_device().type == "cuda", matmul_speed(dtype), measured=True)
    found = [estimate(config, shape, rows, here)]
    if not here.on_gpu and any(stage.seconds.high > LONG for stage in found[0].stages.values()):
        found.append(estimate(config, shape, rows, gpu))
    return found


def estimate_rehearsed(prepared: Prepared, report: DatasetReport) -> list[Estimate]:
    """Return estimates of the real run.

    The rows that were rehearsed say how long rows are and how many are kept; how many there are, is counted.
    """
    share = {kind: 1 / extent if extent else 1.0 for kind, extent in prepared.extent.items()}
    return estimates(prepared.real, prepared.description, report, prepared.launch.job, share)
