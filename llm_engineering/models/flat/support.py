"""Where the fast path holds, and why not where it does not."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from llm_engineering.models.flat.attention import IMPLEMENTATION, TOLERANCE, worst_difference

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "gpt2", "gpt_neox"})
"""``model_type`` of the models that pass the gates (``tests/training/fast_path``).

A list of what holds, not of exceptions: layers that carry a state from token to token, mixtures of experts or biases by
position would mix the rows of a batch, and nothing would fail.
"""
SCALED_LOGITS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "output_multiplier")


def reason_against(trainer: Any, stage: Literal["sft", "dpo"]) -> str | None:
    """Return why a trainer cannot take the fast path, None if it can.

    Args:
        trainer: Constructed, its model not yet wrapped for training.
        stage: Whose trainer it is.
    """
    return next(_reasons(trainer, stage), None)


def _reasons(trainer: Any, stage: Literal["sft", "dpo"]) -> Iterator[str]:
    model = base_model(trainer.model)
    yield from _ways_of_training(trainer)
    yield from _losses(trainer, stage)
    yield from _backend(model)
    yield from _architecture(model)
    yield from _weights(trainer.model, model)
    yield from _windows(trainer, model)
    yield from _attention(trainer, model)


def base_model(model: Any) -> Any:
    """Return the causal language model inside PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def has_dropout(model: nn.Module) -> bool:
    """Tell whether anything in the model, adapters included, drops out while it trains."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def _ways_of_training(trainer: Any) -> Iterator[str]:
    accelerator, args = trainer.accelerator, trainer.args
    if args.n_gpu > 1:
        yield "several devices in one process"
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        yield "sharded weights"
    if accelerator.device.type not in ("cpu", "cuda"):
        yield f"the device {accelerator.device.type}"
    if args.torch_compile:
        yield "torch.compile"
    if args.neftune_noise_alpha:
        yield "NEFTune, whose noise depends on the padded length"
    if args.activation_offloading:
        yield "activation offloading"
    if args.use_liger_kernel:
        yield "Liger kernels"


def _backend(model: Any) -> Iterator[str]:
    """Unsloth's own layers, which the fast path would replace, or not reach.

    On a CPU it wraps the forward pass of the whole model alone, which the fast path replaces in SFT and goes past in
    DPO, and layers are transformers'.
    """
    inside = (module for module in model.modules() if module is not model)
    forwards = [type(model).forward, *(vars(module).get("forward", type(module).forward) for module in inside)]
    if any(str(getattr(forward, "__module__", "")).startswith("unsloth") for forward in forwards):
        yield "Unsloth's forward pass"
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        yield "layers compiled by torch.compile"


def _losses(trainer: Any, stage: Literal["sft", "dpo"]) -> Iterator[str]:
    if trainer.compute_metrics or trainer.preprocess_logits_for_metrics:
        yield "metrics that need all logits"
    if trainer.aux_loss_enabled:
        yield "an auxiliary loss of experts"
    if trainer._is_vision_dataset:
        yield "images"
    if stage == "sft" and (trainer.args.loss_type != "chunked_nll" or trainer.compute_loss_func):
        yield f"the loss {trainer.args.loss_type if not trainer.compute_loss_func else 'of its own'}"
    if stage == "sft" and trainer.args.label_smoothing_factor:
        yield "label smoothing in SFT"
    if stage == "dpo" and trainer.use_weighting:
        yield "WPO weights, which need all logits"
    if stage == "dpo" and trainer.ref_model is not None:
        yield "a reference that is a model of its own"


def _architecture(model: Any) -> Iterator[str]:
    config = model.config.get_text_config()
    if model.config.model_type not in ARCHITECTURES:
        yield f"the architecture {model.config.model_type}, which is not on the list"
    if model.config._attn_implementation not in ("sdpa", IMPLEMENTATION):
        yield f"the attention implementation {model.config._attn_implementation}"
    for name in SCALED_LOGITS:
        if getattr(config, name, None):
            yield f"scaled logits ({name})"
    if getattr(config, "use_bidirectional_attention", None):
        yield "attention in both directions"
    if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
        yield "layers other than attention"
    if any(_attention_dropout(module) for module in model.modules()):
        yield "attention dropout"


def _attention_dropout(module: nn.Module) -> float:
    probability = getattr(module, "attention_dropout", 0.0) or getattr(module, "attn_dropout", 0.0)
    return float(getattr(probability, "p", probability))


def _weights(wrapped: Any, model: Any) -> Iterator[str]:
    head = model.get_output_embeddings()
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        yield "quantised weights"
    if type(head) is not nn.Linear:
        yield "a head that is no plain linear layer"
    elif head.weight.requires_grad:
        yield "a head that is trained"
    for config in getattr(wrapped, "peft_config", {}).values():
        if config.peft_type != "LORA":
            yield f"adapters of the kind {config.peft_type.value}"


def _windows(trainer: Any, model: Any) -> Iterator[str]:
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if not window:
        return
    held_out = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"eval": trainer.eval_dataset}
    longest = max(_longest(dataset) for dataset in (trainer.train_dataset, *held_out.values()) if dataset is not None)
    if longest > window:
        yield f"a sliding window of {window} tokens, shorter than the longest row ({longest})"


def _longest(dataset: Any) -> int:
    """Return the tokens of the longest row of an SFT or preference dataset."""
    if "input_ids" in dataset.column_names:
        return max(map(len, dataset["input_ids"]))
    answers = zip(dataset["prompt_ids"], dataset["chosen_ids"], dataset["rejected_ids"], strict=True)
    return max(len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in answers)


def _attention(trainer: Any, model: Any) -> Iterator[str]:
    autocast = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else None
    dtype = autocast or next(model.parameters()).dtype
    try:
        found = worst_difference(trainer.accelerator.device.type, dtype)
    except RuntimeError as error:
        yield f"segment attention cannot run here ({error})"
        return
    if found > TOLERANCE[dtype]:
        yield f"segment attention is {found:.2g} from a masked softmax here"
