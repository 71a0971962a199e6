"""Kill SFT and DPO again and again, start them again, and compare with a training that nobody disturbed.

For a configuration of your own: its rows (the first of each source), batches, schedule, adapter, losses and
evaluations, on a tiny random model of its architecture; fewer updates, with more checkpoints among them. Every training
is a process of its own, which SIGKILL ends, while it trains or while it writes a checkpoint. On the CPU all must be the
same, bit for bit: which rows each batch holds, the learning rate, the loss and every other logged number of each
update, the final weights.
"""

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path.cwd()))  # a checker of the user's own may lie there

import click
from rich.console import Console
from rich.table import Table

from llm_engineering.config.run import RunConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.config.tracking import NoTracking
from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.errors import PipelineError
from llm_engineering.planning.rehearsal import without_gpu
from llm_engineering.reports.folders import Checkpoint, RowSet, StageName
from llm_engineering.training.recovery import MANIFEST, step_of
from tools.environment import set_environment

Moment = Literal["while training", "while writing a checkpoint"]
MOMENTS: tuple[Moment, ...] = ("while training", "while writing a checkpoint")
COMPARED = ("batch order", "learning rate", "loss", "all logged numbers", "weights")
POLL = 0.001
"""Seconds between two looks at a training."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "configs", multiple=True, metavar="NAME_OR_PATH", help="As in tools/run.py; repeatable.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in tools/run.py.")
@click.option("--stage", type=click.Choice(["sft", "dpo", "both"]), default="both", show_default=True)
@click.option("--kills", type=click.IntRange(min=1), default=5, show_default=True, help="Kills of each stage.")
@click.option("--steps", type=click.IntRange(min=4), default=40, show_default=True, help="Updates of each stage.")
@click.option("--rows", type=click.IntRange(min=2), default=300, show_default=True, help="Rows read of every source.")
@click.option("--seed", type=int, default=1, show_default=True, help="Draws the moments of the kills.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/resume_drill.json"), show_default=True)
@click.option("--child", type=click.Path(path_type=Path), hidden=True, help="Train what a file describes.")
def main(
    configs: tuple[str, ...],
    overrides: tuple[str, ...],
    stage: str,
    kills: int,
    steps: int,
    rows: int,
    seed: int,
    out: Path,
    child: Path | None,
) -> None:
    """Show that a killed training ends as if nobody had killed it; exit code 1 if it does not."""
    if child is not None:
        train(Job.read(child))
        return
    console = Console(highlight=False)
    try:
        config = scaled(load_config(configs or [DEFAULT_CONFIG], overrides), steps, rows)
        set_environment(config)
        logging.disable(logging.WARNING)
        stages: list[StageName] = ["sft", "dpo"] if stage == "both" else ["sft" if stage == "sft" else "dpo"]
        with tempfile.TemporaryDirectory() as folder:
            inputs = prepare(config, stages, Path(folder))
            config = without_held_out(config, inputs)
            found = [drill(name, config, inputs, kills, seed, Path(folder), console) for name in stages]
    except PipelineError as error:
        raise click.ClickException(str(error)) from error
    console.print(table(found))
    same = all(result.same for result in found)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"config": config.name, "seed": seed, "same": same, "stages": [asdict(result) for result in found]}
    out.write_text(json.dumps(document, indent=1), encoding="utf-8")
    console.print(
        f"Bit for bit the same, after {sum(len(result.kills) for result in found)} kills."
        if same
        else "A killed training did not end as the one that nobody disturbed.",
        style="green" if same else "red",
    )
    sys.exit(0 if same else 1)


def scaled(config: RunConfig, steps: int, rows: int) -> RunConfig:
    """Return a configuration that trains for so many updates and logs all of them."""

    def stage(own: StageConfig) -> dict[str, Any]:
        every = max(1, steps // 4) if own.evaluation_interval else None
        fewer = {"max_steps": steps, "logging_steps": 1, "save_steps": max(1, steps // 8)}
        fewer |= {"evaluation_steps": every, "evaluation_examples": None, "warmup": min(own.warmup, steps / 2)}
        return own.model_dump() | fewer

    tree = config.model_dump()
    tree |= {"sft": stage(config.sft), "dpo": stage(config.dpo), "tracking": NoTracking().model_dump()}
    tree["evaluation"] |= {"max_questions": 4, "max_new_tokens": min(16, config.evaluation.max_new_tokens)}
    tree["data"]["max_dropped_share"] = 1.0
    for source in [*tree["data"]["sft"], *tree["data"]["preference"]]:
        if "sample" not in source and "embedded" not in source:  # which is small, and whose held-out rows come last
            source |= {"first": min(source["first"] or rows, rows), "count": None}
    without_gpu(tree)
    return RunConfig.model_validate(tree)


@dataclass(frozen=True)
class Inputs:
    """What both stages train on."""

    base: Checkpoint
    rows: dict[StageName, RowSet]
    questions: RowSet


def prepare(config: RunConfig, stages: Sequence[StageName], folder: Path) -> Inputs:
    """Prepare the rows as a run does."""
    from llm_engineering.data.loading import load_raw_rows
    from llm_engineering.data.preparation import prepare_rows
    from llm_engineering.models.chat import load_chat_tokenizer

    base = drilled_base(config, folder)
    raw = load_raw_rows(config.data, config.seed, folder / "raw")
    chat = load_chat_tokenizer(base, config.model)
    prepared = prepare_rows(raw, config.data, chat, config.seed, folder / "rows")
    rows: dict[StageName, RowSet] = {"sft": prepared.sft, "dpo": prepared.preference}
    if "dpo" in stages and config.data.sampling:
        rows["dpo"] = stand_in_pairs(prepared.sft, folder / "pairs")
    for stage in stages:
        if not rows[stage].rows.get("train"):
            raise click.ClickException(f"The configuration gives no rows for {stage.upper()}. Name them, or --stage.")
    return Inputs(base, rows, prepared.questions)


def without_held_out(config: RunConfig, inputs: Inputs) -> RunConfig:
    """Return the configuration without evaluations where the few rows leave none to evaluate on."""
    has_questions = bool(inputs.questions.rows.get("eval"))
    off = {"evaluation_steps": None, "best_metric": None, "patience": None, "evaluate_first": False}
    blind = [stage for stage, rows in inputs.rows.items() if not (has_questions and rows.rows.get("eval"))]
    changed = {stage: getattr(config, stage).model_copy(update=off) for stage in blind}
    return config.model_copy(update=changed)


def drilled_base(config: RunConfig, folder: Path) -> Checkpoint:
    """Return the model that is trained, in both stages: the embedded one, else a tiny one of the same architecture."""
    from llm_engineering.models.chat import load_chat_tokenizer
    from llm_engineering.models.checkpoints import locate_base, locate_description
    from llm_engineering.planning.tiny import write_tiny_model

    if config.model.base == "embedded":
        return locate_base(config.model)
    described = locate_description(config.model)
    unread = Checkpoint(path=described, sha256="", kind="model", weights_sha256="", base="", base_sha256="")
    eos = load_chat_tokenizer(unread, config.model).tokenizer.eos_token_id
    tiny = write_tiny_model(described, folder / "tiny", config.seed, eos)
    return locate_base(config.model.model_copy(update={"base": str(tiny), "revision": None}))


def stand_in_pairs(sft: RowSet, folder: Path) -> RowSet:
    """Return pairs where the run would sample them: a prompt, its answer, and as rejected the answer of the row before.

    What is drilled is resuming; which answers are rejected plays no part in it.
    """
    from llm_engineering.data.rowsets import PREFERENCE, read_rows, write_rows

    def pairs(split: str) -> Iterator[dict[str, Any]]:
        rows = list(read_rows(sft, split))
        starts = [next(i for i, label in enumerate(row["labels"]) if label != -100) for row in rows]
        answers = [row["input_ids"][start:] for row, start in zip(rows, starts, strict=True)]
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            ids = {"prompt_ids": row["input_ids"][:start], "chosen_ids": answers[i], "rejected_ids": answers[i - 1]}
            yield {"source": row["source"], "row": row["row"], **ids}

    return write_rows(folder, {split: list(pairs(split)) for split in ("train", "eval")}, PREFERENCE)


@dataclass(frozen=True)
class Job:
    """One training, as its process is told of it."""

    stage: StageName
    config: RunConfig
    inputs: Inputs
    folder: Path
    """Gets the work folder, the record of its batches and, in the end, the result."""

    @property
    def work_dir(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "work"

    @property
    def record(self) -> Path:
        """A line ``start`` for every start, and a line for every batch: its update, and a hash of its tokens."""
        return self.folder / "batches.txt"

    @property
    def result(self) -> Path:
        """What came out."""
        return self.folder / "result.json"

    def write(self) -> Path:
        """Write the job to a file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        content = {
            "stage": self.stage,
            "config": self.config.model_dump(mode="json"),
            "base": self.inputs.base.model_dump(mode="json"),
            "rows": self.inputs.rows[self.stage].model_dump(mode="json"),
            "questions": self.inputs.questions.model_dump(mode="json"),
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a job from its file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {content["stage"]: RowSet.model_validate(content["rows"])}
        inputs = Inputs(Checkpoint.model_validate(content["base"]), rows, RowSet.model_validate(content["questions"]))
        return cls(content["stage"], RunConfig.model_validate(content["config"]), inputs, path.parent)


def train(job: Job) -> None:
    """Train, from the last checkpoint where there is one, as the pipeline's step does, and write what came out."""
    set_environment(job.config)
    from llm_engineering.training.dpo import train_dpo
    from llm_engineering.training.inputs import StageInputs
    from llm_engineering.training.sft import train_sft

    config = job.config
    inputs = StageInputs(
        base=job.inputs.base,
        rows=job.inputs.rows[job.stage],
        questions=job.inputs.questions,
        model=config.model,
        adapter=config.adapter,
        evaluation=config.evaluation,
        tracking=config.tracking,
        seed=config.seed,
        run="drill",
        work_dir=job.work_dir,
        archive_dir=job.folder / "archive",
        watch=config.watch,
    )
    record_batches(job.record)
    if job.stage == "sft":
        adapter, report = train_sft(config.sft, inputs)
    else:
        adapter, report = train_dpo(config.dpo, inputs)
    content = {"weights": adapter.weights_sha256, "history": report.history, "best_step": report.best_step}
    job.result.write_text(json.dumps(content), encoding="utf-8")


def record_batches(path: Path) -> None:
    """Let every trainer of this process write down which batch it is given, before it trains on it."""
    from llm_engineering.training.trainers import StageTrainer

    lines = path.open("a", buffering=1, encoding="utf-8")
    lines.write("start\n")
    plain = StageTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Mapping[str, Any], *args: Any) -> Any:
        digest = hashlib.sha256(inputs["input_ids"].numpy().tobytes()).hexdigest()
        lines.write(f"{self.state.global_step + 1} {digest}\n")
        return plain(self, model, inputs, *args)

    StageTrainer.training_step = training_step  # type: ignore[method-assign]


