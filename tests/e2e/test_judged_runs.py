"""A whole run with a judge on this machine and tasks of the harness: what is asked, kept, taken again and forgiven."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY, CommandLine
from judge_server import Response, serving, verdict

from llm_engineering.scoring.harness import PACKAGE, find_spec

KEY = "sk-drill-0123456789abcdefghij"
SFT_ONLY = """
name: judged
data:
  sft: [{{embedded: true}}]
  max_length: 128
sft: {{max_steps: 12, batch_size: 16, learning_rate: 4.0e-3}}
evaluation:
  max_questions: 6
  max_new_tokens: 12
  sampled_answers: 0
  judge: {{base_url: "{url}", model: scripted, modes: [pairwise, rubric], retries: 0, timeout: 5, concurrency: 1}}
{harness}
tracking: {{type: none}}
"""
HARNESS = "  harness: {tasks: [zoo_choice], include_path: tasks, limit: 3}"
TASK = """
task: zoo_choice
dataset_path: json
dataset_kwargs: {data_files: {test: zoo.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["zoo.", "black and white striped from head to tail, all of it."]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def shorter_wins(parts: dict[str, str], _: object) -> str:
    if "answer" in parts:
        return verdict(1 + len(parts["answer"]) % 5)
    a, b = len(parts["answer A"]), len(parts["answer B"])
    return verdict("tie" if a == b else "A" if a < b else "B")


@pytest.mark.slow
def test_a_run_is_judged_and_a_judge_that_fails_is_asked_again(tmp_path: Path) -> None:
    line = CommandLine(REPOSITORY, tmp_path / "zen", {"OPENAI_API_KEY": KEY})
    config = tmp_path / "judged.yaml"
    harness = HARNESS if find_spec(PACKAGE) else ""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "zoo.yaml").write_text(TASK)
    (tmp_path / "tasks" / "zoo.jsonl").write_text('{"question": "It is at the"}\n' * 4)
    asked = []

    def breaks_down(parts: dict[str, str], request: object) -> "str | Response":
        asked.append(parts)
        broken = 4 < len(asked) <= 4 + 5
        return Response(503, {"error": {"message": f"no {KEY}"}}) if broken else shorter_wins(parts, request)

    with serving(breaks_down) as server:
        config.write_text(SFT_ONLY.format(url=server.url, harness=harness))
        arguments = ("--run-sft", "--config", str(config))
        first = line.summary(tmp_path / "first.json", *arguments)
        assert len(asked) == 9  # four replies, then five refusals, and the rest is not asked
        assert first["run"]["status"] == "completed"
        assert not [name for name in first["models"]["sft"] if name.startswith("judge")]
        second = line.summary(tmp_path / "second.json", *arguments)
        requests = len(server.requests) - 5
        third = line.summary(tmp_path / "third.json", *arguments)
        assert len(server.requests) - 5 == requests  # a judgement that is complete is taken from the cache
    assert set(second["run"]["cached_steps"]) >= {"train_sft", "merge_sft", "evaluate"}
    assert "judge" not in second["run"]["cached_steps"]
    assert {"judge", "gather_evidence"} <= set(third["run"]["cached_steps"])
    judged: dict[str, Any] = second["models"]
    assert third["models"] == judged
    assert {"judge_score", "judge_win_rate/base"} <= set(judged["sft"])
    assert "judge_score" in judged["base"]
    if harness:
        assert judged["sft"]["harness/zoo_choice/acc"] == 1.0
    verdicts = (Path(second["artifacts"]["judge_verdicts"]) / "verdicts.jsonl").read_text()
    rows = [json.loads(row) for row in verdicts.splitlines()]
    assert sum(row["asked"] for row in rows) >= requests
    assert {row["mode"] for row in rows} == {"pairwise", "rubric"}
    report = Path(second["artifacts"]["report"]).read_text()
    assert f"The judge scripted replied to {requests} requests" in report
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
