"""Folders of tiny random models, each with the real special tokens and the chat style of its family."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from llm_engineering.models.chat import TEMPLATES

POSITIONS = 256
MERGES = 120
CORPUS = (
    "What colour is the zebra? The zebra is black and white.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName a town.\n\n### Response:\nParis is a town in France.\n\n",
    "Where does the otter live? The otter lives in the river, and it eats fish.",
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else "
    "message['role'] %}{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
}
QWEN = {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "others": ("<|im_start|>", "<|im_end|>")}
LLAMA = {
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
    "others": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"),
}


@dataclass(frozen=True)
class Family:
    """One architecture, its special tokens by role, and its chat template."""

    tokens: dict[str, Any]
    template: str | None
    """Of its instruct-tuned models; None where there are none."""
    config: dict[str, Any] = field(default_factory=lambda: SIZES)
    eos: str | None = None
    """What ends a turn, where neither the tokenizer nor the bundled templates say so."""
    sft_path: str = "fast"
    """Which forward pass SFT takes, and why."""


FAMILIES = {
    "llama": Family(LLAMA, "llama3", {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": Family(QWEN, "chatml", {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3": Family(QWEN, "chatml", {**SIZES, "num_key_value_heads": 1, "head_dim": 16}),
    "mistral": Family(
        {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
        MISTRAL,
        {**SIZES, "num_key_value_heads": 1, "sliding_window": POSITIONS},
    ),
    "gemma": Family(
        {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "others": ("<start_of_turn>", "<end_of_turn>")},
        GEMMA,
        {**SIZES, "num_key_value_heads": 1, "head_dim": 16},
        eos="<end_of_turn>",
    ),
    "gpt2": Family(
        {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
        None,
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
        sft_path="TRL's own: attention dropout",  # GPT-2's own; DPO takes it out
    ),
    "gpt_neox": Family({"eos": "<|endoftext|>", "pad": "<|padding|>"}, None, {**SIZES, "tie_word_embeddings": False}),
}


def write_family(name: str, folder: Path, *, chat: bool = True) -> Path:
    """Write a model of a family.

    Args:
        name: One of FAMILIES.
        folder: Where it is written.
        chat: With the family's chat template, as its instruct-tuned models have; the base models of some have none.
    """
    family = FAMILIES[name]
    tokenizer = _tokenizer(family)
    if chat and family.template:
        bundled = TEMPLATES / f"{family.template}.jinja"
        tokenizer.chat_template = bundled.read_text() if len(family.template) < 10 else family.template
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "initializer_range": 0.2, "pad_token_id": tokenizer.pad_token_id}
    config = CONFIG_MAPPING[name](**{**family.config, **sizes, **ends})
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    named = {role: token for role, token in family.tokens.items() if role != "others"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*dict.fromkeys([*named.values(), *family.tokens.get("others", ())])]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + MERGES,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    roles = {f"{role}_token": token for role, token in named.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **roles)
