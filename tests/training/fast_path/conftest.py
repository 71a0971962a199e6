"""TRL's trainers and ours on the same tiny random models and the same batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counterparts import make_model, perturb, preference_dataset, sft_dataset
from peft import LoraConfig
from transformers import PrinterCallback
from trl import DPOConfig, SFTConfig, SFTTrainer

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base

MakeTrainer = Callable[..., Any]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_chat_tokenizer(locate_base(ModelConfig()), ModelConfig()).tokenizer


@pytest.fixture
def make_trainer(tokenizer: Any, tmp_path: Path) -> MakeTrainer:
    def make(
        trainer_class: type,
        architecture: str = "llama",
        model: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        callbacks: list[Any] | None = None,
        fast_path: str | None = None,
        **arguments: Any,
    ) -> Any:
        is_sft = issubclass(trainer_class, SFTTrainer)
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "work"),
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "max_steps": 5,
            "bf16": False,
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "max_length": None,
        }
        if is_sft:
            settings["dataset_kwargs"] = {"skip_prepare_dataset": True}
        settings |= arguments
        rows = sft_dataset() if is_sft else preference_dataset()
        adapter = {"r": 4, "target_modules": "all-linear", "fan_in_fan_out": architecture == "gpt2"} | (lora or {})
        torch.manual_seed(6)
        trainer = trainer_class(
            model=make_model(architecture, **(model or {})).to(dtype),
            args=(SFTConfig if is_sft else DPOConfig)(**settings),
            train_dataset=rows,
            eval_dataset=rows.select(range(3, 8)),
            processing_class=tokenizer,
            peft_config=LoraConfig(**adapter, task_type="CAUSAL_LM"),
            callbacks=callbacks,
            **({} if fast_path is None else {"fast_path": fast_path}),
        )
        trainer.remove_callback(PrinterCallback)
        perturb(trainer.model)
        return trainer

    return make
