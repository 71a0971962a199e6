"""Memory, threads and disks."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_engineering.checkup.finding import Finding, Level

GIB = 2**30
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def examine_memory() -> Iterator[Finding]:
    """Look at the memory that is there, and at what of it is free."""
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    limit = container_limit(CONTAINER_LIMITS)
    yield judge_memory(min(memory.total, limit or memory.total), min(memory.available, limit or memory.available))


def container_limit(files: tuple[Path, ...]) -> int | None:
    """Return what a container may use, in bytes, where it is limited."""
    for path in files:
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else "max"
        if text.isdigit():
            return int(text)
    return None


def judge_memory(total: int, available: int) -> Finding:
    """Say whether memory will do; bytes."""
    text = f"{available / GIB:.1f} GiB available of {total / GIB:.1f} GiB"
    level = _level(available, problem=GIB, note=4 * GIB)
    remedy = "End other programs; `--rehearse` says what your configuration needs." if level != "ok" else ""
    return Finding("memory", level, text, remedy)


def examine_threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at how many CPU threads a process may use, and whether it is told to use fewer."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = environment.get("OMP_NUM_THREADS", "")
    text = f"{there} CPU thread{'' if there == 1 else 's'}"
    if told.isdigit() and int(told) < there:
        remedy = "Unset OMP_NUM_THREADS, if that is not meant."
        yield Finding("threads", "note", f"{text}, of which OMP_NUM_THREADS={told} lets torch use {told}", remedy)
    else:
        yield Finding("threads", "ok", text)


def examine_disk(name: str, folder: Path) -> Iterator[Finding]:
    """Look at the room in a folder, or where it would be made."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    if not os.access(there, os.W_OK):
        yield Finding(name, "problem", f"{folder} cannot be written", "Mend its permissions, or name another folder.")
        return
    yield judge_disk(name, folder, shutil.disk_usage(there).free)


def judge_disk(name: str, folder: Path, free: int) -> Finding:
    """Say whether a disk will do; bytes."""
    level = _level(free, problem=GIB, note=10 * GIB)
    remedy = "Free some: a merged model takes as much as its base, twice a run." if level != "ok" else ""
    return Finding(name, level, f"{free / GIB:.1f} GiB free in {folder}", remedy)


def _level(value: int, *, problem: int, note: int) -> Level:
    return "problem" if value < problem else "note" if value < note else "ok"
