"""How fast SFT and DPO train: ours, TRL's trainers, and loops written by hand, on the same rows in one run.

Models are Llamas of random weights, rows are random tokens whose lengths follow a log-normal law. Every contender
starts from the same weights and makes the same updates; they take turns, round after round, and the median round
counts. Time is this process's CPU time (so run it with one thread) of one pass over the rows. All get the same batches,
except for TRL's best settings: float32, no checkpointing, batches of rows of like length, stored log-probabilities of
the reference. Those are computed before the clock starts.
"""

import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.models.flat.forward import FastForward
from llm_engineering.models.flat.layout import flatten_pairs, flatten_rows
from llm_engineering.models.hardware import describe_hardware
from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
from llm_engineering.training.sft_trainer import PreparedSFTTrainer

BATCH = 8
VOCABULARY = 4096
SIZES = {
    "5M": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 5, "num_attention_heads": 4},
    "45M": {"hidden_size": 640, "intermediate_size": 1920, "num_hidden_layers": 8, "num_attention_heads": 10},
}
CASES = ("sft padded", "sft full", "dpo")
BASELINE = "TRL, same batches"
OTHER_BATCHES = "TRL, best settings"
BETA = 0.1


class InOrder:
    """Batches in the order of the rows, so that all contenders get the same."""

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]


class ByLength:
    """Batches of rows of like length; TRL's own grouping does not group so few rows, nor read preference rows."""

    def _get_train_sampler(self, *args: Any) -> list[int]:
        names = [name for name in self.train_dataset.column_names if name.endswith("_ids")]  # type: ignore[attr-defined]
        lengths = [sum(len(row[name]) for name in names) for row in self.train_dataset]  # type: ignore[attr-defined]
        return sorted(range(len(lengths)), key=lengths.__getitem__)


