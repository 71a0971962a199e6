"""Torch, the GPU, its precisions, and the kernels that speed it up."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llm_engineering.checkup.finding import Finding
from llm_engineering.checkup.machine import GIB

ROOT = Path(__file__).parents[2]
SECONDS = 180.0
AMPERE = (8, 0)
"""The first compute capability with TF32."""
START_UNSLOTH = "from llm_engineering.models.backends import unsloth; unsloth.start()"


def examine_compute() -> Iterator[Finding]:
    """Ask torch in a process of its own."""
    done = _python("-m", "llm_engineering.checkup.probe")
    if done.returncode != 0:
        remedy = "Run `make install`, which installs the pinned torch, and use .venv/bin/python."
        yield Finding("torch", "problem", f"does not start: {last_line(done)}", remedy)
        return
    found = json.loads(done.stdout)
    yield from judge_compute(found, has_driver=shutil.which("nvidia-smi") is not None)
    if "unsloth" in found["packages"]:
        yield judge_unsloth(_python("-c", START_UNSLOTH))


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    try:
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {SECONDS:.0f} s")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a process said last before it failed."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it ended with exit code {done.returncode}"


def judge_compute(found: dict[str, Any], *, has_driver: bool) -> Iterator[Finding]:
    """Say what the answers of the probe mean.

    Args:
        found: From :func:`~llm_engineering.checkup.probe.probe`.
        has_driver: An NVIDIA driver is installed.
    """
    build = f"for CUDA {found['cuda']}" if found["cuda"] else "for the CPU alone"
    yield Finding("torch", "ok", f"{found['torch']}, built {build}")
    if not found["gpus"]:
        yield _no_gpu(found["cuda"], has_driver)
    for gpu in found["gpus"]:
        yield from _gpu(gpu)
    yield from _kernels(found["packages"], on_gpu=bool(found["gpus"]))


def _no_gpu(cuda: str | None, has_driver: bool) -> Finding:
    if has_driver and not cuda:
        remedy = "Install torch from PyPI, or from PyTorch's index for your CUDA version."
        return Finding("GPU", "problem", "there is an NVIDIA driver, but torch is built for the CPU alone", remedy)
    if has_driver:
        remedy = "Run nvidia-smi: the driver may be too old for this torch, or the GPU be taken from this process."
        return Finding("GPU", "problem", "there is an NVIDIA driver, but torch finds no GPU", remedy)
    text = "none: training runs on the CPU, in float32 or bfloat16"
    return Finding("GPU", "note", text, "Use a machine with an NVIDIA GPU for models beyond some 100M parameters.")


def _gpu(gpu: dict[str, Any]) -> Iterator[Finding]:
    text = f"{gpu['name']}, {gpu['free'] / GIB:.1f} GiB free of {gpu['total'] / GIB:.1f} GiB"
    if gpu["free"] < gpu["total"] / 2:
        yield Finding("GPU", "note", text, "Another process holds the rest: see nvidia-smi.")
    else:
        yield Finding("GPU", "ok", text)
    has = {"bf16": gpu["bf16"], "fp16": True, "tf32": tuple(gpu["capability"]) >= AMPERE}
    lacks = [name for name, there in has.items() if not there]
    listed = ", ".join(name for name, there in has.items() if there)
    if lacks:
        text = f"{listed}; no {', no '.join(lacks)}"
        yield Finding("precision", "note", text, "Leave model.dtype at auto, which then is float16.")
    else:
        yield Finding("precision", "ok", listed)


def _kernels(packages: list[str], *, on_gpu: bool) -> Iterator[Finding]:
    """Say what of the optional packages is there: none is needed, and on a CPU none but Unsloth is of use."""
    where = "" if on_gpu else "; of use with a CUDA GPU alone"
    purposes = {
        "flash_attn": ("flash-attn", "model.attention flash_attention_2", "Install flash-attn; sdpa works without it."),
        "bitsandbytes": ("bitsandbytes", "QLoRA and 8-bit optimizers", "pip install '.[cuda]'."),
        "liger_kernel": ("liger-kernel", "sft.liger_kernel and dpo.liger_kernel", "pip install liger-kernel."),
    }
    for module, (name, purpose, remedy) in purposes.items():
        if module in packages:
            yield Finding(name, "ok", f"{_version(name)}, for {purpose}{where}")
        elif on_gpu:
            yield Finding(name, "note", f"not installed; it is for {purpose}", remedy)
        else:
            yield Finding(name, "ok", f"not installed, and not needed: it is for {purpose} on a CUDA GPU")
    if "unsloth" not in packages:
        text = "not installed; it is for model.backend {type: unsloth}"
        yield Finding("unsloth", "note" if on_gpu else "ok", text, "pip install '.[unsloth]'." if on_gpu else "")


def judge_unsloth(started: subprocess.CompletedProcess[str]) -> Finding:
    """Say whether Unsloth starts."""
    if started.returncode == 0:
        return Finding("unsloth", "ok", f"{_version('unsloth')}, and it starts")
    text = f"{_version('unsloth')}, but it does not start: {last_line(started).rpartition('Error: ')[2]}"
    return Finding("unsloth", "note", text, "Leave model.backend at {type: peft}, or use a machine that it supports.")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
