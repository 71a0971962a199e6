"""How fast and in how much memory rows are prepared: against TRL's own preparation, and up to a million rows.

Rows are made up by a seeded generator: words drawn by Zipf's law, lengths like those of OpenOrca, one row in fifty a
copy of its neighbour, one in a hundred nearly one. Every measurement runs in a process of its own that has imported
everything before the clock starts. Ours reads the JSON lines from disk and writes the prepared rows; TRL's clock runs
in ``_prepare_dataset`` alone, on rows that are in Arrow and in the form it wants. Memory is RssAnon, children included:
mapped Arrow pages can be given back at any time and are not counted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

WORDS = 30_000
CONSONANTS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr", "pl")
VOWELS = ("a", "e", "i", "o", "u", "ea", "ou")
ENDS = ("", "n", "r", "s")
SYSTEM = "You are a helpful assistant. Answer in as much detail as the question asks for, and give your reasons."
VOCABULARY = 16_000
MAX_LENGTH = 1024
BLOCK = 1000
"""Rows that are made up at once."""
PAIRS_SHARE = 5
"""One pair is made for so many conversations: 200k for a million."""


def vocabulary() -> list[str]:
    """Return made-up words, the frequent ones short."""
    syllables = ["".join(parts) for parts in product(CONSONANTS, VOWELS, ENDS)]
    draw = np.random.default_rng(0)
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(draw.choice(syllables, 1 + (len(words) >= 300) + (len(words) >= 10_000)))] = None
    return sorted(words, key=len)


def texts(draw: np.random.Generator, words: "np.ndarray[Any, Any]", mean: int) -> list[str]:
    """Return a block of texts of words drawn by Zipf's law, their lengths by a log-normal law."""
    lengths = np.maximum(draw.lognormal(np.log(mean), 0.6, BLOCK).astype(int), 3)
    ranks = (len(words) ** draw.random(lengths.sum())).astype(int) - 1
    return [" ".join(part) for part in np.split(words[ranks], np.cumsum(lengths)[:-1])]


def conversations(rows: int) -> Iterator[dict[str, str]]:
    """Yield rows with the columns of OpenOrca."""
    draw, words = np.random.default_rng(1), np.array(vocabulary())
    for start in range(0, rows, BLOCK):
        questions, answers = texts(draw, words, 110), texts(draw, words, 90)
        for i, (question, response) in enumerate(zip(questions, answers, strict=True)):
            if i % 50 == 49:
                question, response = questions[i - 1], answers[i - 1]
            elif i % 100 == 50:
                question, response = questions[i - 1] + " indeed", answers[i - 1]
            system = SYSTEM if i % 4 < 2 else ""
            yield {"id": f"row.{start + i}", "system_prompt": system, "question": question, "response": response}


