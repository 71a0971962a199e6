"""The one place that calls transformers' auto classes: a model folder's own code never runs, weights are safetensors.

Without ``trust_remote_code=False`` they would ask on stdin whether to run it. They do not hand it on to the parts of a
model that has several: those would ask all the same, so a folder is looked at before any of it is loaded.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder.

    Raises:
        ModelError: It holds none.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}). Fetch or save the model again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no JSON object. Fetch or save the model again.")
    return found


def require_no_own_code(folder: Path, name: str) -> None:
    """Refuse a model folder that cannot be loaded without Python code of its own; only JSON is read.

    An ``auto_map`` that is left over beside classes of transformers is no reason: those are taken.

    Args:
        folder: Has config.json.
        name: What the person called it, for the message.

    Raises:
        ModelError: Names the file and the key that ask for the code.
    """
    for asked in _asked_code(folder):
        raise ModelError(
            f"{name} needs Python code of its own, which is never run: {asked}. Use a model whose classes transformers "
            "has."
        )


def _asked_code(folder: Path) -> Iterator[str]:
    """Yield where a folder asks for code that transformers would have to run to load it."""
    if (folder / "custom_generate").exists():
        yield f"it has the folder {folder / 'custom_generate'}"
    path = _config_file(folder)
    config = read_object(path)
    kind = str(config.get("model_type"))
    if "auto_map" in config and not _is_language_model(kind):
        yield f"auto_map in {path} names it for the model type {kind!r}, which is no language model of transformers"
    for key, value in config.items():
        if key != "auto_map" and _has_auto_map(value):
            yield f"auto_map in {key} of {path} names it"
    if (folder / "tokenizer_config.json").is_file():
        yield from _code_of_tokenizer(folder / "tokenizer_config.json", kind)


def _config_file(folder: Path) -> Path:
    """Return the file that transformers reads: config.json, or another that it lists for a version of transformers."""
    path = folder / "config.json"
    listed = read_object(path).get("configuration_files")
    if not listed:
        return path
    from transformers.configuration_utils import get_configuration_file

    try:
        return folder / str(get_configuration_file(listed))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"configuration_files in {path} is damaged ({error}). Fetch or save the model again."
        ) from error


def _is_language_model(kind: str) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _has_auto_map(value: Any) -> bool:
    if isinstance(value, dict):
        return "auto_map" in value or any(map(_has_auto_map, value.values()))
    return isinstance(value, list) and any(map(_has_auto_map, value))


def _code_of_tokenizer(path: Path, kind: str) -> Iterator[str]:
    config = read_object(path)
    auto_map = config.get("auto_map")
    named = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map  # a list in old files
    if named is None:
        return
    from transformers.models.auto.tokenization_auto import (
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    if kind in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:  # for these transformers takes a class of its own
        return
    asked = config.get("tokenizer_class")
    if asked is None and kind not in TOKENIZER_MAPPING_NAMES:
        yield f"auto_map in {path} names the tokenizer"
    elif asked is not None:
        plain = str(asked).removesuffix("Fast")
        if not any(tokenizer_class_from_name(each) for each in (plain, f"{plain}Fast")):
            yield f"auto_map in {path} names the tokenizer_class {asked!r}, which transformers lacks"


def read_config(folder: Path) -> "PretrainedConfig":
    """Return the configuration in a folder, without the names of foreign code.

    Raises:
        ModelError: transformers does not know it, or it needs code of its own.
    """
    require_no_own_code(folder, str(folder))
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} describes no model that transformers knows: {str(error).splitlines()[0]}"
        ) from error
    _forget_code(config)
    return config


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in a folder, without the names of foreign code.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}") from error
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


def build_model(config: "PretrainedConfig", dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Return a causal language model with random weights, on torch's current device."""
    from transformers import AutoModelForCausalLM

    asked = {} if dtype is None else {"dtype": dtype}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **asked)
    return model


def read_model(folder: Path, **asked: Any) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """Return the causal language model in a folder, and what transformers says of its weights' names.

    Args:
        folder: Has the weights as safetensors.
        asked: Further arguments of ``from_pretrained``.
    """
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        **asked,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    _forget_code(model.config)
    return model, found


def _forget_code(config: "PretrainedConfig") -> None:
    """Leave no ``auto_map`` in what is saved: the files that it names are not saved, and others might run them."""
    vars(config).pop("auto_map", None)
