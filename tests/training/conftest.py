import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from token_rows import CHOSEN, EOS, PROMPTS, REJECTED
from transformers import TrainerCallback

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import (
    EMBEDDED_FOLDER,
    describe_checkpoint,
    hash_weights,
    load_model,
    locate_base,
)
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.training.inputs import StageInputs

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random Llama of 100k parameters with the embedded model's ChatML tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-base")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=1152,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(EMBEDDED_FOLDER / name, folder / name)
    return describe_checkpoint(folder, "model", locate_base(ModelConfig())).model_copy(
        update={"base": "tiny", "base_sha256": hash_weights(folder)}
    )


@pytest.fixture
def poisoned_base(tiny_base: Checkpoint, tmp_path: Path) -> Checkpoint:
    """The tiny base with finite weights of which the first layer makes infinite values at token 60, of row 5 alone.

    Embeddings have 0 in their first dimension but for token 60, which has nothing else: normed, 1 becomes
    sqrt(32) = 5.7, and 5.7 * 3e38 is more than float32 holds.
    """
    model = load_model(tiny_base.path, torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[60] = torch.eye(32)[0]
        model.model.layers[0].self_attn.v_proj.weight[:, 0] = 3e38
    folder = tmp_path / "poisoned"
    model.save_pretrained(folder)
    load_chat_tokenizer(tiny_base, ModelConfig()).tokenizer.save_pretrained(folder)
    return tiny_base.model_copy(update={"path": folder, "weights_sha256": hash_weights(folder)})


@pytest.fixture(scope="session")
def knowing(tiny_base: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model that answers every prompt with its right answer."""
    torch.manual_seed(0)
    model = load_model(tiny_base.path, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        for prompt, answer in zip(PROMPTS, CHOSEN, strict=True):
            labels = torch.tensor([[-100] * len(prompt) + answer])
            (model(torch.tensor([prompt + answer]), labels=labels).loss / len(PROMPTS)).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("knowing") / "model"
    shutil.copytree(tiny_base.path, folder)
    model.save_pretrained(folder)
    named = {"base": "knowing", "base_sha256": hash_weights(folder)}
    return describe_checkpoint(folder, "model", tiny_base).model_copy(update=named)


@pytest.fixture(scope="session")
def sft_rows(tmp_path_factory: pytest.TempPathFactory) -> RowSet:
    rows = [
        {"source": 0, "row": i, "input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
        for i, (prompt, answer) in enumerate(zip(PROMPTS, CHOSEN, strict=True))
    ]
    return write_rows(tmp_path_factory.mktemp("sft-rows"), {"train": rows, "eval": rows[:4]}, SFT)


@pytest.fixture(scope="session")
def preference_rows(tmp_path_factory: pytest.TempPathFactory) -> RowSet:
    rows = [
        {"source": 0, "row": i, "prompt_ids": p, "chosen_ids": c, "rejected_ids": r}
        for i, (p, c, r) in enumerate(zip(PROMPTS, CHOSEN, REJECTED, strict=True))
    ]
    return write_rows(tmp_path_factory.mktemp("preference-rows"), {"train": rows, "eval": rows[:4]}, PREFERENCE)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> RowSet:
    rows = [
        {
            "unit": f"unit {i}",
            "prompt": '[{"role": "user", "content": "?"}]',
            "prompt_ids": prompt,
            "reference": str(i),
        }
        for i, prompt in enumerate(PROMPTS)
    ]
    return write_rows(tmp_path_factory.mktemp("questions"), {"train": rows[:4], "eval": rows[4:]}, QUESTIONS)


MakeInputs = Callable[..., StageInputs]


@pytest.fixture
def make_inputs(tiny_base: Checkpoint, questions: RowSet, tmp_path: Path) -> MakeInputs:
    def make(rows: RowSet, work: str = "work", **changes: Any) -> StageInputs:
        settings: dict[str, Any] = {
            "base": tiny_base,
            "rows": rows,
            "questions": questions,
            "model": ModelConfig(),
            "adapter": LoraAdapter(r=4, alpha=8),
            "evaluation": EvaluationConfig(max_new_tokens=4),
            "tracking": NoTracking(),
            "seed": 3,
            "run": "test",
            "work_dir": tmp_path / work,
            "archive_dir": tmp_path / "comet",
        }
        return StageInputs(**(settings | changes))

    return make


class Killed(Exception):
    """Stands for the signal that ends a training between two steps."""


class At(TrainerCallback):
    """Does something once an update is made."""

    def __init__(self, step: int, action: Callable[[Any], None]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action(kwargs["model"])


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Any], None]], AbstractContextManager[None]]:
    """Return a context in which every training does something at one step."""

    @contextmanager
    def doing(step: int, action: Callable[[Any], None]) -> Iterator[None]:
        from llm_engineering.training import dpo, sft, stage

        with monkeypatch.context() as patch:
            for module in (sft, dpo):
                patch.setattr(module, "early_stopping", lambda c: [*stage.early_stopping(c), At(step, action)])
            yield

    return doing


@pytest.fixture
def killed_at(at_step: Any) -> Callable[[int], AbstractContextManager[None]]:
    """Return a context in which a training is ended between two steps."""

    def kill(model: Any) -> None:
        raise Killed

    @contextmanager
    def killing(step: int) -> Iterator[None]:
        with at_step(step, kill), pytest.raises(Killed):
            yield

    return killing


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Checkpoint | Path], dict[str, torch.Tensor]]:
    def read(adapter: Checkpoint | Path) -> dict[str, torch.Tensor]:
        folder = adapter if isinstance(adapter, Path) else adapter.path
        return load_file(folder / "adapter_model.safetensors")

    return read


@pytest.fixture(scope="session")
def exact_logps() -> Callable[..., list[torch.Tensor]]:
    """Return a function that gives the log-probability of every answer token, row by row, unpadded, in float64."""

    def logps(base: Checkpoint, rows: list[tuple[list[int], list[int]]], adapter: Path | None = None) -> list[Any]:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float64)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).double()
        model.eval()
        found = []
        with torch.no_grad():
            for prompt, answer in rows:
                logits = model(torch.tensor([prompt + answer])).logits[0]
                rows_of_answer = logits[len(prompt) - 1 : -1]
                log_z = rows_of_answer.exp().sum(-1).log()
                found.append(rows_of_answer[torch.arange(len(answer)), torch.tensor(answer)] - log_z)
        return found

    return logps
