"""Comet's offline archives: read, told from dead ones, and swept of what killed processes left."""

import json
import logging
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_engineering.errors import StoreError

_LOGGER = logging.getLogger(__name__)

HEAD, MESSAGES = "experiment.json", "messages.json"
_RECORD = ".unfinished"

Scalar = str | int | float | bool


@dataclass(frozen=True)
class ArchivedExperiment:
    """One experiment, as an offline archive holds it."""

    key: str
    name: str
    tags: tuple[str, ...]
    parameters: dict[str, Scalar]
    metrics: dict[str, list[tuple[int | None, float]]]
    """Series of ``(step, value)`` by name, in the order in which they were logged; a step is None where none was given.

    Comet's own measurements of the machine are among them, under names that begin with ``sys.``.
    """
    others: dict[str, Scalar]
    assets: tuple[str, ...]
    """Names of the files that the archive holds, those of models included."""


def is_complete(path: Path) -> bool:
    """Return whether an archive was written to its end; a killed process leaves a zip without entries."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {HEAD, MESSAGES} <= set(archive.namelist())


def first_complete(archives: Iterable[Path]) -> Path | None:
    """Return the first archive that was written to its end."""
    return next((path for path in archives if is_complete(path)), None)


def read_archive(path: Path) -> ArchivedExperiment:
    """Return what an offline archive of Comet holds.

    Raises:
        StoreError: There is no such file, or it is no archive that was written to its end.
    """
    if not path.is_file():
        raise StoreError(f"There is no Comet archive {path}. The report of a run names those that it left.")
    if not is_complete(path):
        raise StoreError(
            f"{path} is no complete Comet archive: its process was killed, or it is another kind of file. Run again; "
            "the training goes on from its last checkpoint and logs all of it into a new archive."
        )
    with zipfile.ZipFile(path) as archive:
        head = json.loads(archive.read(HEAD))
        messages = [json.loads(line) for line in archive.read(MESSAGES).splitlines()]
    return _experiment(head, messages)


def _experiment(head: dict[str, Any], messages: list[dict[str, Any]]) -> ArchivedExperiment:
    parameters: dict[str, Scalar] = {}
    metrics: dict[str, list[tuple[int | None, float]]] = {}
    others: dict[str, Scalar] = {}
    assets = []
    for message in messages:
        payload = message["payload"]
        match message["type"]:
            case "parameter_msg":
                parameters[payload["param"]["paramName"]] = payload["param"]["paramValue"]
            case "metric_msg":
                metric = payload["metric"]
                # Comet's own numbers are numbers; NaN and infinity are text, since JSON has none.
                value = float(metric["metricValue"])
                metrics.setdefault(metric["metricName"], []).append((metric.get("step"), value))
            case "log_other":
                others[payload["key"]] = payload["value"]
            case "file_upload":
                assets.append(payload["additional_params"]["fileName"])
    name, key = str(others.pop("Name", "")), str(head["offline_id"])
    return ArchivedExperiment(key, name, tuple(head["tags"]), parameters, metrics, others, tuple(assets))


def last_values(experiment: ArchivedExperiment) -> dict[str, float]:
    """Return the last number of every series; one that ends without a number (NaN) is left out."""
    ends = {name: series[-1][1] for name, series in experiment.metrics.items()}
    return {name: value for name, value in ends.items() if not math.isnan(value)}


class Record:
    """Names an experiment while it is open, so that what a kill leaves of it is found; its lock tells the dead."""

    def __init__(self, archive_dir: Path, key: str, name: str, temporary: str) -> None:
        """Write the record of the experiment ``key``, whose unarchived files Comet keeps in ``temporary``."""
        self._path = archive_dir / f"{key}{_RECORD}"
        self._lock = _lock_of(self._path)
        self._lock.acquire()
        self._path.write_text(json.dumps({"name": name, "temporary": temporary}), encoding="utf-8")

    def close(self) -> None:
        """Remove the record: the experiment has ended."""
        self._path.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _lock_of(record: Path) -> FileLock:
    return FileLock(record.with_suffix(".lock"))


def sweep_dead(archive_dir: Path) -> list[str]:
    """Remove what killed processes left of their experiments, and return the experiments' names.

    Nothing is lost by it: a training that is taken up logs again what its checkpoint knows.
    """
    dead = []
    for record in sorted(archive_dir.glob(f"*{_RECORD}")):
        lock = _lock_of(record)
        try:
            with lock.acquire(timeout=0):
                dead.append(_remove(record, archive_dir))
        except Timeout:
            continue
        Path(lock.lock_file).unlink(missing_ok=True)
    return dead


def _remove(record: Path, archive_dir: Path) -> str:
    """Remove a record, its dead archive and Comet's temporary files; return the experiment's name."""
    try:
        left = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:  # the kill came while it was written
        left = {"name": record.stem, "temporary": ""}
    temporary = Path(left["temporary"])
    if temporary.parent == Path(tempfile.gettempdir()) and (temporary / MESSAGES).is_file():
        shutil.rmtree(temporary, ignore_errors=True)
    for archive in archive_dir.glob(f"{record.stem}*.zip"):
        if not is_complete(archive):
            archive.unlink()
    record.unlink()
    _LOGGER.info("Comet: what a killed process left of the experiment %s is removed.", left["name"])
    return str(left["name"])
