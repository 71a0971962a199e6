"""What was submitted is held against the stack's file and the pipeline."""

import base64
import io
import sys
import tarfile
from pathlib import Path

import pytest

from llm_engineering.checkup.finding import Finding
from llm_engineering.config.stacks import Component, Machine, StackConfig
from tools.stack_rehearsal.conformity import (
    examine_code,
    examine_entry_points,
    examine_environments,
    examine_images,
    examine_jobs,
    examine_machines,
    examine_order,
    examine_run,
    examine_secrets,
)
from tools.stack_rehearsal.outcome import Outcome, StepOutcome
from tools.stack_rehearsal.standins.jobs import Image
from tools.stack_rehearsal.standins.jobs import Machine as Place
from tools.stack_rehearsal.standins.posted import Limits, Posted

IMAGE = "registry/llm-engineering:1"
STACK = StackConfig(
    about="one",
    extras=[],
    integrations=[],
    artifact_store=Component(flavor="s3"),
    orchestrator=Component(flavor="sagemaker"),
    image=IMAGE,
    cpu=Machine(about="small", orchestrator={"instance_type": "ml.m5.xlarge"}),
    gpu=Machine(about="large", gpus=1, orchestrator={"instance_type": "ml.g5.xlarge"}),
)
OUTCOME = Outcome(
    name="one",
    status="completed",
    steps={
        "load_datasets": StepOutcome(status="completed", upstream=set()),
        "train_sft": StepOutcome(status="completed", upstream={"load_datasets"}),
    },
)


def post(step: str = "train_sft", **facts: object) -> Posted:
    command = ["python", "-m", "zenml.entrypoints.entrypoint", "--step_name", step]
    return Posted(**{"name": step, "image": IMAGE, "command": command, "environment": {}, **facts})  # type: ignore[arg-type]


def problems(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.level == "problem"]


def test_another_image_is_a_problem() -> None:
    assert problems(examine_images([post()], IMAGE)) == []
    assert problems(examine_images([post(image="other")], IMAGE)) == [
        f"train_sft asks for the image other, not {IMAGE}"
    ]


def test_a_command_that_is_none_of_zenml_is_a_problem() -> None:
    assert problems(examine_entry_points([post()])) == []
    assert problems(examine_entry_points([post(command=["bash", "-c", "true"])])) == [
        "train_sft runs bash -c true, which is no entry point of ZenML's"
    ]


def test_a_gpu_step_on_a_small_machine_is_a_problem() -> None:
    fitting = [post(machine="ml.g5.xlarge"), post("load_datasets", machine="ml.m5.xlarge")]
    assert problems(examine_machines(fitting, STACK)) == []
    assert problems(examine_machines([post(machine="ml.m5.xlarge")], STACK)) == [
        "train_sft asks for ml.m5.xlarge, not ml.g5.xlarge"
    ]


def test_a_gpu_step_that_names_no_gpu_is_a_problem() -> None:
    starter = post(command=["python", "-m", "zenml.integrations.kubernetes"], gpus=0)
    assert problems(examine_machines([post(gpus=1), post("load_datasets", gpus=0), starter], STACK)) == []
    assert problems(examine_machines([post(gpus=0)], STACK)) == ["train_sft asks for 0 GPUs, not 1"]


def test_an_environment_beyond_the_limits_is_a_problem() -> None:
    limits = Limits(variables=2, characters=3)
    assert problems(examine_environments([post(environment={"A": "123", "B": ""})], limits)) == []
    assert problems(examine_environments([post(environment={"A": "1234", "B": "", "C": ""})], limits)) == [
        "3 variables, and the platform allows 2",
        "a variable of 4 characters, and the platform allows 3",
    ]


def test_a_step_that_is_not_told_to_wait_is_a_problem() -> None:
    told = [post(after=frozenset({"load_datasets"})), post("load_datasets", after=frozenset())]
    assert problems(examine_order(told, [], OUTCOME)) == []
    assert problems(examine_order([post(after=frozenset())], [], OUTCOME)) == [
        "train_sft is told to wait for nothing, and needs load_datasets"
    ]


def test_a_job_that_began_before_what_it_needs_had_ended_is_a_problem(tmp_path: Path) -> None:
    machine = Place(tmp_path, Image(Path(sys.executable)))
    for name in ("train_sft", "load_datasets"):  # the wrong way round
        machine.start(name, ["true", "--step_name", name], {}).wait(20)
    assert problems(examine_order([], machine.jobs, OUTCOME)) == ["train_sft began before load_datasets had ended"]
    assert problems(examine_order([], machine.jobs[:1], OUTCOME)) == []


def test_a_job_that_failed_is_named_with_its_log(tmp_path: Path) -> None:
    machine = Place(tmp_path, Image(Path(sys.executable)))
    for name, command in (("good", "true"), ("bad", "false")):
        machine.start(name, [command], {}).wait(20)
    (fault,) = problems(examine_jobs(machine.jobs))
    assert fault == f"bad ended with 1; its log is {tmp_path / 'logs' / 'bad.log'}"


@pytest.mark.parametrize("text", ["... s3cret ...", base64.b64encode(b"s3cret").decode()])
def test_a_secret_in_what_was_submitted_is_a_problem(text: str) -> None:
    assert problems(examine_secrets("nothing", [post()], {"the key": "s3cret"})) == []
    assert problems(examine_secrets(text, [post()], {"the key": "s3cret"})) == ["the key stands in what was submitted"]


def test_the_token_of_the_run_is_mentioned_where_it_stands_in_plain_text() -> None:
    bearer = post(environment={"ZENML_STORE_API_TOKEN_CHUNK_0": "ey"})
    (note,) = [found for found in examine_secrets("", [bearer, post()], {}) if found.level == "note"]
    assert note.text == "the run's token stands in plain text in 1 of 2 requests, as ZenML posts them"


def test_a_file_that_is_not_in_the_code_archive_is_a_problem() -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("steps/merge.py"))
    assert problems(examine_code(io.BytesIO(written.getvalue()), ["steps/merge.py"])) == []
    assert problems(examine_code(io.BytesIO(written.getvalue()), ["steps/merge.py", "steps/two words.py"])) == [
        "steps/two words.py is not in the code archive"
    ]
    emulator = io.BytesIO()
    with tarfile.open(fileobj=emulator, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("tools/stack_rehearsal/outcome.py"))
    assert problems(examine_code(io.BytesIO(emulator.getvalue()), [])) == [
        "tools/stack_rehearsal/outcome.py is in the code archive"
    ]
    assert problems(examine_code(None, [])) == ["no code was uploaded: the jobs have what the image holds, and no more"]


def test_a_run_that_did_not_end_well_is_a_problem() -> None:
    assert problems(examine_run(OUTCOME)) == []
    steps = {**OUTCOME.steps, "train_sft": StepOutcome(status="not started", upstream=set())}
    stuck = OUTCOME.model_copy(update={"status": "running", "steps": steps})
    assert problems(examine_run(stuck)) == ["the run one is running: train_sft is not started"]
    assert problems(examine_run(None)) == ["the server has no run: nothing was submitted"]
