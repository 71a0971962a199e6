"""How fast SFT and DPO train on a GPU: ours against TRL's trainers, on models of real shapes with random weights.

bfloat16, LoRA of rank 16 on every linear layer, rows of random tokens whose lengths follow a log-normal law, the same
batches for all. Time is wall-clock between device synchronisations, the first updates left out. The utilisation (MFU)
counts what the model needs and no padding: a frozen weight costs 2 operations a token forwards and 2 backwards (its own
gradient is not computed), a reference 2; attention scores and the input embeddings are left out. ``--size tiny`` runs
anywhere, to see that everything runs; its times mean nothing.
"""

import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from training import InOrder, StockDPO, adapter, lengths, with_sampler
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import DPOConfig, SFTConfig, SFTTrainer

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
QWEN = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES: dict[str, Callable[[], Any]] = {
    "Llama-3.2-1B": lambda: LlamaConfig(
        vocab_size=128_256, num_key_value_heads=8, tie_word_embeddings=True, **LLAMA_1B
    ),
    "Qwen2.5-0.5B": lambda: Qwen2Config(vocab_size=151_936, num_key_value_heads=2, tie_word_embeddings=True, **QWEN),
    "Llama-3.1-8B": lambda: LlamaConfig(vocab_size=128_256, num_key_value_heads=8, **LLAMA_8B),
    "tiny": lambda: LlamaConfig(vocab_size=1024, num_key_value_heads=1, tie_word_embeddings=True, **TINY),
}
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165, "3090": 71}
"""Dense bfloat16, from NVIDIA's data sheets."""
WARM_UP = 2
BATCH = 8


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Times the updates behind the first ones, on a device that has done its work."""

    started = ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start behind the warm-up; stop at every later update."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == WARM_UP:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def rows_of(task: str, count: int, vocabulary: int, scale: int) -> Dataset:
    """Return rows of about 512 tokens, half of them trained, or pairs of 300 and twice 200, over ``scale``."""
    draw = np.random.default_rng(0)
    means = {"sft": {"input_ids": 512}, "dpo": {"prompt_ids": 300, "chosen_ids": 200, "rejected_ids": 200}}[task]
    columns = {
        name: [draw.integers(10, vocabulary, n).tolist() for n in lengths(draw, mean // scale, count)]
        for name, mean in means.items()
    }
    if task == "sft":
        columns["labels"] = [[-100] * (len(ids) // 2) + ids[len(ids) // 2 :] for ids in columns["input_ids"]]
    return Dataset.from_dict(columns)


class Bench:
    """One model, one task, and everybody who trains on it."""

    def __init__(self, task: str, size: str, steps: int, folder: Path) -> None:
        self.task, self.steps, self.folder = task, steps, folder
        self.tokenizer = load_chat_tokenizer(locate_base(ModelConfig()), ModelConfig()).tokenizer
        self.config = SIZES[size]()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.rows = rows_of(task, BATCH * (steps + WARM_UP), self.config.vocab_size, 16 if size == "tiny" else 1)

    def contenders(self) -> dict[str, Callable[[], dict[str, float]]]:
        """Return all of them by name."""
        trl, ours = (SFTTrainer, PreparedSFTTrainer) if self.task == "sft" else (StockDPO, PreparedDPOTrainer)
        ways: dict[str, tuple[Any, dict[str, Any]]] = {
            "TRL, default settings": (trl, {"gradient_checkpointing": True}),
            "TRL, no checkpointing": (trl, {}),
            "ours": (ours, {}),
            "ours, checkpointing": (ours, {"gradient_checkpointing": True}),
        }
        if self.task == "dpo":
            stored = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": BATCH}
            ways |= {"TRL, stored reference": (trl, stored), "ours, stored reference": (ours, stored)}
        return {name: lambda way=way: self.train(*way) for name, way in ways.items()}  # type: ignore[misc]

    def train(self, trainer_class: Any, settings: dict[str, Any]) -> dict[str, float]:
        """Return speed, utilisation and peak memory of one training."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        watch = Stopwatch()
        torch.manual_seed(0)
        model_class = Qwen2ForCausalLM if isinstance(self.config, Qwen2Config) else LlamaForCausalLM
        with torch.device(self.device):
            model = model_class(self.config).to(torch.bfloat16)
        operations = self.operations(model, settings)
        trainer = with_sampler(InOrder, trainer_class)(
            model=model,
            args=self.arguments(settings),
            train_dataset=self.rows,
            processing_class=self.tokenizer,
            peft_config=adapter(),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        seconds = watch.ended - watch.started
        return {
            "seconds_per_update": seconds / self.steps,
            "per_second": self.units() / seconds,
            "tflops": operations / seconds / 1e12,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0,
            "fast": float(getattr(trainer, "path", "") == "fast"),
        }

    def timed(self) -> Dataset:
        """Return the rows behind the warm-up."""
        return self.rows.select(range(BATCH * WARM_UP, len(self.rows)))

    def units(self) -> int:
        """Return tokens of SFT, pairs of DPO."""
        return sum(map(len, self.timed()["input_ids"])) if self.task == "sft" else len(self.timed())

    def operations(self, model: Any, settings: dict[str, Any]) -> float:
        """Return the operations that the timed rows need; a pair's prompt counts once."""
        weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
        if self.config.tie_word_embeddings:
            weights += self.config.vocab_size * self.config.hidden_size
        rows = self.timed()
        tokens = sum(sum(map(len, rows[name])) for name in rows.column_names if name.endswith("_ids"))
        passes = 4 if self.task == "sft" or settings.get("precompute_ref_log_probs") else 6
        return float(passes * weights * tokens)

    def arguments(self, settings: dict[str, Any]) -> SFTConfig | DPOConfig:
        """Return TRL's arguments."""
        common = {
            "output_dir": str(self.folder / "work"),
            "max_steps": self.steps + WARM_UP,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 1e-5,
            "lr_scheduler_type": "constant",
            "bf16": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": self.device == "cpu",
            "gradient_checkpointing": False,
            "max_length": None,
            **settings,
        }
        return (
            SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True})
            if self.task == "sft"
            else DPOConfig(**common)
        )


