"""What is asked before a run: one list, reached by every job that it names, and by plan, rehearsal and run alike."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("refuse_a_warmup.py")
DATA = {"sft": [{"embedded": True}], "preference": [{"sample": {"checker": "llm_engineering.embedded.zoo:judge"}}]}
JOBS = ("training", "sft", "dpo", "evaluation", "comparison", "sweep")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZenML imports


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zenml.utils import source_utils

    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    source_utils.set_custom_source_root(str(REPOSITORY))


def config(**blocks: object) -> RunConfig:
    named = {"tracking": {"type": "none"}, "evaluation": {"models": {"mine": "embedded"}}, "sweep": {"dpo.beta": [0.1]}}
    return RunConfig.model_validate({"data": DATA, **named, **blocks})


def test_plan_rehearsal_and_run_refuse_a_warmup_with_one_sentence_before_anything_is_trained(tmp_path: Path) -> None:
    calm = {"ZENML_CONFIG_PATH": str(tmp_path / "zen"), "ZENML_ANALYTICS_OPT_IN": "false", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **calm, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    arguments = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert {one["code"] for one in told.values()} == {2}
    [said] = {one["error"] for one in told.values()}
    assert said.startswith("dpo.warmup (100 steps) is no shorter than the training (5 steps).")
    assert "preflight" in told["run"]["steps"]
    assert not {"train_sft", "train_dpo"} & set(told["run"]["steps"])


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize("job", JOBS)
def test_each_check_is_reached_by_each_job_that_it_names(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_engineering.reports.folders import RowSet
    from pipelines.launching import preflight
    from pipelines.launching.prepare import prepare

    reached: list[str] = []

    def spied(check: preflight.Check) -> preflight.Check:
        def ask(asked: preflight.Asked) -> Iterator[str]:
            yield from check.ask(asked) or ()
            reached.append(check.name)

        return replace(check, ask=ask)

    monkeypatch.setattr(preflight, "CHECKS", tuple(map(spied, preflight.CHECKS)))
    launch = prepare(job, config())
    counted = RowSet(path=Path("rows"), sha256="a", rows={"train": 10**4, "eval": 100})
    rows = preflight.CountedRows(counted, counted, counted)
    preflight.go_through(preflight.Asked(job, launch.config, launch.place, rows=rows), "rows")
    assert reached == [check.name for check in preflight.CHECKS if job in check.jobs]


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize("job", ["training", "sft", "dpo", "comparison", "sweep"])
def test_every_training_waits_for_the_preflight(job: Any) -> None:
    from pipelines.launching.plan import _twin
    from pipelines.launching.prepare import prepare

    launch = prepare(job, config())
    pipeline = _twin(launch, [])
    pipeline.prepare(launch.config, launch.base, **launch.arguments)
    upstream = {name: one.upstream_steps for name, one in pipeline.invocations.items()}
    trainings = [name for name in upstream if name.startswith("train_")]
    assert trainings
    assert all("preflight" in upstream[name] for name in trainings)


@pytest.mark.usefixtures("own_store")
@pytest.mark.parametrize(
    ("job", "blocks", "sentence"),
    [
        ("sft", {"adapter": {"type": "lora", "targets": ["nowhere"]}}, r"adapter\.targets \['nowhere'\] match no"),
        ("sweep", {"sweep": {"data.max_length": [128, 10**6]}}, "data.max_length is 1000000, but the model has"),
        ("sft", {"data": {"sft": []}}, "data.sft names no source, which --run-sft needs"),
    ],
)
def test_what_the_model_and_the_configuration_say_is_known_before_the_data_is_read(
    job: Any, blocks: dict[str, object], sentence: str
) -> None:
    from pipelines.launching.prepare import prepare

    with pytest.raises(ConfigError, match=sentence):
        prepare(job, config(**blocks))
