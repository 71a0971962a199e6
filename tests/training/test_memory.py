from itertools import count

import pytest
import torch

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, LoraAdapter
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import TrainingError
from llm_engineering.training import memory
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.memory import enough_memory, is_out_of_memory
from llm_engineering.training.sft import train_sft
from llm_engineering.training.trainers import StageTrainer


def test_sentence_names_what_to_change_by_what():
    config = SFTStageConfig(batch_size=16, accumulation=2)
    with pytest.raises(TrainingError) as caught, enough_memory("sft", config, LoraAdapter(), 512):
        torch.empty(10**15)
    assert str(caught.value) == (
        "Memory ran out in SFT, at 16 rows of up to 512 tokens. Set sft.batch_size to 8 and sft.accumulation to 4, "
        "which trains the same; or set sft.gradient_checkpointing to true, or lower data.max_length (the longest has "
        "512 tokens)."
    )


def test_sentence_names_only_what_is_left_to_change():
    config = DPOStageConfig(batch_size=1, gradient_checkpointing=True)
    with pytest.raises(TrainingError) as caught, enough_memory("dpo", config, LoraAdapter(), 900):
        raise MemoryError
    assert str(caught.value) == (
        "Memory ran out in DPO, at 1 pair of up to 900 tokens. Lower data.max_length (the longest has 900 tokens)."
    )


@pytest.mark.parametrize("adapter", [LoraAdapter(), DoraAdapter()], ids=["lora", "dora"])
def test_sentence_on_a_gpu_names_a_base_in_four_bits(adapter, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with (
        pytest.raises(TrainingError, match=r"to true, or keep the base in 4 bits \(adapter.type: qlora\), or lower"),
        enough_memory("dpo", DPOStageConfig(), adapter, 900),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_odd_batches_are_cut_without_losing_a_row():
    config = SFTStageConfig(batch_size=5, accumulation=3)  # 15 rows: 8 batches of 2 hold them
    with (
        pytest.raises(TrainingError, match=r"batch_size to 2 and sft\.accumulation to 8"),
        enough_memory("sft", config, LoraAdapter(), 9),
    ):
        raise MemoryError


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("sft", SFTStageConfig(), LoraAdapter(), 9):
        raise RuntimeError("shapes")


@pytest.fixture
def tried(monkeypatch):
    """The indices of the rows that were tried before training."""
    found = []
    plain = StageTrainer.try_without_trace

    def noted(self, indices):
        found.append(list(indices))
        plain(self, indices)

    monkeypatch.setattr(StageTrainer, "try_without_trace", noted)
    return found


def train(stage, inputs, **settings):
    if stage == "sft":
        return train_sft(SFTStageConfig(**settings), inputs)
    return train_dpo(DPOStageConfig(**settings), inputs)


@pytest.mark.parametrize("fast_path", ["auto", "off"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_largest_batch_is_tried_first_and_leaves_no_trace(
    stage, fast_path, make_inputs, sft_rows, preference_rows, weights_of, tried, monkeypatch
):
    rows = sft_rows if stage == "sft" else preference_rows
    settings = {
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "fast_path": fast_path,
    }
    adapter = LoraAdapter(r=4, dropout=0.2)
    results = []
    for worth in (10**9, 1):
        monkeypatch.setattr(memory, "WORTH_TRYING", worth)
        checkpoint, report = train(stage, make_inputs(rows, f"worth-{worth}", adapter=adapter), **settings)
        results.append((weights_of(checkpoint), report.history))
    (plain, history), (with_trial, again) = results
    assert all(torch.equal(values, with_trial[name]) for name, values in plain.items())
    assert again == history
    [indices] = tried
    sizes = [
        len(row["input_ids"]) if stage == "sft" else len(row["prompt_ids"]) + _answers(row, fast_path)
        for row in read_rows(rows, "train")
    ]
    assert len(indices) == 2
    assert sorted(sizes[i] for i in indices) == sorted(sizes)[-2:]


def _answers(row, fast_path):
    # without padding both answers count beside one prompt, which dropout undoes for the prompt alone
    lengths = len(row["chosen_ids"]), len(row["rejected_ids"])
    return sum(lengths) if fast_path == "auto" else max(lengths)


def test_short_training_on_a_cpu_is_not_tried(make_inputs, sft_rows, tried):
    train("sft", make_inputs(sft_rows), max_steps=49, batch_size=2, accumulation=2)
    assert tried == []
    train("sft", make_inputs(sft_rows, "longer"), max_steps=50, batch_size=1, accumulation=2)
    assert len(tried) == 1


def test_memory_that_does_not_last_is_told_before_the_first_update(make_inputs, sft_rows, monkeypatch):
    calls = count()

    def exhausted(self, indices):
        next(calls)
        torch.empty(10**15)

    monkeypatch.setattr(memory, "WORTH_TRYING", 1)
    monkeypatch.setattr(StageTrainer, "try_rows", exhausted)
    inputs = make_inputs(sft_rows)
    with pytest.raises(TrainingError, match="Memory ran out in SFT, at 2 rows of up to 9 tokens"):
        train("sft", inputs, max_steps=4, batch_size=2)
    assert next(calls) == 1
    assert not list(inputs.work_dir.glob("checkpoint-*"))
