"""A tiny random model of a given architecture: the base's configuration with its widths, depth and heads cut down."""

import hashlib
import math
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_engineering.errors import ModelError
from llm_engineering.models.auto_classes import build_model
from llm_engineering.planning.shape import read_architecture

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
HEAD_WIDTH = 16
WIDTH = 2 * HEAD_WIDTH
DRAWN_BY = 2
"""Counted up where the same request is to give other weights: folders of earlier ones are not taken then."""
LAYERS = 2
_SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "head_dim": HEAD_WIDTH,
    "intermediate_size": 2 * WIDTH,
    "ffn_dim": 2 * WIDTH,
    "n_inner": 2 * WIDTH,
    "word_embed_proj_dim": WIDTH,
    "moe_intermediate_size": WIDTH,
    "shared_expert_intermediate_size": WIDTH,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
"""What is cut down, by the names that transformers' configurations have for it; depth and grouped heads apart."""


def write_tiny_model(source: Path, root: Path, seed: int, eos_token_id: int) -> Path:
    """Write a random model in float32 beside the base's tokenizer, and return its folder.

    The folder is named by everything that it is made from, so that the same request finds it again.

    Args:
        source: The base's folder; only its configuration and tokenizer are read.
        root: Gets the folder.
        seed: Seeds the weights.
        eos_token_id: The token that ends an answer. A random model would hardly ever say it; here it is about as likely
            as all others together at one position of six, so that sampled answers come to an end.

    Raises:
        ModelError: The architecture cannot be made tiny.
    """
    files = sorted(path for path in source.iterdir() if path.is_file() and not any(map(path.match, WEIGHTS)))
    made_by = f"{DRAWN_BY} {version('torch')} {version('transformers')} {_SIZES}"
    digest = hashlib.sha256(f"{seed} {eos_token_id} {made_by}".encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    folder = root / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root) as temporary:
        fresh = Path(temporary) / "model"
        fresh.mkdir()
        for file in files:
            shutil.copyfile(file, fresh / file.name)
        _random_model(tiny_config(source), seed, eos_token_id).save_pretrained(fresh)
        fresh.rename(folder)
    return folder


def tiny_config(source: Path) -> "PretrainedConfig":
    """Return the configuration in a folder, cut down; vocabulary, special tokens and positions stay.

    Raises:
        ModelError: It holds no architecture that transformers knows.
    """
    config = read_architecture(source)
    values = config.to_dict()
    for name in ("quantization_config", "dtype", "torch_dtype", "layer_types", "_name_or_path"):
        values.pop(name, None)
    own = {name: config.attribute_map.get(name, name) for name in (*_SIZES, "num_hidden_layers", "num_key_value_heads")}
    values |= {own[name]: size for name, size in _SIZES.items() if values.get(own[name]) is not None}
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    if groups is not None:
        values[own["num_key_value_heads"]] = 2 if groups == heads else 1
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    values[own["num_hidden_layers"]] = max(LAYERS, len(kinds))
    if kinds:
        values["layer_types"] = (kinds * LAYERS)[: max(LAYERS, len(kinds))]
    values["initializer_range"] = 0.02  # small: sampled tokens, and with them hidden states, differ from step to step
    _cut_rotary_factors(values)
    tiny: PretrainedConfig = type(config).from_dict(values)
    return tiny


def _cut_rotary_factors(values: dict[str, Any]) -> None:
    """Cut the factors that some rotary embeddings have for each pair of a head's dimensions."""
    for key in ("rope_parameters", "rope_scaling"):
        rotary = values.get(key)
        for name in ("short_factor", "long_factor"):
            if isinstance(rotary, dict) and isinstance(rotary.get(name), list):
                rotary[name] = rotary[name][: HEAD_WIDTH // 2]


def _random_model(config: "PretrainedConfig", seed: int, eos_token_id: int) -> "PreTrainedModel":
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = build_model(config, torch.float32)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The architecture {config.model_type} cannot be made tiny ({str(error).splitlines()[0]}). Rehearse "
                "with a small model of your own: set model.base, and run without --rehearse."
            ) from error
        _make_likely(model.get_output_embeddings().weight, eos_token_id)
    model.generation_config.eos_token_id = eos_token_id
    return model


def _make_likely(head_VE: "torch.Tensor", token: int) -> None:
    """Draw a token's output row so that its logit spreads as widely as the other logits' log-sum is high.

    Against hidden states of size 1 a dimension, a row of length s gives logits of standard deviation s, and the V other
    tokens have a log-sum of about ln V. The row that is there says nothing: it is zero where the token pads, too, and
    input and output embeddings are tied.
    """
    import torch

    with torch.no_grad():
        row_E = torch.randn_like(head_VE[token])
        head_VE[token] = row_E * (math.log(len(head_VE)) / row_E.norm())
