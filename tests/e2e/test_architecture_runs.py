"""Every supported architecture through the whole pipeline, run as a user runs it."""

import json
import math
from pathlib import Path

import pytest
from architectures import FAMILIES, write_family
from command_line import CommandLine

CONFIG = """
name: {name}
model: {{base: {base}, special_tokens: {{eos: {eos}}}}}
data:
  sft: [{{path: rows.jsonl}}]
  preference: [{{path: pairs.jsonl}}]
  evaluation_share: 0.2
  max_length: 128
sft: {{max_steps: 8, batch_size: 4, learning_rate: 1.0e-2, logging_steps: 1}}
dpo: {{max_steps: 8, batch_size: 4, learning_rate: 1.0e-3, logging_steps: 1}}
evaluation: {{max_questions: 3, max_new_tokens: 8, sampled_answers: 0}}
tracking: {{type: none}}
"""
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_an_architecture_runs_from_base_to_promotion(family: str, command_line: CommandLine, tmp_path: Path) -> None:
    base = write_family(family, tmp_path / "base")
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(30)]
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": f"Not {n}, I think."} for n in range(30)]
    for name, lines in (("rows.jsonl", rows), ("pairs.jsonl", pairs)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tmp_path / "own.yaml"
    config.write_text(CONFIG.format(name=family, base=base, eos=FAMILIES[family].eos or "null"))

    found = command_line.summary(tmp_path / "s.json", "--run-training", "--config", str(config))
    assert found["run"]["status"] == "completed"
    assert found["proofs"]["step0_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert found["proofs"]["reference_hash"] == found["proofs"]["sft_hash"] == found["proofs"]["reference_hash_after"]
    for stage in ("sft", "dpo"):
        assert found["proofs"]["merge"][stage]["max_logit_difference"] < 1e-3
        assert math.isfinite(found["training"][stage]["metrics"]["loss"])
    assert found["training"]["sft"]["path"] == FAMILIES[family].sft_path
    assert found["training"]["dpo"]["path"] == "fast"
    assert set(found["models"]) == {"base", "sft", "dpo"}
    assert found["models"]["sft"]["held_out_loss"] < found["models"]["base"]["held_out_loss"]
    assert found["promotion"]["reason"]
