"""TRL's trainers and ours, tiny random models of every architecture, and rows."""

from typing import Any

import torch
import transformers
from datasets import Dataset
from torch.utils.data import SequentialSampler
from trl import DPOTrainer, SFTTrainer

from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

VOCABULARY = 1152
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 1, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 4096}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma3_text": ("Gemma3", {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 512}),
    "gpt2": ("GPT2", {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "gpt_neox": ("GPTNeoX", {}),
}
# Lengths of prompts, chosen and rejected answers: rows of 4 to 34 tokens, so that batches are padded by half
LENGTHS = [(3, 5, 2), (20, 8, 14), (1, 3, 3), (9, 2, 7), (12, 12, 1), (2, 30, 6), (6, 6, 6), (15, 1, 9)]


class InOrder:
    """Batches in the order of the rows, for both trainers."""

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _get_eval_sampler(self, dataset: Dataset) -> SequentialSampler:
        return SequentialSampler(dataset)


class StockSFT(InOrder, SFTTrainer):
    pass


class StockDPO(InOrder, DPOTrainer):
    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # the rows are tokenised


class OurSFT(InOrder, PreparedSFTTrainer):
    pass


class OurDPO(InOrder, PreparedDPOTrainer):
    pass


TRAINERS = {"sft": (StockSFT, OurSFT), "dpo": (StockDPO, OurDPO)}


def make_model(architecture: str, **changes: Any) -> Any:
    name, settings = ARCHITECTURES[architecture]
    kind = "Text" if architecture == "gemma3_text" else ""
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if architecture == "gpt2":
        sizes = {"n_embd": 48, "n_layer": 2, "n_head": 4}
    if architecture in ("qwen3", "gemma", "gemma3_text"):
        sizes["head_dim"] = 16
    config = getattr(transformers, f"{name}{kind}Config")(
        **{"vocab_size": VOCABULARY, "initializer_range": 0.15, "bos_token_id": None, "eos_token_id": 2}
        | {"pad_token_id": 3}
        | sizes
        | settings
        | changes
    )
    head = {"gpt2": "LMHeadModel"}.get(architecture, "ForCausalLM")
    torch.manual_seed(5)
    return getattr(transformers, f"{name}{head}")(config)


def sft_dataset() -> Dataset:
    draw = torch.Generator().manual_seed(1)
    rows = []
    for prompt, answer, _ in LENGTHS:
        ids = torch.randint(10, VOCABULARY, (prompt + answer,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows)


def preference_dataset() -> Dataset:
    draw = torch.Generator().manual_seed(2)
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for lengths in LENGTHS:
        for column, length in zip(columns.values(), lengths, strict=True):
            column.append(torch.randint(10, VOCABULARY, (length,), generator=draw).tolist())
    # one pair begins its answers alike, one answer is the beginning of the other
    columns["rejected_ids"][1][:3] = columns["chosen_ids"][1][:3]
    columns["rejected_ids"][5] = columns["chosen_ids"][5][:6]
    return Dataset.from_dict(columns)


def perturb(model: Any) -> None:
    """Move the adapter away from zero, the same way each time."""
    draw = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.05, generator=draw)
