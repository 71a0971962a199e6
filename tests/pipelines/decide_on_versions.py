"""Train two versions, promote and compare them with the real commands; see test_decisions.py.

All in one process: starting ZenML takes longer than what is tested here.
"""

import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from zenml.client import Client
from zenml.models import PipelineRunResponse

from llm_engineering.config.yaml.loader import load_config
from llm_engineering.reporting.summary import build_summary
from pipelines.launching.collect import collect
from pipelines.launching.prepare import prepare
from pipelines.launching.start import start
from pipelines.launching.step_facts import fact_of
from pipelines.store import open_store
from tools import compare, promote
from tools.console.terminal import Lines

folder = Path(sys.argv[1])
CONFIG = """
name: small
data:
  sft: [{path: rows.jsonl}]
  evaluation_share: 0.3
sft: {max_steps: 4, logging_steps: 1, batch_size: 4, learning_rate: 4.0e-3}
evaluation: {checker: exact, max_new_tokens: 4, sampled_answers: 0}
promotion: {least_units: 1}
tracking: {type: none}
"""
PROOF = ("--set", "promotion.undecided=refuse")
told: dict[str, Any] = {}


class Facts(logging.Handler):
    """Notes what the log says of steps, by the number of the training."""

    def emit(self, record: logging.LogRecord) -> None:
        if fact := fact_of(record):
            steps[-1].setdefault(fact.name, []).append(fact.state)


steps: list[dict[str, list[str]]] = []


def train(*overrides: str) -> PipelineRunResponse:
    config = load_config([folder / "small.yaml"], overrides)
    steps.append({})
    return start(prepare("sft", config), cache=True, started=lambda name: None)


def verdicts(name: str, run: PipelineRunResponse) -> None:
    """Note what each reader of a run is told of its curves."""
    card, page = (
        str(run.steps[step].outputs[made][0].load()) for step, made in (("export", "model_card"), ("report", "report"))
    )
    told[name] = {
        "cached": run.steps["train_sft"].status.value == "cached",
        "summary": [each["name"] for each in build_summary(collect(run))["training"]["sft"]["verdicts"]],
        "dashboard": run.run_metadata["verdicts"],
        "card": card,
        "page": page,
        "error": "",
    }


def run(name: str, main: click.Command, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    error = "" if isinstance(done.exception, SystemExit | None) else repr(done.exception)
    told[name] = {"code": done.exit_code, "output": " ".join(done.output.split()), "error": error}
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, Lines)]


def command(name: str, *arguments: str) -> None:
    """Run tools/promote.py, and note what it printed and who holds what."""
    run(name, promote.main, [*arguments, "--config", str(folder / "small.yaml")])
    holders = {v.name: str(v.stage) for v in Client().list_model_versions(model="small").items if v.stage}
    told[name]["holders"] = holders


def answering(answer: bool) -> threading.Thread:
    """Return a thread that waits for a question and answers it, as a person does in the dashboard."""

    def answer_it() -> None:
        while not (pending := Client().list_run_wait_conditions(status="pending").items):
            time.sleep(0.1)
        Client().resolve_run_wait_condition(pending[0].id, result=answer)

    thread = threading.Thread(target=answer_it)
    thread.start()
    return thread


rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(24)]
(folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
(folder / "small.yaml").write_text(CONFIG)
open_store()
logging.getLogger("zenml").addHandler(Facts())
first = train()
if sys.argv[2] == "commands":
    train("promotion.least_units=2")  # shapes no result: everything but the decision is cached
    told["steps"] = {"first": steps[0], "second": dict(steps[1]), "error": ""}
else:
    train("evaluation.max_new_tokens=5")  # measured otherwise: the holder of a stage is measured anew
command("first", "1", "production")
if sys.argv[2] == "commands":
    command("unknown version", "9", "production")
    command("unknown model", "1", "production", "--name", "nobody")
    command("plan", "2", "production", "--plan")
    command("forced", "2", "production", "--force", "--reason", "the demo is today", *PROOF)
    told["forced"]["record"] = Client().get_model_version("small", 2).run_metadata["stage_production"]
    command("again", "2", "production")
    written = ["--html", str(folder / "both.html"), "--json", str(folder / "both.json")]
    run("compare", compare.main, ["small@1", "small@2", *written])
    run("compare with itself", compare.main, ["small@1", "small@1"])
    run("compare unknown", compare.main, ["small@1", "nobody"])
    verdicts("verdicts of before", first)
    verdicts("verdicts of now", train("watch.min_points=3", "watch.exploding_gradients.high=1e-6"))
else:
    command("refused", "2", "production", *PROOF)
    thread = answering(False)
    command("no", "2", "production", "--approve")
    thread.join()
    command("no answer", "2", "production", "--approve", "--set", "promotion.approval_minutes=0.02")
    told["no answer"]["run"] = Client().list_pipeline_runs(size=1, sort_by="desc:created").items[0].status.value
    thread = answering(True)
    command("yes", "2", "production", "--approve")
    thread.join()
    command("archived", "2", "archived")
    train("promotion.approval=true")
    latest = Client().get_model_version("small", "latest")
    told["training"] = {"stage": latest.stage, "reason": str(latest.run_metadata["reason"]), "error": ""}
(folder / "told.json").write_text(json.dumps(told, indent=1))
