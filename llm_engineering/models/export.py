"""The promoted model in other places and formats, each published only where it is like the merged model."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.config.export import ExportConfig, ExportFormat, HubExport, Likeness
from llm_engineering.errors import ConfigError, ModelError, PipelineError, ProofError, StoreError
from llm_engineering.models.auto_classes import read_model
from llm_engineering.models.checkpoints import hash_weights, load_model, save_model
from llm_engineering.models.hub import push, require_hub
from llm_engineering.models.parity import Predictions, compare, predictions_of
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.promotion import Export, ExportParity

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GGUF_CONVERTER = "convert_hf_to_gguf.py"
"""llama.cpp's script."""
CARD = "README.md"


def require_export(config: ExportConfig) -> None:
    """Refuse before training what could not be exported after it.

    Raises:
        ConfigError: A format needs what is not installed.
        StoreError: A folder or the repository cannot be written.
    """
    for name in config.formats:
        if name in ("int8", "int4") and find_spec("bitsandbytes") is None:
            raise ConfigError(f"export.formats {name} needs bitsandbytes. Install the extra cuda, or leave it out.")
        if name == "gguf" and shutil.which(GGUF_CONVERTER) is None:
            raise ConfigError(
                f"export.formats gguf needs llama.cpp's {GGUF_CONVERTER} on the PATH. Put it there, or leave gguf out."
            )
        if name == "gguf" and find_spec("gguf") is None:
            raise ConfigError("export.formats gguf needs the package gguf. Install it, or leave gguf out.")
        if config.dir:
            check_folder(folder_of(config.dir, name))
    if config.hub is not None:
        for name in config.formats:
            require_hub(config.hub, repository_of(config.hub, name))


def folder_of(directory: str, name: ExportFormat) -> Path:
    """Return the folder that a format is exported to."""
    folder = Path(directory).expanduser().resolve()
    return folder if name == "merged" else folder.with_name(f"{folder.name}-{name}")


def repository_of(hub: HubExport, name: ExportFormat) -> str:
    """Return the repository that a format is pushed to."""
    return hub.repository if name == "merged" else f"{hub.repository}-{name}"


def export_all(
    merged: Checkpoint,
    config: ExportConfig,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    dtype: "torch.dtype",
    card: Callable[[Export], str],
    scratch: Path,
) -> list[Export]:
    """Export a model to every place and in every format that is configured; one that fails leaves the others be.

    Args:
        merged: The promoted model.
        config: Says where and how.
        tokenizer: Of the merged model.
        prompts: Token ids of held-out questions on which formats are compared with the merged model.
        dtype: Precision in which the merged model was measured.
        card: Returns the model card of an export.
        scratch: A folder to work in, for what goes to the hub alone.
    """
    made = [name for name in config.formats if name != "merged"]
    reference: Predictions | ProofError | None = None
    if made and prompts:
        try:
            reference = predictions_of(load_model(merged.path, dtype), tokenizer, prompts)
        except ProofError as error:  # the merged model itself needs no comparison
            reference = error
    return [_export(name, merged, config, tokenizer, reference, dtype, card, scratch) for name in config.formats]


def _export(
    name: ExportFormat,
    merged: Checkpoint,
    config: ExportConfig,
    tokenizer: "PreTrainedTokenizerBase",
    reference: Predictions | ProofError | None,
    dtype: "torch.dtype",
    card: Callable[[Export], str],
    scratch: Path,
) -> Export:
    """Make one export, compare it, and move it into place; what goes wrong is its ``problem``."""
    export = Export(format=name)
    try:
        with _fresh_folder(config, name, scratch) as fresh:
            _WRITERS[name](merged, tokenizer, fresh)
            export = export.model_copy(update={"megabytes": _megabytes(fresh)})
            if name == "merged":
                _require_same_weights(merged, fresh)
            else:
                export = export.model_copy(
                    update={"parity": _parity(name, fresh, reference, dtype, getattr(config.parity, name))}
                )
                _require_likeness(export)
            repository = repository_of(config.hub, name) if config.hub else None
            planned = export.model_copy(update={"repository": repository})
            (fresh / CARD).write_text(card(planned), encoding="utf-8")
            if config.hub is not None and repository is not None:
                push(fresh, repository, private=config.hub.private)
                export = planned
            if config.dir is not None:
                place(fresh, folder_of(config.dir, name))
                export = export.model_copy(update={"path": str(folder_of(config.dir, name))})
    except ModelError as error:
        return export.model_copy(update={"problem": f"{name} cannot be made of this model: {error}"})
    except PipelineError as error:
        return export.model_copy(update={"problem": str(error)})
    except OSError as error:
        return export.model_copy(update={"problem": f"{name} cannot be written: {error.strerror or error}."})
    except (AssertionError, RuntimeError, ValueError) as error:  # what converters raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        return export.model_copy(update={"problem": f"{name} cannot be made of this model: {said[-1]}"})
    return export


