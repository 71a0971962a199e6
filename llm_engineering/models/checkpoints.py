"""Model folders: find them, load them, save them, hash them. Weights are safetensors only."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ModelError
from llm_engineering.models.auto_classes import read_model, read_object, require_no_own_code
from llm_engineering.models.hardware import pick_device
from llm_engineering.models.sharding import local, whole
from llm_engineering.reports.folders import Checkpoint, FromHub, hash_files

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "base"
DESCRIPTION = ("*.json", "*.jinja", "*.txt", "*.model", "README.md")
"""The files of a model folder that are no weights: configuration, tokenizer, template, card."""
_HUB_FILES = ["*.safetensors", *DESCRIPTION]


def locate_base(config: ModelConfig, key: str = "model.base") -> Checkpoint:
    """Return the checkpoint that training starts from, fetched from the hub if it is a hub id.

    Args:
        config: Names it.
        key: The key of the configuration that names it, for messages.

    Raises:
        ModelError: The folder or the repository cannot be used as a model.
    """
    locate_description(config, key)  # what is refused for its description, needs no weights fetched
    folder = _locate(config, _HUB_FILES, key)
    _require_model(folder, f"{key} {config.base!r}")
    return _as_checkpoint(folder, config.base)


def _as_checkpoint(folder: Path, name: str) -> Checkpoint:
    weights = hash_weights(folder)
    return Checkpoint(
        path=folder,
        sha256=hash_files(folder),
        kind="model",
        weights_sha256=weights,
        base=name,
        base_sha256=weights,
    )


def is_hub_id(name: str) -> bool:
    """Return whether a base is neither the bundled one nor a folder of this machine."""
    return name != "embedded" and not Path(name).exists()


def describe_hub_model(config: ModelConfig, key: str = "model.base") -> Checkpoint:
    """Return a model of the hub with its description alone: whoever wants its weights fetches them.

    The commit stands for what it holds. Its hashes are empty.

    Raises:
        ModelError: The repository describes no model.
    """
    folder = _fetch(config.base, config.revision, list(DESCRIPTION), key)
    _require_description(folder, f"{key} {config.base!r}")
    fetch = FromHub(
        type="hub", repository=config.base, revision=folder.name
    )  # a snapshot's folder is named by its commit
    return Checkpoint(
        path=folder, sha256="", kind="model", weights_sha256="", base=config.base, base_sha256="", fetch=fetch
    )


def known_weights(model: Checkpoint) -> str | None:
    """Return the weights hash of a model of the hub whose weights this machine has already; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert isinstance(model.fetch, FromHub)
    source = model.fetch
    try:
        folder = Path(snapshot_download(source.repository, revision=source.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return hash_weights(folder) if _has_all_weights(folder) else None


def _has_all_weights(folder: Path) -> bool:
    """Return whether no weights file is missing of those that a folder's index names."""
    files = _weight_files(folder)
    return bool(files) and all(file.is_file() for file in files)


def fetch_hub_model(source: FromHub, name: str) -> Checkpoint:
    """Return a model of the hub with its weights.

    Raises:
        ModelError: It cannot be had, or used as a model.
    """
    folder = _fetch(source.repository, source.revision, _HUB_FILES, "model.base")
    _require_model(folder, f"model.base {name!r}")
    return _as_checkpoint(folder, name)


def fetch_hub_description(source: FromHub) -> Path:
    """Return a folder with what a model of the hub has beside its weights.

    Raises:
        ModelError: It cannot be had.
    """
    return _fetch(source.repository, source.revision, list(DESCRIPTION), "model.base")


def locate_description(config: ModelConfig, key: str = "model.base") -> Path:
    """Return a folder with the base's configuration and tokenizer; its weights are neither fetched nor asked for.

    Raises:
        ModelError: The folder or the repository describes no model.
    """
    folder = _locate(config, list(DESCRIPTION), key)
    _require_description(folder, f"{key} {config.base!r}")
    return folder


def _locate(config: ModelConfig, hub_files: list[str], key: str) -> Path:
    if config.base == "embedded":
        return EMBEDDED_FOLDER
    if Path(config.base).exists():
        return Path(config.base).resolve()
    return _fetch(config.base, config.revision, hub_files, key)


def _fetch(repository: str, revision: str | None, files: list[str], key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=files))
    except HFValidationError as error:
        raise ModelError(
            f"{key} {repository!r} is neither a folder here nor a model that the hub gives, whose ids are OWNER/NAME. "
            "Check the path."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"{key} {repository!r} is neither a folder here nor a model{at} that the hub gives: "
            f"{str(error).splitlines()[0].rstrip('. ')}. Check the path or the id, the network and your hub login."
        ) from error


def _require_model(folder: Path, name: str) -> None:
    _require_description(folder, name)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} has no safetensors weights. Load it once with transformers and save it again: other "
            "formats can run code when they are read."
        )


def _require_description(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"{name} is a file. Name the folder that holds config.json and the weights.")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{name} is an adapter. Merge it into its base first.")
        raise ModelError(f"{name} has no config.json. Name a folder that `save_pretrained` has written.")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelError(f"{name} has no tokenizer. Save the model's tokenizer into the same folder.")
    require_no_own_code(folder, name)


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads weights from; other copies of them may lie beside."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def saved_tensors(folder: Path) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the tensors of a folder's safetensors files, one by one, with their names."""
    from safetensors import safe_open

    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                yield name, file.get_tensor(name)


