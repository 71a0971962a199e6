"""Real data with real faults, and models of other architectures, through the whole pipeline."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import REPOSITORY, CommandLine

SHARED = REPOSITORY.parent / "shared" / "data"
SHORT = """
name: {name}
model: {{base: {base}}}
data:
  sft: [{{path: {sft}}}]
  preference: [{{path: {preference}}}]
  evaluation_share: {share}
  max_length: {max_length}
sft: {{max_steps: 4, learning_rate: 1.0e-3}}
dpo: {{max_steps: 4, batch_size: 4, learning_rate: 1.0e-4}}
evaluation: {{max_questions: 3, max_new_tokens: 8, sampled_answers: 0}}
tracking: {{type: none}}
"""


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here")
def test_the_handbooks_data_runs_to_the_end_and_every_row_is_accounted_for(
    command_line: CommandLine, tmp_path: Path
) -> None:
    config = tmp_path / "twin.yaml"
    sft, preference = (SHARED / f"llm_twin_{kind}_train.jsonl" for kind in ("instruct", "preference"))
    config.write_text(
        SHORT.format(name="twin", base="embedded", sft=sft, preference=preference, max_length=512, share=0.02)
    )
    found = command_line.summary(tmp_path / "s.json", "--run-training", "--config", str(config))

    pairs = found["data"]["preference"]
    assert pairs["rows"] == 381
    assert pairs["dropped"]["identical pair"] == 54
    assert pairs["train"] + pairs["eval"] + pairs["test"] + sum(pairs["dropped"].values()) == 381
    conversations = found["data"]["sft"]
    assert conversations["rows"] == 2250
    assert conversations["train"] + conversations["eval"] + sum(conversations["dropped"].values()) == 2250
    report = Path(found["artifacts"]["report"]).read_text()
    assert "54 identical pair" in report
    quarantine = Path(found["artifacts"]["quarantine"]) / "quarantine.jsonl"
    reasons = Counter(json.loads(line)["reason"] for line in quarantine.read_text().splitlines())
    assert reasons == Counter(conversations["dropped"]) + Counter(pairs["dropped"])


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
@pytest.mark.slow
def test_a_local_model_folder_of_another_architecture(
    family: str, model_folders: Callable[[str], Path], command_line: CommandLine, tmp_path: Path
) -> None:
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(40)]
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": f"Not {n}, I think."} for n in range(40)]
    for name, lines in (("rows.jsonl", rows), ("pairs.jsonl", pairs)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tmp_path / "own.yaml"
    base = model_folders(family)
    config.write_text(
        SHORT.format(name=family, base=base, sft="rows.jsonl", preference="pairs.jsonl", max_length=96, share=0.1)
    )
    target = tmp_path / "exported"
    found = command_line.summary(
        tmp_path / "s.json", "--run-training", "--config", str(config), "--set", f"export.dir={target}"
    )

    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = found["artifacts"]["dpo_model"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    if found["promotion"]["promoted"]:
        assert (target / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_that_holds_nothing_out_measures_and_promotes_nothing_and_says_so(
    command_line: CommandLine, tmp_path: Path
) -> None:
    rows = [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(20)]
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}.", "rejected": f"Not {n}, I think."} for n in range(20)]
    for name, lines in (("rows.jsonl", rows), ("pairs.jsonl", pairs)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    config, summary = tmp_path / "own.yaml", tmp_path / "s.json"
    config.write_text(
        SHORT.format(
            name="blind", base="embedded", sft="rows.jsonl", preference="pairs.jsonl", max_length=96, share=0.0
        )
    )
    done = command_line.run("--run-training", "--config", str(config), "--summary", str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There are no held-out rows: nothing was measured, and nothing will be promoted." in done.stdout
    found = json.loads(summary.read_text())
    assert found["models"] == {"base": {}, "sft": {}, "dpo": {}}
    assert found["promotion"]["promoted"] is None
