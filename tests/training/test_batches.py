"""The trainers' batches against the ledger: what was prepared is what is trained on, token by token, row by row."""

import json

import pytest
import torch

from llm_engineering.config.data import DataConfig
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.loading import load_raw_rows
from llm_engineering.data.preparation import prepare_rows
from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.training.dpo_arguments import dpo_arguments
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.sft import sft_arguments
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

MAX_LENGTH = 48
SPOKEN = ["the", "otter", "swims", "in", "the", "river", "and", "the", "heron", "waits", "for", "fish"]


def words(number, start):
    return " ".join(SPOKEN[(start + i) % len(SPOKEN)] for i in range(number))


def ranked(number):
    """Return a row of three answers with different scores: three pairs."""
    texts = [f"{score} {words(1 + 15 * (number % 4), number)}" for score in range(3)]
    return {"question": f"Which {number}?", "answers": [{"text": t, "pm_score": s} for s, t in enumerate(texts)]}


# Prompts and answers from few tokens to several times what fits, conversations of two turns, and rows that are dropped.
CONVERSATIONS = [
    {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}
    for n in range(12)
    for texts in (
        (f"Say {n}: {words(4 * n, n)}", words(1 + n % 3, n)),
        (f"Tell {n}", words(1 + 9 * (n % 5), n)),
        (f"Ask {n}", words(2, n), words(3, n), words(3 * n + 1, n)),
        (f"Tell {n}", words(1 + 9 * (n % 5), n)),  # again
        (f"Hush {n}", ""),
    )
]


@pytest.fixture(scope="module")
def prepared(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    for name, rows in (("sft", CONVERSATIONS), ("pairs", [ranked(number) for number in range(20)])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = DataConfig.model_validate(
        {
            "sft": [{"path": str(folder / "sft.jsonl")}],
            "preference": [{"path": str(folder / "pairs.jsonl")}],
            "max_length": MAX_LENGTH,
            "max_dropped_share": 0.9,
            "evaluation_share": 0.1,
            "rules": {"near_duplicate": "keep"},
        }
    )
    raw = load_raw_rows(data, 0, folder / "raw")
    return prepare_rows(raw, data, load_chat_tokenizer(tiny_base, ModelConfig()), 0, folder / "prepared")


@pytest.fixture
def trainer_of(tiny_base, prepared, tmp_path):
    def make(kind, batch_size):
        model = load_model(tiny_base.path, torch.float32)
        rows = prepared.sft if kind == "sft" else prepared.preference
        train, held_out = read_rows(rows, "train"), read_rows(rows, "eval")
        common = {
            "model": model,
            "train_dataset": train,
            "eval_dataset": held_out,
            "processing_class": load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer,
            "peft_config": adapter_config(LoraAdapter(r=4), model),
        }
        work = tmp_path / kind
        if kind == "sft":
            config = SFTStageConfig(batch_size=batch_size)
            return PreparedSFTTrainer(args=sft_arguments(config, ModelConfig(), work, 3, True, len(train)), **common)
        config = DPOStageConfig(batch_size=batch_size)
        return PreparedDPOTrainer(args=dpo_arguments(config, ModelConfig(), work, 3, True, len(train)), **common)

    return make


def conversations_in(batches):
    seen = []
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            assert (labels[mask == 0] == -100).all()
            seen.append((ids[mask == 1].tolist(), labels[mask == 1].tolist()))
    return sorted(seen)


def pairs_in(batches):
    seen = []
    for batch in batches:
        sides = []
        for ids, mask, answer in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
        ):
            assert (answer[mask == 0] == 0).all()
            sides.append((ids[(mask == 1) & (answer == 0)].tolist(), ids[answer == 1].tolist()))
        half = len(sides) // 2  # chosen first, then rejected
        for (prompt, chosen), (again, rejected) in zip(sides[:half], sides[half:], strict=True):
            assert prompt == again
            seen.append((prompt, chosen, rejected))
    return sorted(seen)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_of_conversations_are_the_rows_of_the_ledger(batch_size, prepared, trainer_of):
    [ledger] = prepared.report.ledger("sft")
    assert ledger.truncated > 10
    assert ledger.answers_cut > 5
    trainer = trainer_of("sft", batch_size)
    for split, batches in (("train", trainer.get_train_dataloader()), ("eval", trainer.get_eval_dataloader())):
        seen = conversations_in(batches)
        assert seen == sorted((row["input_ids"], row["labels"]) for row in read_rows(prepared.sft, split))
        assert len(seen) == getattr(ledger, split) > 0  # a conversation a row
        assert sum(len(ids) for ids, _ in seen) == prepared.report.tokens[f"sft/{split}"]
        trained = sum(label != -100 for _, labels in seen for label in labels)
        assert trained == prepared.report.trained_tokens[f"sft/{split}"]
        assert max(len(ids) for ids, _ in seen) == prepared.report.longest[f"sft/{split}"] <= MAX_LENGTH


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_of_pairs_are_the_rows_of_the_ledger(batch_size, prepared, trainer_of):
    [ledger] = prepared.report.ledger("preference")
    assert ledger.examples == 3 * (ledger.train + ledger.eval)  # three pairs a row
    assert ledger.answers_cut > 5
    trainer = trainer_of("preference", batch_size)
    for split, batches in (("train", trainer.get_train_dataloader()), ("eval", trainer.get_eval_dataloader())):
        seen = pairs_in(batches)
        stored = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in read_rows(prepared.preference, split)]
        assert seen == sorted(stored)
        assert len(seen) == 3 * getattr(ledger, split) > 0
        tokens = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in seen)
        assert tokens == prepared.report.tokens[f"preference/{split}"]
        trained = sum(len(chosen) + len(rejected) for _, chosen, rejected in seen)
        assert trained == prepared.report.trained_tokens[f"preference/{split}"]
        assert max(len(p) + max(len(c), len(r)) for p, c, r in seen) <= MAX_LENGTH