def _require_same_weights(merged: Checkpoint, copy: Path) -> None:
    if hash_weights(copy) != merged.weights_sha256:
        raise ProofError("merged is not published: the copy has other weights than the model. Check both disks.")


def _require_likeness(export: Export) -> None:
    parity = export.parity
    if parity is None:
        raise ProofError(f"{export.format} is not published: there are no held-out questions to compare it on.")
    if not parity.passed:
        raise ProofError(
            f"{export.format} is not published: it agrees with the merged model at {100 * parity.agreement:.1f} % of "
            f"{parity.positions} positions ({100 * parity.least_agreement:g} % asked), with a KL of "
            f"{parity.kl_per_token:.3g} nats a token (at most {parity.most_kl:g}). Loosen "
            f"export.parity.{export.format}, or leave the format out."
        )


def _parity(
    name: ExportFormat,
    folder: Path,
    reference: Predictions | ProofError | None,
    dtype: "torch.dtype",
    threshold: Likeness,
) -> ExportParity | None:
    if reference is None:
        return None
    if isinstance(reference, ProofError):
        raise reference
    return compare(_reload(name, folder, dtype), reference, threshold)


def _reload(name: ExportFormat, folder: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Return an export as others will load it."""
    import torch

    if name == "gguf":
        return read_model(folder, gguf_file=next(folder.glob("*.gguf")).name, dtype=torch.float32)[0]
    return load_model(folder, torch.bfloat16 if name == "bfloat16" else dtype)


def _copy(merged: Checkpoint, _: "PreTrainedTokenizerBase", folder: Path) -> None:
    shutil.copytree(merged.path, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _write_bfloat16(merged: Checkpoint, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    import torch

    save_model(load_model(merged.path, torch.bfloat16), tokenizer, folder)


def _write_int8(merged: Checkpoint, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    from transformers import BitsAndBytesConfig

    _quantize(merged, tokenizer, folder, BitsAndBytesConfig(load_in_8bit=True))


def _write_int4(merged: Checkpoint, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    from transformers import BitsAndBytesConfig

    _quantize(merged, tokenizer, folder, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))


def _quantize(merged: Checkpoint, tokenizer: "PreTrainedTokenizerBase", folder: Path, how: Any) -> None:
    import torch

    save_model(load_model(merged.path, torch.float32, quantization=how), tokenizer, folder)


def _write_gguf(merged: Checkpoint, _: "PreTrainedTokenizerBase", folder: Path) -> None:
    converter = shutil.which(GGUF_CONVERTER)
    assert converter is not None, "asked for in require_export"
    command = [converter, str(merged.path), "--outfile", str(folder / "model-f16.gguf"), "--outtype", "f16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise ModelError(f"{GGUF_CONVERTER} ended with {said[-1]!r}.")


_WRITERS: dict[ExportFormat, Callable[[Checkpoint, "PreTrainedTokenizerBase", Path], None]] = {
    "merged": _copy,
    "bfloat16": _write_bfloat16,
    "int8": _write_int8,
    "int4": _write_int4,
    "gguf": _write_gguf,
}


@contextmanager
def _fresh_folder(config: ExportConfig, name: ExportFormat, scratch: Path) -> Iterator[Path]:
    """Give a folder to write to, on the file system that the export goes to; what is left of it is removed."""
    target = folder_of(config.dir, name) if config.dir else scratch / name
    fresh = target.with_name(f".{target.name}.new")
    if config.dir:
        check_folder(target)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def place(fresh: Path, folder: Path) -> None:
    """Move a complete folder to where an earlier export may be, which it replaces.

    Raises:
        StoreError: It cannot be moved there.
    """
    earlier = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(earlier, ignore_errors=True)
        if folder.exists():
            folder.rename(earlier)
        fresh.rename(folder)
    except OSError as error:
        raise StoreError(f"export.dir {folder} cannot be written: {error.strerror}. Name another folder.") from error
    shutil.rmtree(earlier, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Refuse an export folder that holds something else, or that cannot be written.

    Raises:
        StoreError: Says which.
    """
    if folder.is_file():
        raise StoreError(f"export.dir {folder} is a file. Name a folder.")
    has_config = (folder / "config.json").is_file()
    is_model = any(folder.glob("*.gguf")) or (has_config and any(folder.glob("*.safetensors")))
    if folder.is_dir() and any(folder.iterdir()) and not is_model:
        raise StoreError(f"export.dir {folder} holds something that is no model. Name an empty or a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise StoreError(f"export.dir {folder} cannot be written: {error.strerror}. Name another folder.") from error


def _megabytes(folder: Path) -> float:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return sum(path.stat().st_size for path in weights) / 1e6
