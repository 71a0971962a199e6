"""Measure the embedded default on three seeds, with both controls, and write docs/embedded.md's tables.

The seeds were fixed before anything was tuned, and no setting was chosen on the test split that is measured here. The
controls stand beside DPO: SFT goes on from the same SFT model for as many updates as DPO, once on the chosen answers
of the pairs, once on those of them that the checker finds nothing wrong with.
"""

import dataclasses
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console

from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.reports.evaluation import Metric
from llm_engineering.reports.folders import Checkpoint, RowSet
from tools.environment import set_environment

SHOWN = (
    "answer_accuracy",
    "preferred_rate",
    "sampled_answer_accuracy",
    "sampled_preferred_rate",
    "sampled_flaws_per_answer",
    "perplexity",
    "kl_per_token",
)
MODELS = {
    "base": "base",
    "sft": "SFT",
    "dpo": "SFT → DPO",
    "sft_on_chosen": "control: SFT on chosen",
    "sft_on_clean": "control: SFT on clean samples",
}


@click.command()
@click.option("--seeds", default="1,2,3", show_default=True, help="Comma-separated.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/embedded.json"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the default, as in tools/run.py.")
def main(seeds: str, out: Path, overrides: tuple[str, ...]) -> None:
    """Run the default's stages for every seed and print the tables."""
    console = Console(highlight=False)
    results: dict[str, Any] = {}
    for seed in (int(text) for text in seeds.split(",")):
        config = load_config([DEFAULT_CONFIG], [*overrides, f"seed={seed}", "tracking={type: none}"])
        set_environment(config)
        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder:
            results[str(seed)] = measure(config, Path(folder))
        console.print(f"seed {seed}: {results[str(seed)]['seconds']}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print(table(results), soft_wrap=True)


def measure(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train SFT, DPO and the controls with one seed and return metrics of all models on the test split."""
    from llm_engineering.data.loading import load_raw_rows
    from llm_engineering.data.preparation import prepare_rows
    from llm_engineering.evaluation.evaluator import Evaluator, read_held_out
    from llm_engineering.models.chat import load_chat_tokenizer
    from llm_engineering.models.checkpoints import locate_base
    from llm_engineering.models.hardware import pick_dtype
    from llm_engineering.training.dpo import train_dpo
    from llm_engineering.training.preferences import build_preferences
    from llm_engineering.training.sft import train_sft

    clock = Clock()
    base = locate_base(config.model)
    chat = load_chat_tokenizer(base, config.model)
    rows = prepare_rows(
        load_raw_rows(config.data, config.seed, folder / "raw"), config.data, chat, config.seed, folder / "rows"
    )
    clock.lap("data")
    bench = Bench(config, folder, chat.tokenizer, rows.questions)
    sft = bench.merge("sft", base, train_sft(config.sft, bench.inputs("sft", base, rows.sft))[0])
    clock.lap("sft")
    assert config.data.sampling is not None
    pairs, _ = build_preferences(
        config.data.sampling,
        sft,
        rows.questions,
        rows.preference,
        config.model,
        max_length=config.data.max_length,
        seed=config.seed,
        folder=folder / "pairs",
    )
    clock.lap("pairs")
    adapter, report = train_dpo(config.dpo, bench.inputs("dpo", sft, pairs))
    dpo = bench.merge("dpo", sft, adapter)
    clock.lap("dpo")
    models = {"base": base, "sft": sft, "dpo": dpo} | bench.controls(sft, pairs)
    clock.lap("controls")
    held_out = read_held_out(rows.sft, pairs, rows.questions, config.evaluation, config.seed)
    evaluator = Evaluator(
        held_out, config.evaluation, chat.tokenizer, config.dpo.beta, config.seed, pick_dtype(config.model.dtype)
    )
    scores = evaluator.evaluate(models).models
    clock.lap("evaluation")
    return {
        "seconds": clock.laps,
        "dpo_steps": report.steps,
        "dpo_best_step": report.best_step,
        "models": {name: {m: v.model_dump() for m, v in s.metrics.items()} for name, s in scores.items()},
    }


class Clock:
    """Wall-clock seconds of successive parts."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 1), now


@dataclasses.dataclass
class Bench:
    """One seed's folders and shared inputs."""

    config: RunConfig
    folder: Path
    tokenizer: Any
    questions: RowSet

    def inputs(self, name: str, base: Checkpoint, rows: RowSet, config: RunConfig | None = None) -> Any:
        """Return the inputs of a training stage with a work folder of its own."""
        from llm_engineering.training.inputs import StageInputs

        config = config or self.config
        work_dir = self.folder / f"work-{name}"
        work_dir.mkdir()
        return StageInputs(
            base=base,
            rows=rows,
            questions=self.questions,
            model=config.model,
            adapter=config.adapter,
            evaluation=config.evaluation,
            tracking=config.tracking,
            seed=config.seed,
            run="benchmark",
            work_dir=work_dir,
            archive_dir=self.folder,
        )

    def merge(self, name: str, base: Checkpoint, adapter: Checkpoint) -> Checkpoint:
        """Return the merged model."""
        from llm_engineering.training.merging import merge_stage

        stage: Literal["sft", "dpo"] = "dpo" if name == "dpo" else "sft"
        folder = self.folder / name
        merged, _ = merge_stage(stage, base, adapter, self.questions, self.config.model, folder)
        return merged

    def controls(self, sft: Checkpoint, pairs: RowSet) -> dict[str, Checkpoint]:
        """Return the SFT model trained on for as many updates as DPO, on chosen answers and on clean ones alone."""
        from llm_engineering.data.rowsets import SFT, write_rows
        from llm_engineering.training.sft import train_sft

        budget = {"max_steps": self.config.dpo.max_steps, "batch_size": self.config.dpo.batch_size}
        settings = self.config.sft.model_copy(update=budget)
        models = {}
        for name, rows in self._imitation_rows(pairs).items():
            written = write_rows(self.folder / f"rows-{name}", {"train": rows}, SFT)
            adapter, _ = train_sft(settings, self.inputs(name, sft, written))
            models[name] = self.merge(name, sft, adapter)
        return models

    def _imitation_rows(self, pairs: RowSet) -> dict[str, list[dict[str, Any]]]:
        from llm_engineering.data.rowsets import read_rows
        from llm_engineering.scoring.answers import read_questions
        from llm_engineering.scoring.checkers import load_checker
        from llm_engineering.scoring.likelihood import labelled

        assert self.config.evaluation.checker is not None
        checker = load_checker(self.config.evaluation.checker)
        references = {tuple(q.prompt_ids): q.reference for q in read_questions(self.questions, "train")}
        rows: dict[str, list[dict[str, Any]]] = {"sft_on_chosen": [], "sft_on_clean": []}
        for pair in read_rows(pairs, "train"):
            input_ids, labels = labelled(pair["prompt_ids"], pair["chosen_ids"])
            row = {"source": -1, "row": pair["row"], "input_ids": input_ids, "labels": labels}
            rows["sft_on_chosen"].append(row)
            answer = self.tokenizer.decode(pair["chosen_ids"], skip_special_tokens=True).strip()
            if checker(answer, references[tuple(pair["prompt_ids"])]).preferred:
                rows["sft_on_clean"].append(row)
        return rows


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table: the median seed with its 95 % interval, then every seed's value, for every model."""
    lines = [f"| | {' | '.join(MODELS.values())} |", "|---" * (len(MODELS) + 1) + "|"]
    for metric in SHOWN:
        cells = [_cell([seed["models"][model].get(metric) for seed in results.values()]) for model in MODELS]
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: list[dict[str, Any] | None]) -> str:
    values = [Metric(**value) for value in found if value is not None]
    if not values:
        return "-"
    middle = sorted(values, key=lambda metric: metric.value)[len(values) // 2]
    interval = f" [{middle.low:.3f}, {middle.high:.3f}]" if middle.low is not None else ""
    return f"**{middle.value:.3f}**{interval} ({', '.join(f'{value.value:.3f}' for value in values)})"


if __name__ == "__main__":
    main()