def pairs(rows: int) -> Iterator[dict[str, str]]:
    """Yield preference pairs."""
    draw, words = np.random.default_rng(2), np.array(vocabulary())
    for _ in range(0, rows, BLOCK):
        columns = [texts(draw, words, mean) for mean in (50, 80, 80)]
        yield from ({"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(*columns, strict=True))


def write_lines(path: Path, rows: Iterator[dict[str, str]]) -> Path:
    """Write rows as JSON lines."""
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_model(folder: Path) -> Path:
    """Write a model of next to no weights with a BPE tokenizer of 16,000 tokens and the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from llm_engineering.models.chat import TEMPLATES

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((row["question"] for row in conversations(5 * BLOCK)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (TEMPLATES / "chatml.jinja").read_text()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=2 * MAX_LENGTH, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def prepare_here(kind: str, path: Path, model: Path, *, audit: bool) -> float:
    """Return the seconds that our preparation takes, from the file to the prepared rows on disk."""
    import datasets  # noqa: F401  # imported before the clock starts
    import py3langid
    import rensa  # noqa: F401
    import scipy.sparse.csgraph  # noqa: F401
    import transformers  # noqa: F401

    from llm_engineering.config.data import DataConfig
    from llm_engineering.config.model import ModelConfig
    from llm_engineering.data.loading import load_raw_rows
    from llm_engineering.data.preparation import prepare_rows
    from llm_engineering.models.chat import load_chat_tokenizer
    from llm_engineering.models.checkpoints import locate_base

    py3langid.classify("a text")
    settings = ModelConfig(base=str(model))
    chat = load_chat_tokenizer(locate_base(settings), settings)
    data = DataConfig.model_validate({kind: [{"path": str(path)}], "audit": audit, "max_length": MAX_LENGTH})
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        started = time.perf_counter()
        raw = load_raw_rows(data, 42, Path(folder) / "raw")
        prepare_rows(raw, data, chat, 42, Path(folder) / "rows")
        return time.perf_counter() - started


def prepare_by_trl(kind: str, path: Path, model: Path, processes: int) -> float:
    """Return the seconds that ``_prepare_dataset`` of TRL's trainer takes on the same rows."""
    from datasets import Dataset, disable_caching
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from llm_engineering.models.auto_classes import read_model, read_tokenizer

    disable_caching()  # else the second measurement finds the first one's work
    with path.open() as file:
        rows = Dataset.from_generator(
            lambda: (conversational(kind, json.loads(line)) for line in file), cache_dir=str(path.parent / "cache")
        )
    base, arguments = (SFTTrainer, SFTConfig) if kind == "sft" else (DPOTrainer, DPOConfig)
    seconds = 0.0

    class Timed(base):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            prepared = super()._prepare_dataset(*args, **kwargs)
            seconds += time.perf_counter() - started
            return prepared

    Timed(
        model=read_model(model)[0],
        args=arguments(
            output_dir=str(path.parent / "trl"),
            max_length=MAX_LENGTH,
            dataset_num_proc=processes if processes > 1 else None,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=read_tokenizer(model),
    )
    return seconds


def conversational(kind: str, row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return a row in the form that TRL wants."""
    if kind == "sft":
        system = [{"role": "system", "content": row["system_prompt"]}] if row["system_prompt"] else []
        prompt = [*system, {"role": "user", "content": row["question"]}]
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": row["response"]}]}
    answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **answers}


def measure(what: str, kind: str, path: Path, model: Path) -> dict[str, float]:
    """Measure in a process of its own; return seconds, CPU seconds and the most anonymous memory, in GB."""
    command = [sys.executable, __file__, "one", what, kind, str(path), str(model)]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=quiet)
        most = 0
        while process.poll() is None:
            most = max(most, anonymous_memory(process.pid))
            time.sleep(0.1)
        out.seek(0)
        said = out.read().splitlines()
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} failed; run it to see why.")
    return {**json.loads(said[-1]), "gigabytes": most / 1e6}


def anonymous_memory(pid: int) -> int:
    """Return RssAnon of a process and its children, in kB."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for one in family:
            status = Path(f"/proc/{one.pid}/status").read_text()
            total += int(status.partition("RssAnon:")[2].split()[0])
    except (psutil.NoSuchProcess, FileNotFoundError, IndexError):
        pass  # it has just ended
    return total


@click.group()
def main() -> None:
    """Measure the preparation of data."""


@main.command()
@click.argument("what", type=click.Choice(["audit", "plain", "trl", "trl2"]))
@click.argument("kind", type=click.Choice(["sft", "preference"]))
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
def one(what: str, kind: str, path: Path, model: Path) -> None:
    """One measurement; prints its seconds, and those of CPU time with imports."""
    started = time.process_time()
    if what.startswith("trl"):
        seconds = prepare_by_trl(kind, path, model, 2 if what == "trl2" else 1)
    else:
        seconds = prepare_here(kind, path, model, audit=what == "audit")
    click.echo(json.dumps({"seconds": seconds, "cpu_seconds": time.process_time() - started}))


@main.command()
@click.option("--rows", default=50_000, show_default=True)
def compare(rows: int) -> None:
    """Time per row, with and without audit, against TRL with one process and with two."""
    table = Table("µs a row", "ours", "ours, no audit", "TRL", "TRL, 2 processes", "TRL / ours", "TRL / no audit")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        for kind, made in (("sft", conversations), ("preference", pairs)):
            path = write_lines(Path(folder) / f"{kind}.jsonl", made(rows))
            names = ("audit", "plain", "trl", "trl2")
            took = {name: measure(name, kind, path, model)["seconds"] / rows * 1e6 for name in names}
            fastest = min(took["trl"], took["trl2"])
            ratios = [f"{fastest / took[name]:.2f}" for name in ("audit", "plain")]
            table.add_row(kind, *(f"{took[name]:.0f}" for name in names), *ratios)
    Console().print(table)


@main.command()
@click.option("--rows", default=1_000_000, show_default=True)
def size(rows: int) -> None:
    """Time and memory for a tenth of the rows and for all of them, and for a fifth as many pairs."""
    table = Table("rows", "seconds", "µs a row", "CPU seconds", "anonymous memory, GB")
    took = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        for kind, number in (("sft", rows // 10), ("sft", rows), ("preference", rows // PAIRS_SHARE)):
            made = conversations if kind == "sft" else pairs
            path = write_lines(Path(folder) / f"{kind}.jsonl", made(number))
            measured = measure("audit", kind, path, model)
            took.append(measured)
            seconds, cpu = measured["seconds"], f"{measured['cpu_seconds']:.0f}"
            cost, memory = f"{seconds / number * 1e6:.0f}", f"{measured['gigabytes']:.2f}"
            table.add_row(f"{number:,} {kind}", f"{seconds:.0f}", cost, cpu, memory)
            path.unlink()
    console = Console()
    console.print(table)
    more, less = (took[i]["seconds"] for i in (1, 0))
    more_cpu, less_cpu = (took[i]["cpu_seconds"] for i in (1, 0))
    console.print(
        f"Ten times the conversations: {more / less:.2f} × the time, {more_cpu / less_cpu:.2f} × the CPU time."
    )


if __name__ == "__main__":
    main()