def hash_weights(folder: Path) -> str:
    """Return the sha256 over names, dtypes, shapes and values of all tensors in a folder's safetensors files.

    Raises:
        ModelError: A weights file is damaged.
    """
    from safetensors import SafetensorError

    try:
        return hash_tensors(saved_tensors(folder))
    except (SafetensorError, FileNotFoundError, ValueError, KeyError) as error:
        raise ModelError(
            f"A weights file in {folder} is missing or damaged ({error}). Fetch or save the model again."
        ) from error


def hash_tensors(tensors: Iterable[tuple[str, "torch.Tensor"]]) -> str:
    """Return the sha256 over names, dtypes, shapes and values, independent of the order."""
    import torch

    digests = []
    for name, tensor in tensors:
        digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def hash_frozen(model: "PreTrainedModel") -> str:
    """Return the weights hash of a model in memory, with the adapters that are attached to it left out.

    It equals the hash of the folder that the model was loaded from, as long as no weight has changed and the folder
    holds them in the precision that the model was loaded in.
    """
    return hash_tensors(weights_as_saved(model).items())


def weights_as_saved(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """Return the weights of a model in memory by their names in its files, without the adapters attached to it."""
    from transformers.core_model_loading import revert_weight_conversion

    inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model
    named = {
        name.replace(".base_layer.", "."): whole(parameter)
        for name, parameter in inner.named_parameters()
        if ".lora_" not in name
    }
    # some architectures have other names (or stacked tensors) in memory than in their files
    return dict(revert_weight_conversion(inner, named))


def load_model(
    folder: Path,
    dtype: "torch.dtype",
    *,
    attention: str = "auto",
    quantization: "BitsAndBytesConfig | None" = None,
    in_main_memory: bool = False,
) -> "PreTrainedModel":
    """Return the causal language model in a folder, on the machine's device.

    Args:
        folder: Has the weights as safetensors.
        dtype: Precision of the weights, or of what is computed with quantised ones.
        attention: ``model.attention`` of the configuration.
        quantization: Keeps the linear layers' weights in fewer bits.
        in_main_memory: Leave it there, even where there is a GPU.

    Raises:
        ModelError: The folder holds something else, or not all of the weights.
    """
    require_no_own_code(folder, str(folder))
    asked = {} if quantization is None else {"quantization_config": quantization}  # None would hide the folder's own
    try:
        model, found = read_model(
            folder, dtype=dtype, attn_implementation=None if attention == "auto" else attention, **asked
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        how = "" if quantization is None else " in few bits"
        raise ModelError(f"{folder} is no causal language model that transformers can load{how}: {error}") from error
    if found["missing_keys"]:
        raise ModelError(
            f"{folder} lacks {len(found['missing_keys'])} of the model's weights, {min(found['missing_keys'])} among "
            "them; they would be random. Name the folder of a complete causal language model."
        )
    in_few_bits = quantization or getattr(model, "is_quantized", False)  # bitsandbytes places its own
    loaded: PreTrainedModel = model if in_few_bits or in_main_memory else model.to(pick_device())
    return loaded


def broken_weight(tensors: "Iterable[tuple[str, torch.Tensor]]") -> str | None:
    """Return the name of the first tensor that holds NaN or an infinite number, None where all numbers are finite.

    No memory is taken for it. Integers and numbers of 8 bits are not looked at, nor what another process holds.
    """
    import torch

    for name, tensor in tensors:
        values = local(tensor.detach())
        counts = values.is_floating_point() and values.element_size() > 1 and values.numel()
        if counts and not torch.stack(torch.aminmax(values)).isfinite().all():
            return name
    return None


def require_finite(model: "PreTrainedModel", folder: Path) -> None:
    """Refuse a model whose weights would make every loss one that is no number, whatever the rows.

    Weights that were put into few bits are looked at in their file.

    Raises:
        ModelError: A weight is NaN or infinite.
    """
    import torch

    in_few_bits = getattr(model, "is_quantized", False)
    found = broken_weight(saved_tensors(folder) if in_few_bits else model.named_parameters())
    if found is not None:
        wider = ", or, if its files are good, set model.dtype to float32" if model.dtype == torch.float16 else ""
        raise ModelError(
            f"{found} of the model in {folder} holds NaN or infinite numbers, so that every loss would be no number. "
            f"Fetch or save the model again, or name another{wider}."
        )


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    weights: "dict[str, torch.Tensor] | None" = None,
) -> None:
    """Write a model so that it can be loaded and served: weights, tokenizer, chat template, generation config.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where it goes.
        weights: Its weights by name, where it holds only a part of them itself.
    """
    from transformers import GenerationConfig

    known = model.generation_config.eos_token_id if model.generation_config else None
    listed = [known] if isinstance(known, int) else list(known or [])
    ends = [tokenizer.eos_token_id, *(token for token in listed if token != tokenizer.eos_token_id)]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def describe_checkpoint(folder: Path, kind: Any, base: Checkpoint) -> Checkpoint:
    """Return the checkpoint of a folder that was just written from ``base``."""
    return Checkpoint(
        path=folder,
        sha256=hash_files(folder),
        kind=kind,
        weights_sha256=hash_weights(folder),
        base=base.base,
        base_sha256=base.weights_sha256,
    )


def max_positions(folder: Path) -> int | None:
    """Return the longest sequence that the model in a folder was built for, in tokens, if it says so."""
    config = read_object(folder / "config.json")
    for key in ("max_position_embeddings", "n_positions"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None
