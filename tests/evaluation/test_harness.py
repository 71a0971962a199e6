"""The lm-evaluation-harness on the embedded base, with task files and data of this machine alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm_engineering.config.evaluation import HarnessConfig
from llm_engineering.errors import ConfigError
from llm_engineering.evaluation.evidence import with_evidence
from llm_engineering.reports.evaluation import EvaluationReport, HarnessReport, ModelScores
from llm_engineering.scoring import harness
from llm_engineering.scoring.harness import measure_tasks, require_tasks, tasks_hash

installed = pytest.mark.skipif(harness.find_spec("lm_eval") is None, reason="the extra harness is not installed")
CHOICE = """
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
SAY = """
task: zoo_say
dataset_path: json
dataset_kwargs: {data_files: {test: zoo.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "nothing at all"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "choice.yaml").write_text(CHOICE)
    (folder / "say.yaml").write_text(SAY)
    rows = [{"question": f"Where is animal {i}? It is at the"} for i in range(6)]
    (folder / "zoo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_without_the_extra_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"not installed. Install it with `pip install -c constraints.txt"):
        require_tasks(HarnessConfig(tasks=["arc_easy"]))


@installed
@pytest.mark.filterwarnings("ignore")  # the harness's own
def test_local_tasks_are_measured_offline_on_every_model(tasks, embedded, embedded_tokenizer) -> None:
    config = HarnessConfig(tasks=["zoo_choice", "zoo_say"], include_path=str(tasks), limit=5, batch_size=4)
    require_tasks(config)
    report = measure_tasks({"base": embedded, "sft": embedded}, embedded_tokenizer, config, torch.float32, seed=1)
    assert report.metrics["base"] == report.metrics["sft"]
    choice, say = (report.metrics["base"][f"harness/{name}"] for name in ("zoo_choice/acc", "zoo_say/exact_match"))
    # two tokens are likelier than a dozen: all five are right; and nobody says "nothing at all"
    assert (choice.value, choice.units, say.value) == (1.0, 5, 0.0)
    assert choice.low == pytest.approx(5 / (5 + 1.96**2), rel=1e-3)  # Wilson's, at all of five
    assert report.outcomes["base"]["harness/zoo_choice/acc"] == [1.0] * 5
    assert report.notes == ["The lm-evaluation-harness saw only the first 5 documents of a task."]


@installed
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: None, "there is no task 'zoo_choise' in the harness nor in .*; did you mean zoo_choice?"),
        (lambda folder: (folder / "zoo.jsonl").unlink(), "cannot be run .*zoo.jsonl.*Check the task files"),
        (lambda folder: (folder / "choice.yaml").write_text(CHOICE.replace("json\n", "org/gone\n")), "org/gone.*hub"),
        (
            lambda folder: (folder / "choice.yaml").write_text(CHOICE + "unsafe_code: true\n"),
            "zoo_choice would run code that the models write",
        ),
    ],
    ids=["unknown task", "missing data", "data on the hub", "code of the model"],
)
def test_a_task_that_cannot_be_run_is_refused(
    change: Callable[[Path], object], sentence: str, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = harness._manager  # the harness's own thousands of tasks take seconds to read
    monkeypatch.setattr(harness, "_manager", lambda config: own(config.model_copy(update={"tasks": ["zoo_choice"]})))
    change(tasks)
    name = "zoo_choise" if "zoo_choise" in sentence else "zoo_choice"
    with pytest.raises(ConfigError, match=sentence):
        require_tasks(HarnessConfig(tasks=[name], include_path=str(tasks)))


@installed
def test_a_folder_of_tasks_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="include_path /no/such/folder is no folder"):
        require_tasks(HarnessConfig(tasks=["mine"], include_path="/no/such/folder"))


@installed
def test_an_edited_task_file_has_another_hash(tasks: Path) -> None:
    config = HarnessConfig(tasks=["zoo_choice"], include_path=str(tasks))
    before = tasks_hash(config)
    assert tasks_hash(config) == before
    (tasks / "zoo.jsonl").write_text('{"question": "What?"}\n')
    assert tasks_hash(config) != before


def test_metrics_that_are_no_mean_keep_the_standard_error_of_the_harness() -> None:
    results = {
        "results": {
            "news": {
                "alias": "news",
                "sample_len": 4,
                "bleu,none": 30.0,
                "bleu_stderr,none": 2.0,
                "exact_match,strict": 0.5,
                "exact_match_stderr,strict": "N/A",
            }
        },
        "n-samples": {"news": {"original": 9, "effective": 4}},
        "samples": {"news": [{"doc_id": i, "filter": "strict", "bleu": 1.0, "exact_match": i % 2} for i in (1, 0)]},
    }
    found = dict(harness._metrics(results))
    assert (found["harness/news/bleu"].low, found["harness/news/bleu"].high) == (30 - 1.96 * 2, 30 + 1.96 * 2)
    assert found["harness/news/exact_match,strict"].low is None
    assert {metric.units for metric in found.values()} == {4}
    assert harness._outcomes(results, "harness/news/exact_match,strict") == [0.0, 1.0]
    assert harness._outcomes(results, "harness/news/bleu") == []


def test_results_stand_in_the_evaluation_report() -> None:
    scores = ModelScores(checkpoint_sha256="x", metrics={})
    report = EvaluationReport(
        fingerprint="f", split="test", questions=0, pairs=0, models={"base": scores}, samples=[], seconds=0.0
    )
    metric = {"value": 0.5, "low": 0.1, "high": 0.9, "units": 4}
    found = HarnessReport.model_validate(
        {
            "settings_sha256": "s",
            "version": "1",
            "metrics": {"base": {"harness/zoo/acc": metric}},
            "notes": ["Only some."],
            "seconds": 1.0,
        }
    )
    whole = with_evidence(report, harness=found)
    assert whole.models["base"].metrics["harness/zoo/acc"].value == 0.5
    assert whole.notes == ["Only some."]
    assert whole.fingerprint != report.fingerprint
