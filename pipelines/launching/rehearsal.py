"""Rehearse a run: its own configuration, data and tokenizer on a tiny random model, and an estimate of the real run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
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
from pipelines.launching.preflight import Job, warnings_of
from pipelines.launching.prepare import find_version_model
from steps.runtime.artifact_sources import find_artifacts, load_artifacts
from steps.runtime.fetching import described

LONG = 3600.0
"""Seconds from which on a training on this CPU is estimated on a GPU as well."""


@dataclass(frozen=True)
class Prepared:
    """A rehearsal that is ready to be launched."""

    job: Job
    config: RunConfig
    """The rehearsal's."""
    real: RunConfig
    description: Path
    """Folder with the real base's configuration and tokenizer."""
    changes: tuple[str, ...]
    """How the rehearsal differs from the real run, a sentence each."""
    warnings: tuple[str, ...]
    """About the real run."""


def prepare_rehearsal(job: Job, config: RunConfig) -> Prepared:
    """Make the tiny model, and the configuration that trains it; no weights of the base are read or fetched.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    folder = _description(config)
    stand_in = Checkpoint(
        path=folder, sha256="", kind="model", weights_sha256="", base=config.model.base, base_sha256=""
    )
    chat = load_chat_tokenizer(stand_in, config.model)
    root = Path(get_global_config_directory()) / "llm-engineering-rehearsal"
    tiny = write_tiny_model(folder, root, config.seed, chat.tokenizer.eos_token_id)
    rehearsal = rehearsal_of(config, str(tiny), tiny.name, count_devices()[0])
    return Prepared(job, rehearsal.config, config, folder, rehearsal.changes, warnings_of(job, config, chat))


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


def estimate_rehearsed(prepared: Prepared, report: DatasetReport) -> tuple[list[Estimate], list[str]]:
    """Return estimates of the real run, and the sources whose size is not known.

    The rows that were rehearsed say how long rows are and how many are kept; how many there are, is counted.
    """
    share, unknown = _rehearsed_share(prepared, report)
    return estimates(prepared.real, prepared.description, report, prepared.job, share), unknown


def _rehearsed_share(prepared: Prepared, report: DatasetReport) -> tuple[dict[RowKind, float], list[str]]:
    """Return which part of the rows of each kind was read; sources are counted, not prepared."""
    real, small = (config.data.row_sources for config in (prepared.real, prepared.config))
    artifacts = load_artifacts(find_artifacts(prepared.real.data))
    read: Counter[RowKind] = Counter()
    there: Counter[RowKind] = Counter()
    unknown = []
    for ledger, (kind, source), (_, limited) in zip(report.sources, real, small, strict=True):
        rows: int | None = ledger.rows
        if ledger.rows == limited.first != source.first:
            rows = count_rows(source, prepared.real.seed, artifacts.get(source.name))
            unknown += [] if rows else [ledger.source]
        read[kind] += ledger.rows
        there[kind] += rows or ledger.rows
    return {kind: read[kind] / there[kind] for kind in there}, unknown