Batches = dict[int, list[str]]
"""Hashes of the batches of each update."""


@dataclass(frozen=True)
class Kill:
    """One kill: when it was to come, and what it met."""

    moment: Moment
    step: int
    """The last update that had begun."""
    unsealed: list[str]
    """Checkpoints that had no manifest, or half of one."""


@dataclass(frozen=True)
class Compared:
    """How one thing fared: how often it was compared, and where it differed."""

    name: str
    times: int
    differences: list[str]


@dataclass(frozen=True)
class Result:
    """One stage."""

    stage: StageName
    kills: list[Kill]
    starts: list[int]
    """The first update of every start."""
    compared: list[Compared]
    seconds: float

    @property
    def same(self) -> bool:
        """Nothing differed."""
        return not any(compared.differences for compared in self.compared)


def drill(
    stage: StageName, config: RunConfig, inputs: Inputs, kills: int, seed: int, folder: Path, console: Console
) -> Result:
    """Train once undisturbed and once with kills, and compare."""
    began = time.perf_counter()
    straight = Job(stage, config, inputs, folder / f"{stage}-straight")
    pace = Watcher(straight)
    pace.start()
    pace.finish()
    console.print(f"{stage.upper()}: trained undisturbed; now with {kills} kills.")
    disturbed = Job(stage, config, inputs, folder / f"{stage}-killed")
    draw = random.Random(f"{seed} {stage}")
    steps = config.sft.max_steps if stage == "sft" else config.dpo.max_steps
    assert steps is not None
    done = []
    for target, moment in targets(kills, steps, draw):
        kill = None if disturbed.result.exists() else kill_at(disturbed, target, moment, pace, draw)
        done += [kill] if kill else []
    if not disturbed.result.exists():
        last = Watcher(disturbed)
        last.start()
        last.finish()
    attempts = read_record(disturbed.record)
    return Result(
        stage,
        done,
        [min(attempt) for attempt in attempts if attempt],
        compare(read_record(straight.record)[0], attempts, _result(straight), _result(disturbed)),
        round(time.perf_counter() - began, 1),
    )


