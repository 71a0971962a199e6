"""The judge at a model that transformers' own server serves on this machine."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.models.checkpoints import EMBEDDED_FOLDER
from llm_engineering.reports.evaluation import EvaluationReport, GreedyAnswers, ModelScores
from llm_engineering.scoring.judge.judging import judge_answers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    command = [str(program), "serve", str(EMBEDDED_FOLDER), "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_every_reply_of_a_served_model_is_a_verdict_or_is_counted(address: str, tmp_path: Path) -> None:
    report = EvaluationReport(
        fingerprint="f",
        split="test",
        questions=2,
        pairs=0,
        models={
            "base": ModelScores(checkpoint_sha256="b", metrics={}),
            "sft": ModelScores(checkpoint_sha256="s", metrics={}, parent="base"),
        },
        samples=[],
        answers=[
            GreedyAnswers(
                unit=colour,
                prompt=json.dumps([{"role": "user", "content": "What colour is it?"}]),
                reference=f"It is {colour}.",
                answers={"base": "It was a bright day at the zoo.", "sft": f"It is {colour}."},
            )
            for colour in ("black", "white")
        ],
        seconds=0.0,
    )
    config = OpenAIJudge(
        base_url=address, model=str(EMBEDDED_FOLDER), modes=["pairwise", "rubric"], max_tokens=16, timeout=120.0
    )
    judged, verdicts = judge_answers(report, config, 0, tmp_path, api_key="none")
    assert (judged.error, judged.failures) == (None, {})
    assert judged.requests == 8  # two questions in both orders, and two answers each
    assert judged.input_tokens > 8 * 20
    assert 0 < judged.output_tokens <= 8 * 16
    assert all(count.judged + count.invalid == 2 for count in judged.counts)
    # a model of a million parameters that talks of animals is no judge, and is not taken for one
    assert {verdict.problem for verdict in verdicts} <= {"unparsable", "empty", "cut off"}
    assert all(verdict.reply or verdict.problem == "empty" for verdict in verdicts)
    assert judged.metrics == {}