def peak_tflops() -> float | None:
    """Return what the GPU can do at most, if it is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((float(peak) for key, peak in PEAK_TFLOPS.items() if key in name), None)


def measure(bench: Bench, rounds: int) -> dict[str, dict[str, float | None]]:
    """Let the contenders take turns and return the medians, with ratios to TRL's defaults."""
    turns: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, run in bench.contenders().items():
            turns.setdefault(name, []).append(run())
    found: dict[str, dict[str, float | None]] = {
        name: {key: statistics.median(turn[key] for turn in own) for key in own[0]} for name, own in turns.items()
    }
    first, peak = next(iter(found.values()))["seconds_per_update"], peak_tflops()
    for numbers in found.values():
        seconds, tflops = numbers["seconds_per_update"], numbers["tflops"]
        assert first
        assert seconds
        numbers["ratio"] = first / seconds
        numbers["mfu"] = tflops / peak if peak and tflops else None
    return found


@click.command(help=__doc__)
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), help="Only these.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(["sft", "dpo"]), help="Only these.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every contender.")
@click.option("--steps", default=10, show_default=True, help="Timed updates in a turn.")
@click.option("--output", default="outputs/bench-cuda.json", show_default=True, type=click.Path(path_type=Path))
def main(sizes: tuple[str, ...], tasks: tuple[str, ...], rounds: int, steps: int, output: Path) -> None:
    """Measure, print and write."""
    if not torch.cuda.is_available() and set(sizes) != {"tiny"}:
        raise click.UsageError("There is no CUDA GPU. `--size tiny` tries the code on a CPU.")
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    results: dict[str, Any] = {"hardware": hardware, "torch": torch.__version__, "results": {}}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes or [size for size in SIZES if size != "tiny"]:
            for task in tasks or ("sft", "dpo"):
                found = measure(Bench(task, size, steps, Path(folder)), rounds)
                results["results"][f"{task} {size}"] = found
                table = Table("", "s / update", "per second", "ratio", "MFU", "peak GB", title=f"{task}, {size}")
                for name, n in found.items():
                    mfu = "-" if n["mfu"] is None else f"{100 * n['mfu']:.0f} %"
                    cells = (f"{n['seconds_per_update']:.3f}", f"{n['per_second']:,.1f}", f"{n['ratio']:.2f}")
                    table.add_row(name, *cells, mfu, f"{n['peak_memory_gb']:.1f}")
                Console(width=120).print(table)
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