def _result(job: Job) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(job.result.read_text(encoding="utf-8"))
    return content


def targets(kills: int, steps: int, draw: random.Random) -> list[tuple[int, Moment]]:
    """Return an update and a moment for every kill: one in each part of the training, both moments in turn."""
    moments = [MOMENTS[i % 2] for i in range(kills)]
    draw.shuffle(moments)
    bounds = [1 + (steps - 1) * i // kills for i in range(kills + 1)]
    return [
        (draw.randint(low, max(low, high - 1)), moment)
        for low, high, moment in zip(bounds, bounds[1:], moments, strict=False)
    ]


@dataclass
class Watcher:
    """A training's process, seen from outside."""

    job: Job
    step: int = 0
    """The last update that has begun."""
    seconds_per_step: float = 0.0
    seconds_per_checkpoint: float = 0.0
    _times: dict[int, float] = field(default_factory=dict)
    _writing_since: float | None = None

    def start(self) -> None:
        """Start the process."""
        path = self.job.write()
        self._output = (self.job.folder / "output.txt").open("a", encoding="utf-8")
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(path)]
        self._process = subprocess.Popen(command, stdout=self._output, stderr=subprocess.STDOUT, env=environment)
        self._offset = self.job.record.stat().st_size if self.job.record.exists() else 0

    def look(self) -> bool:
        """Look where the training is; return whether its process runs."""
        runs = self._process.poll() is None
        now = time.perf_counter()
        if self.job.record.exists():
            with self.job.record.open(encoding="utf-8") as file:
                file.seek(self._offset)
                lines = file.read()
            whole = lines[: lines.rfind("\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                if line != "start":
                    self.step = int(line.split()[0])
                    self._times.setdefault(self.step, now)
        if self.unsealed() and self._writing_since is None:
            self._writing_since = now
        elif self._writing_since is not None and not self.unsealed():
            self.seconds_per_checkpoint = max(self.seconds_per_checkpoint, now - self._writing_since)
            self._writing_since = None
        return runs

    def unsealed(self) -> list[str]:
        """Return the checkpoints that are being written."""
        found = self.job.work_dir.glob("checkpoint-*")
        return sorted(path.name for path in found if not (path / MANIFEST).exists())

    def finish(self) -> None:
        """Wait for the end, and see that it is a good one."""
        while self.look():
            time.sleep(POLL)
        self._output.close()
        if self._process.returncode:
            said = (self.job.folder / "output.txt").read_text(encoding="utf-8")[-2000:]
            raise click.ClickException(f"{self.job.stage.upper()} failed where nobody killed it:\n{said}")
        times = list(self._times.values())
        self.seconds_per_step = (times[-1] - times[0]) / max(1, len(times) - 1)

    def kill(self) -> None:
        """Kill the process as ``kill -9`` does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._output.close()


def kill_at(job: Job, step: int, moment: Moment, pace: Watcher, draw: random.Random) -> Kill | None:
    """Start a training and kill it at an update, or while the next checkpoint is written; None if it ended before."""
    watcher = Watcher(job)
    lasts = pace.seconds_per_step if moment == "while training" else pace.seconds_per_checkpoint
    delay = draw.uniform(0, lasts)
    old = set(watcher.unsealed())
    watcher.start()
    while watcher.look():
        begun = watcher.step >= step
        if begun and (moment == "while training" or set(watcher.unsealed()) - old):
            time.sleep(delay)
            watcher.kill()
            watcher.look()
            return Kill(moment, watcher.step, _torn(job))
        time.sleep(POLL)
    watcher.finish()
    return None


def _torn(job: Job) -> list[str]:
    from llm_engineering.training.recovery import is_whole

    return sorted(
        (p.name for p in job.work_dir.glob("checkpoint-*") if not is_whole(p)), key=lambda n: step_of(Path(n))
    )


def read_record(path: Path) -> list[Batches]:
    """Return the batches of every start of a training; a line that a kill cut off is left out."""
    attempts: list[Batches] = []
    text = path.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        if line == "start":
            attempts.append({})
        else:
            step, digest = line.split()
            attempts[-1].setdefault(int(step), []).append(digest)
    return attempts


def compare(
    straight: Batches, attempts: Sequence[Batches], expected: Mapping[str, Any], found: Mapping[str, Any]
) -> list[Compared]:
    """Compare a training that was killed with one that was not, number by number.

    Args:
        straight: The batches of the undisturbed training.
        attempts: Those of every start of the other; updates that a kill undid are there twice.
        expected: The undisturbed training's result.
        found: The other's.
    """
    order = []
    for number, attempt in enumerate(attempts, start=1):
        for step, batches in attempt.items():
            cut = number < len(attempts) and step == max(attempt)
            wanted = straight.get(step, [])
            if batches != (wanted[: len(batches)] if cut else wanted):
                order.append(f"update {step} after start {number}")
    trained = {step for attempt in attempts for step in attempt}
    order += [f"update {step} is missing" for step in sorted(straight.keys() - trained)]
    pairs = [Compared("batch order", sum(map(len, attempts)), order)]
    for name, keys in (("learning rate", {"learning_rate"}), ("loss", {"loss"}), ("all logged numbers", None)):
        logs = [_by_step(result["history"], keys) for result in (expected, found)]
        differ = [
            f"update {step}"
            for step in sorted(logs[0].keys() | logs[1].keys())
            if logs[0].get(step) != logs[1].get(step)
        ]
        pairs.append(Compared(name, len(logs[0]), differ))
    other = [] if expected["weights"] == found["weights"] else [f"{expected['weights']} and {found['weights']}"]
    return [*pairs, Compared("weights", 1, other)]


def _by_step(history: Sequence[Mapping[str, float]], keys: set[str] | None) -> dict[int, dict[str, str]]:
    """Return what is logged of each update, as text, so that NaN equals itself."""
    return {
        int(entry["step"]): {name: repr(value) for name, value in entry.items() if keys is None or name in keys}
        for entry in history
    }


def table(results: Sequence[Result]) -> Table:
    """Return the verdicts as a table."""
    shown = Table("", *(result.stage.upper() for result in results))
    for row, name in enumerate(COMPARED):
        shown.add_row(name, *(_verdict(result.compared[row]) for result in results))
    shown.add_row("kills", *(", ".join(f"{kill.step}" for kill in result.kills) for result in results))
    torn = [sum(bool(kill.unsealed) for kill in result.kills) for result in results]
    shown.add_row("of them with a torn checkpoint", *map(str, torn))
    shown.add_row("went on from update", *(", ".join(map(str, result.starts[1:])) for result in results))
    shown.add_row("seconds", *(f"{result.seconds:.0f}" for result in results))
    return shown


def _verdict(compared: Compared) -> str:
    if not compared.differences:
        return f"same ({compared.times} compared)"
    return f"{len(compared.differences)} differ, first: {compared.differences[0]}"


if __name__ == "__main__":
    main()
