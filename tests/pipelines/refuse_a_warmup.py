"""Ask for a plan, a rehearsal and a run of the same configuration with the real command; see test_preflight.py."""

import json
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from zenml.client import Client

from tools import run

folder = Path(sys.argv[1])
CONFIG = """
name: small
data:
  sft: [{path: sft.jsonl}]
  preference: [{path: pairs.jsonl}]
  evaluation_share: 0.1
sft: {batch_size: 16}
dpo: {batch_size: 8, warmup: 100}
tracking: {type: none}
"""
told: dict[str, Any] = {}

sft = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(40)]
pairs = [{"prompt": f"Which is {n}?", "chosen": f"Town {n} is Paris.", "rejected": f"No, {n}."} for n in range(40)]
for name, rows in (("sft", sft), ("pairs", pairs)):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
(folder / "small.yaml").write_text(CONFIG)
for name, flags in {"plan": ["--plan"], "rehearsal": ["--rehearse"], "run": []}.items():
    done = CliRunner().invoke(run.main, ["--run-training", "--config", str(folder / "small.yaml"), *flags])
    steps = [step for found in Client().list_pipeline_runs(size=5, hydrate=True).items for step in found.steps]
    said = " ".join(done.output.split())
    told[name] = {"code": done.exit_code, "error": said.partition("Error: ")[2], "steps": sorted(steps)}
(folder / "told.json").write_text(json.dumps(told))