class StockDPO(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which would tokenise the rows again."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


def with_sampler(sampler: type, trainer: type) -> type:
    """Return TRL's or our trainer with the batches of a sampler."""
    return type(trainer.__name__, (sampler, trainer), {})


class Clock(TrainerCallback):  # type: ignore[misc]
    """CPU seconds of all updates, and their losses."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self.ended = time.process_time()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


@dataclass(frozen=True)
class Turn:
    """What one contender did in one round."""

    seconds: float
    """CPU seconds an update."""
    memory: float
    """MB that the process grew by at most."""
    losses: list[float]


@dataclass
class Contender:
    """A way to train, and its turns so far."""

    run: Callable[[], tuple[float, list[float]]]
    turns: list[Turn] = field(default_factory=list)

    def take_turn(self) -> None:
        """Train once."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what a turn before has freed goes back
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
        before = _memory("VmRSS")
        seconds, losses = self.run()
        self.turns.append(Turn(seconds, _memory("VmHWM") - before, losses))


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


class Bench:
    """One model, one kind of rows, and everybody who trains on them."""

    def __init__(self, case: str, size: str, steps: int, folder: Path) -> None:
        self.case, self.size, self.steps, self.folder = case, size, steps, folder
        self.task = case.split()[0]
        self.tokenizer = load_chat_tokenizer(locate_base(ModelConfig()), ModelConfig()).tokenizer
        self.rows = sft_rows(BATCH * steps, case == "sft padded") if self.task == "sft" else pairs(BATCH * steps)
        self.tokens = sum(len(v) for row in self.rows for name, v in row.items() if name.endswith("_ids"))

    def contenders(self) -> dict[str, Contender]:
        """Return all of them by name, the baseline first."""
        ours = PreparedSFTTrainer if self.task == "sft" else PreparedDPOTrainer
        trl = SFTTrainer if self.task == "sft" else StockDPO
        fp32, half = {"bf16": False, "gradient_checkpointing": False}, {"bf16": True, "gradient_checkpointing": False}
        stored = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": BATCH} if self.task == "dpo" else {}
        ways: dict[str, Callable[[], tuple[float, list[float]]]] = {
            BASELINE: lambda: self.train(with_sampler(InOrder, trl), fp32),
            "ours": lambda: self.train(with_sampler(InOrder, ours), fp32),
            "TRL, default settings": lambda: self.train(with_sampler(InOrder, trl), {}),
            OTHER_BATCHES: lambda: self.train(with_sampler(ByLength, trl), fp32 | stored),
            "loop, padded": lambda: self.loop(fast=False),
            "loop on our kernels": lambda: self.loop(fast=True),
            "TRL, bf16": lambda: self.train(with_sampler(InOrder, trl), half, torch.bfloat16),
            "ours, bf16": lambda: self.train(with_sampler(InOrder, ours), half, torch.bfloat16),
        }
        if stored:
            ways["ours, stored reference"] = lambda: self.train(with_sampler(InOrder, ours), fp32 | stored)
        return {name: Contender(run) for name, run in ways.items()}

    def model(self, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
        """Return the model, the same each time."""
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            tie_word_embeddings=True,
            max_position_embeddings=2048,
            pad_token_id=self.tokenizer.pad_token_id,
            **SIZES[self.size],
        )
        return LlamaForCausalLM(config).to(dtype)

    def train(
        self, trainer_class: Any, settings: dict[str, Any], dtype: torch.dtype = torch.float32
    ) -> tuple[float, list[float]]:
        """Return CPU seconds an update and the losses of a trainer."""
        clock = Clock()
        trainer = trainer_class(
            model=self.model(dtype),
            args=self.arguments(settings),
            train_dataset=self.rows,
            processing_class=self.tokenizer,
            peft_config=adapter(),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        assert getattr(trainer, "path", "fast") == "fast", trainer.path
        return (clock.ended - clock.started) / self.steps, clock.losses

    def arguments(self, settings: dict[str, Any]) -> SFTConfig | DPOConfig:
        """Return TRL's arguments, where they are not its own."""
        common = {
            "output_dir": str(self.folder / "work"),
            "max_steps": self.steps,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **settings,
        }
        if self.task == "sft":
            return SFTConfig(**common, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
        return DPOConfig(**common, max_length=None, beta=BETA)

    def loop(self, fast: bool) -> tuple[float, list[float]]:
        """Return CPU seconds an update and the losses of a training loop written by hand."""
        model = get_peft_model(self.model(), adapter())
        loss_of = FastLosses(model) if fast else PaddedLosses(model)
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, 2e-4, weight_decay=0.0, fused=True)
        losses, started = [], time.process_time()
        for batch in self.batches():
            loss = loss_of.sft(batch) if self.task == "sft" else loss_of.dpo(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return (time.process_time() - started) / self.steps, losses

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches that the trainers get."""
        from trl.trainer.dpo_trainer import DataCollatorForPreference
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator = DataCollatorForLanguageModeling if self.task == "sft" else DataCollatorForPreference
        collate = collator(pad_token_id=self.tokenizer.pad_token_id)
        for start in range(0, len(self.rows), BATCH):
            yield collate([self.rows[i] for i in range(start, start + BATCH)])


class PaddedLosses:
    """What one writes by hand: padded batches, the head on the trained tokens."""

    def __init__(self, model: Any) -> None:
        self.model, self.causal = model, model.get_base_model()
        self.head = self.causal.get_output_embeddings()

    def logps(self, batch: dict[str, torch.Tensor], scored: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of every scored token, row by row."""
        ids = batch["input_ids"]
        hidden = self.causal.model(input_ids=ids, attention_mask=batch["attention_mask"], use_cache=False)[0]
        return -functional.cross_entropy(self.head(hidden[:, :-1][scored]), ids[:, 1:][scored], reduction="none")

    def sft(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean cross-entropy of the labels."""
        return -self.logps(batch, batch["labels"][:, 1:] != -100).mean()

    def dpo(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return DPO's sigmoid loss."""
        scored = batch["completion_mask"][:, 1:].bool()
        policy = self.sums(batch, scored)
        with torch.no_grad(), self.model.disable_adapter():
            reference = self.sums(batch, scored)
        chosen, rejected = (policy - reference).chunk(2)
        return -functional.logsigmoid(BETA * (chosen - rejected)).mean()

    def sums(self, batch: dict[str, torch.Tensor], scored: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of every row's answer."""
        return torch.zeros(len(scored)).index_add(0, scored.nonzero()[:, 0], self.logps(batch, scored))


class FastLosses(PaddedLosses):
    """The same loop on flat rows."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.fast = FastForward(self.causal)

    def logps(self, batch: dict[str, torch.Tensor], scored: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of every scored token, row by row."""
        lay_out = flatten_rows if "labels" in batch else flatten_pairs
        rows = lay_out(batch["input_ids"], batch["attention_mask"])
        hidden = self.fast.hidden_states(rows, rows.index_BT[:, :-1][scored])
        return self.fast.score(hidden, batch["input_ids"][:, 1:][scored], statistics=torch.is_grad_enabled()).logps_K


def adapter() -> LoraConfig:
    """Return rank 16 on every linear layer."""
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def lengths(draw: np.random.Generator, mean: int, count: int, spread: float = 0.5) -> list[int]:
    """Return lengths of a log-normal law."""
    found: list[int] = np.maximum(draw.lognormal(np.log(mean) - spread**2 / 2, spread, count), 4).astype(int).tolist()
    return found


def tokens(draw: np.random.Generator, length: int) -> list[int]:
    """Return random tokens, none of them special."""
    ids: list[int] = draw.integers(10, VOCABULARY, length).tolist()
    return ids


def sft_rows(count: int, padded: bool) -> Dataset:
    """Return rows of about 160 tokens, half of them trained; batches in order are padded by 45 %, or not at all."""
    draw = np.random.default_rng(0)
    rows = []
    for length in lengths(draw, 160, count, 0.62) if padded else [160] * count:
        ids = tokens(draw, length)
        rows.append({"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]})
    return Dataset.from_list(rows)


def pairs(count: int) -> Dataset:
    """Return prompts of about 100 tokens, chosen answers of 41 and rejected ones of 55."""
    draw = np.random.default_rng(1)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    columns = [[tokens(draw, n) for n in lengths(draw, mean, count)] for mean in (100, 41, 55)]
    return Dataset.from_dict(dict(zip(names, columns, strict=True)))


def measure(bench: Bench, rounds: int, only: tuple[str, ...]) -> dict[str, Any]:
    """Let the contenders take turns and return what was found, ratios to the baseline included."""
    contenders = {name: c for name, c in bench.contenders().items() if not only or name in (*only, BASELINE)}
    for number in range(rounds):
        order = list(contenders.values()) if number % 2 == 0 else list(reversed(contenders.values()))
        for contender in order:
            contender.take_turn()
    base = contenders[BASELINE].turns
    return {
        name: {
            "seconds_per_update": (seconds := statistics.median(turn.seconds for turn in c.turns)),
            "all_seconds_per_update": [turn.seconds for turn in c.turns],
            "ratio": statistics.median(b.seconds / t.seconds for b, t in zip(base, c.turns, strict=True)),
            "tokens_per_second": bench.tokens / bench.steps / seconds if bench.task == "sft" else None,
            "pairs_per_second": BATCH / seconds if bench.task == "dpo" else None,
            "peak_memory_mb": statistics.median(turn.memory for turn in c.turns),
            "loss_difference": None if name == OTHER_BATCHES else _apart(base[0].losses, c.turns[0].losses),
        }
        for name, c in contenders.items()
    }


def _apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def padding_share(bench: Bench) -> float:
    """Return the share of the batches' positions that is padding."""
    masks = [batch["attention_mask"] for batch in bench.batches()]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def show(title: str, found: dict[str, Any]) -> None:
    """Print one table."""
    table = Table("", "s / update", "per second", "ratio", "peak MB", "loss differs by", title=title)
    for name, numbers in found.items():
        speed = numbers["tokens_per_second"] or numbers["pairs_per_second"]
        table.add_row(
            name,
            f"{numbers['seconds_per_update']:.3f}",
            f"{speed:,.1f}",
            f"{numbers['ratio']:.2f}",
            f"{numbers['peak_memory_mb']:.0f}",
            "-" if numbers["loss_difference"] is None else f"{numbers['loss_difference']:.0e}",
        )
    Console(width=120).print(table)


@click.command(help=__doc__)
@click.option("--case", "cases", multiple=True, type=click.Choice(CASES), help="Only these.")
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), help="Only these.")
@click.option("--only", multiple=True, help="Only these contenders, and the baseline.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every contender.")
@click.option("--steps", default=4, show_default=True, help="Updates in a turn.")
@click.option("--output", default="outputs/bench-training.json", show_default=True, type=click.Path(path_type=Path))
def main(
    cases: tuple[str, ...], sizes: tuple[str, ...], only: tuple[str, ...], rounds: int, steps: int, output: Path
) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"hardware": describe_hardware(), "torch": torch.__version__, "results": {}}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes or SIZES:
            for case in cases or CASES:
                bench = Bench(case, size, steps, Path(folder))
                found = measure(bench, rounds, only)
                padding = padding_share(bench)
                show(f"{case}, {size}, {100 * padding:.0f} % padding, {bench.tokens} tokens", found)
                results["results"][f"{case} {size}"] = {"padding": padding, "contenders": found}
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
