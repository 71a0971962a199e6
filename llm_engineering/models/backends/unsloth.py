"""Models as Unsloth loads and patches them; the only module that imports it.

Unsloth has to be imported before transformers, TRL and PEFT, which it patches. On a GPU it replaces the forward passes
of models; on a CPU (from 2026.10.9 on) it wraps that of the whole model alone, and changes some arguments of trainers.
``training/arguments.py`` refuses a training whose arguments did not stay as asked.
"""

import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models.auto_classes import require_no_own_code
from llm_engineering.models.checkpoints import max_positions, saved_tensors, weights_as_saved

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel

_log = logging.getLogger(__name__)
PATCHED = ("transformers", "trl", "peft")
"""What Unsloth changes when it is imported, and must therefore precede."""
OTHERWISE = "or set model.backend to {type: peft}"


def start() -> None:
    """Import Unsloth, silent and off the network; does nothing where it is imported already.

    Raises:
        ConfigError: It is not installed, does not run on this machine, or what it patches is imported already.
    """
    if "unsloth" in sys.modules:
        return
    if find_spec("unsloth") is None:
        raise ConfigError(
            f"model.backend unsloth needs Unsloth, which is not installed: pip install '.[unsloth]', {OTHERWISE}."
        )
    early = [name for name in PATCHED if name in sys.modules]
    if early:
        raise ConfigError(
            f"model.backend unsloth comes too late: {', '.join(early)} was imported before it. Start it first, as "
            f"tools/run.py does, {OTHERWISE}."
        )
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # else it reports to its makers on every load
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(_cache_folder()))  # else the working directory
    _keep_trls_trainers()
    try:
        with _quiet():
            importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(
            f"model.backend unsloth does not run here: Unsloth {version('unsloth')} says {_first_line(error)!r}. Use a "
            f"machine that it supports, {OTHERWISE}."
        ) from error


def _keep_trls_trainers() -> None:
    """Let Unsloth leave TRL's trainers alone on a GPU.

    It rewrites their source: they attach no adapter then, and have defaults of their own. This switch, made for its
    tests, does nothing else where there is a GPU (where there is none, it would make Unsloth believe in one).
    """
    import torch

    if torch.cuda.is_available():
        os.environ.setdefault("UNSLOTH_ALLOW_CPU", "1")


def _require_trls_trainers() -> None:
    """Refuse trainers that Unsloth has rewritten: it was imported by somebody else, without the switch.

    Raises:
        ConfigError: They are.
    """
    import trl

    for name in ("SFTConfig", "SFTTrainer", "DPOConfig", "DPOTrainer"):
        if not getattr(trl, name).__module__.startswith("trl."):
            raise ConfigError(
                f"Unsloth has replaced trl.{name}, and its trainers attach no adapter. Set UNSLOTH_ALLOW_CPU=1 in the "
                f"environment before unsloth is imported, {OTHERWISE}."
            )


def _cache_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "llm-engineering" / "unsloth"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Unsloth prints for the log."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in filter(None, printed.getvalue().splitlines()):
            _log.debug("%s", line)


def load(
    folder: Path,
    dtype: "torch.dtype",
    *,
    attention: str = "auto",
    quantization: "BitsAndBytesConfig | None" = None,
    in_main_memory: bool = False,
) -> "PreTrainedModel":
    """Return the causal language model in a folder, patched by Unsloth, with the weights of the folder.

    It is never to stay in main memory: the configuration refuses to share it out among processes.

    Raises:
        ConfigError: Unsloth cannot be used, or has rewritten TRL's trainers.
        ModelError: The folder holds something else, not all of the weights, or others than Unsloth has loaded.
    """
    assert not in_main_memory
    start()
    _require_trls_trainers()
    require_no_own_code(folder, str(folder))
    import unsloth

    try:
        with _quiet():
            model, _ = unsloth.FastLanguageModel.from_pretrained(
                str(folder),
                max_seq_length=max_positions(folder),
                dtype=dtype,
                load_in_4bit=quantization is not None and quantization.load_in_4bit,
                load_in_8bit=quantization is not None and quantization.load_in_8bit,
                **({} if attention == "auto" else {"attn_implementation": attention}),
                use_gradient_checkpointing=False,  # the trainer's argument, as with every backend
                use_exact_model_name=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"{folder} is no causal language model that Unsloth can load: {error}") from error
    loaded: PreTrainedModel = model
    if quantization and getattr(loaded, "hf_quantizer", None) is None:
        raise ConfigError(f"Unsloth does not keep the weights of {folder} in few bits here. Use adapter.type lora.")
    _require_saved_weights(loaded, folder)
    return loaded


def _require_saved_weights(model: "PreTrainedModel", folder: Path) -> None:
    """Refuse a model whose weights are not those of its folder, in the model's precision; quantised ones must be there.

    Unsloth's loader does not say which weights were missing, and it mends some, such as those of untrained tokens.

    Raises:
        ModelError: A weight is missing or differs.
    """
    import torch

    wanted = weights_as_saved(model)
    for name, saved in saved_tensors(folder):
        weight = wanted.pop(name, None)
        if weight is not None and weight.is_floating_point() and not torch.equal(saved.to(weight.dtype), weight.cpu()):
            raise ModelError(f"Unsloth changed the weight {name} of {folder} while it loaded it. Use {{type: peft}}.")
    if wanted:
        raise ModelError(
            f"{folder} lacks {len(wanted)} of the model's weights, {min(wanted)} among them; they would be random. "
            "Name the folder of a complete causal language model."
        )


def speed_up(model: "PeftModel", *, gradient_checkpointing: bool) -> None:
    """Let adapted layers run in Unsloth's kernels on a GPU; on a CPU it has none."""
    import unsloth

    if unsloth.DEVICE_TYPE != "cpu":
        checkpointing = "unsloth" if gradient_checkpointing else False
        unsloth.FastLanguageModel.patch_peft_model(model, use_gradient_checkpointing=checkpointing)
