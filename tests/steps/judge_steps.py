"""Judge written answers by the step `judge`, thrice, and write what was seen; see test_judge_steps.py."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from zenml import pipeline, step
from zenml.client import Client

sys.path.insert(0, str(Path(__file__).parents[1]))

from judge_server import JudgeServer, Response, serving, verdict

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.errors import ConfigError
from llm_engineering.reports.evaluation import EvaluationReport, GreedyAnswers, ModelScores
from pipelines.store import open_store
from steps.gather_evidence import gather_evidence
from steps.judge import judge
from steps.runtime.context import judge_key
from steps.runtime.work import release_work_folders, sweep_work_folders, work_root

KEY = "sk-of-a-zenml-secret-0123456789"
open_store()
folder = Path(sys.argv[1])
found: dict[str, Any] = {"runs": [], "refused": []}


@step
def written_report() -> Annotated[EvaluationReport, "evaluation_report"]:
    """Give answers of which the longer ones are the child's."""
    return EvaluationReport(
        fingerprint="f",
        split="test",
        questions=3,
        pairs=0,
        models={name: ModelScores(checkpoint_sha256=name, metrics={}) for name in ("base", "sft")}
        | {"sft": ModelScores(checkpoint_sha256="sft", metrics={}, parent="base")},
        samples=[],
        answers=[
            GreedyAnswers(
                unit=str(i),
                prompt=json.dumps([{"role": "user", "content": f"{i}?"}]),
                reference="",
                answers={"base": "no", "sft": f"yes, {i}"},
            )
            for i in range(3)
        ],
        seconds=0.0,
    )


@pipeline
def only_judge(config: OpenAIJudge) -> None:
    report = written_report()
    judged, _ = judge(report, config.deciding, 0)
    gather_evidence(report, judged)


def run(config: OpenAIJudge, server: JudgeServer) -> None:
    before = len(server.requests)
    made = only_judge.with_options(extra={"judge": config.model_dump(mode="json")})(config)
    steps = Client().get_pipeline_run(made.id).steps
    report: EvaluationReport = steps["gather_evidence"].outputs["evaluation_report"][0].load()
    assert report.judge is not None
    verdicts = Path(steps["judge"].outputs["judge_verdicts"][0].load().path) / "verdicts.jsonl"
    release_work_folders()
    sweep_work_folders()
    found["runs"].append(
        {
            "status": steps["judge"].status.value,
            "asked": len(server.requests) - before,
            "judged": report.judge.counts[0].judged,
            "wins": report.models["sft"].metrics.get("judge_win_rate/base") is not None,
            "error": report.judge.error,
            "notes": report.notes,
            "verdicts": len(verdicts.read_text().splitlines()),
            "left": [path.name.partition("-")[0] for path in work_root().iterdir()],
        }
    )


def longer_wins(parts: dict[str, str], _: object) -> "str | Response":
    asked.append(parts)
    if 2 < len(asked) <= 3:
        return Response(401, {"error": {"message": f"{KEY} has expired"}})
    return verdict("A" if len(parts["answer A"]) > len(parts["answer B"]) else "B")


asked: list[object] = []
Client().create_secret("judges", {"main": KEY})
with serving(longer_wins) as server:
    block = {"base_url": server.url, "model": "scripted", "retries": 0, "concurrency": 1}
    config = OpenAIJudge.model_validate(block | {"api_key_secret": "judges.main"})
    run(config, server)
    run(config, server)
    run(config.model_copy(update={"timeout": 7.0, "input_price": 1.0}), server)
    found["keys"] = sorted(set(server.keys))
for place in ("nobody.main", "judges.other"):
    try:
        judge_key(config.model_copy(update={"api_key_secret": place}))
    except ConfigError as error:
        found["refused"].append(str(error))
(folder / "found.json").write_text(json.dumps(found))
