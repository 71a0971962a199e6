"""Microsoft's own client against the stand-in of AzureML: what it puts arrives, and what it put runs."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from emulated import Open
from small_pipeline import IMAGE as REGISTRY_IMAGE

from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.loopback import Recording

REASON = "azure-ai-ml is not installed here: run with .venv-stacks (`make stacks-env`)"
ml = pytest.importorskip("azure.ai.ml", reason=REASON)
from azure.ai.ml import entities  # noqa: E402

if TYPE_CHECKING:
    from tools.stack_rehearsal.standins.azureml import AzureML

pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's own deprecations
DEADLINE = 30.0
IMAGE = "emulation.azurecr.io/llm-engineering:1"
FINISH = 'mkdir -p "$(dirname "$AZURE_ML_OUTPUT_COMPLETED")" && echo done > "$AZURE_ML_OUTPUT_COMPLETED"'


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["AzureML"]:
    from tools.stack_rehearsal.standins.azureml import azureml_standin

    machine, recording = Machine(tmp_path / "machine", Image(Path(sys.executable))), Recording(tmp_path / "put.jsonl")
    with azureml_standin(machine, recording, tmp_path / "azure") as workspace:
        for name, value in workspace.environment.items():
            monkeypatch.setenv(name, value)
        yield workspace


@pytest.fixture
def client(stand_in: "AzureML") -> "ml.MLClient":
    from azure.identity import DefaultAzureCredential

    from tools.stack_rehearsal.standins.azureml import GROUP, SUBSCRIPTION, WORKSPACE

    return ml.MLClient(DefaultAzureCredential(), SUBSCRIPTION, GROUP, WORKSPACE)


def component(name: str, command: str, *after: str) -> "entities.CommandComponent":
    return entities.CommandComponent(
        name=name,
        inputs={other: ml.Input(type="uri_file") for other in after},
        outputs={"completed": ml.Output(type="uri_file")},
        environment=entities.Environment(name="training", image=IMAGE),
        command=command,
    )


def ended(client: "ml.MLClient", name: str) -> object:
    end = time.monotonic() + DEADLINE
    while (status := client.jobs.get(name).status) == "Running":
        assert time.monotonic() < end
        time.sleep(0.05)
    return status


def put_pipeline(client: "ml.MLClient", late_command: str, early_command: str, **late_settings: Any) -> str:
    """Return the name that the client gave to the run."""
    late, early = component("late", late_command, "early"), component("early", early_command)

    @ml.dsl.pipeline(force_rerun=True)
    def training() -> None:
        first = early()
        second = late(early=first.outputs.completed)
        for name, value in late_settings.items():
            setattr(second, name, value)

    job = training()
    job.settings.default_compute = "serverless"
    return str(client.jobs.create_or_update(job).name)


def test_jobs_of_a_pipeline_run_in_the_order_of_their_inputs_on_the_compute_that_was_asked_for(
    stand_in: "AzureML", client: "ml.MLClient", tmp_path: Path
) -> None:
    cluster = entities.AmlCompute(name="gpus", size="Standard_NC24ads_A100_v4", min_instances=0, max_instances=1)
    client.begin_create_or_update(cluster).result()
    assert client.compute.get("gpus").size == "Standard_NC24ads_A100_v4"
    marks = tmp_path / "marks"
    say = [f"echo {name} $AZUREML_ROOT_RUN_ID >> {marks} && {FINISH}" for name in ("late", "early")]
    run = put_pipeline(client, *say, compute="gpus")
    assert ended(client, run) == "Completed"
    assert marks.read_text() == f"early {run}\nlate {run}\n"
    asked = {task.name: (task.image, task.compute, task.after) for task in stand_in.runs[run].tasks}
    assert asked == {"early": (IMAGE, "serverless", ()), "late": (IMAGE, "gpus", ("early",))}


@pytest.mark.parametrize("failing", ["exit 3", "true"])  # a job that fails, and one that leaves no file `completed`
def test_the_first_job_that_fails_ends_the_pipeline(stand_in: "AzureML", client: "ml.MLClient", failing: str) -> None:
    run = put_pipeline(client, FINISH, failing)
    assert ended(client, run) == "Failed"
    assert len(stand_in.runs[run].jobs) == 1


def test_a_command_job_runs_with_its_variables_and_shared_memory(stand_in: "AzureML", client: "ml.MLClient") -> None:
    environment = entities.Environment(name="training", image=IMAGE)
    job = ml.command(
        name="step-1",
        command="echo $GIVEN",
        environment=environment,
        environment_variables={"GIVEN": "seen"},
        shm_size="16g",
    )
    assert ended(client, client.jobs.create_or_update(job).name) == "Completed"
    run = stand_in.runs["step-1"]
    assert run.jobs[0].log.read_text() == "seen\n"
    assert [(task.image, task.compute, task.shm_size) for task in run.tasks] == [(IMAGE, "serverless", "16g")]


def test_a_cancelled_job_leaves_no_process(stand_in: "AzureML", client: "ml.MLClient") -> None:
    environment = entities.Environment(name="training", image=IMAGE)
    job = client.jobs.create_or_update(ml.command(name="step-1", command="sleep 600", environment=environment))
    end = time.monotonic() + DEADLINE
    while not stand_in.runs["step-1"].jobs:
        assert time.monotonic() < end
        time.sleep(0.01)
    client.jobs.begin_cancel(job.name).result()
    assert ended(client, job.name) == "Canceled"
    assert stand_in.runs["step-1"].jobs[0].poll() is not None


GPUS = {"mode": "compute-cluster", "compute_name": "gpus", "size": "Standard_NC24ads_A100_v4", "max_instances": 1}


@pytest.mark.slow
def test_a_pipeline_runs_as_it_was_submitted(standing: Open) -> None:
    from tools.stack_rehearsal.standins.azureml import GROUP, SUBSCRIPTION, WORKSPACE, AzureML

    configuration = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace": WORKSPACE}
    with standing("azureml") as emulated:
        done = emulated.submit(
            {"orchestrator": {"flavor": "azureml", "configuration": configuration}},
            options={
                "settings": {"orchestrator": {"shm_size": "16g"}},
                "steps": {"locate": {"settings": {"orchestrator": GPUS}}},
            },
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["total"] == 42
        (azureml,) = emulated.emulation.standins
        assert isinstance(azureml, AzureML)
        (run,) = azureml.runs.values()
        asked = {task.name: (task.image, task.compute, task.size, task.shm_size) for task in run.tasks}
        assert asked == {
            "count": (REGISTRY_IMAGE, "serverless", None, "16g"),
            "locate": (REGISTRY_IMAGE, "gpus", "Standard_NC24ads_A100_v4", "16g"),
            "add": (REGISTRY_IMAGE, "serverless", None, "16g"),
        }
        posted = emulated.posted
        assert posted["count"].after == posted["locate"].after == frozenset()
        assert posted["add"].after == {"count", "locate"}
        assert posted["add"].command[:3] == ["python", "-m", "zenml.entrypoints.entrypoint"]
        text = emulated.emulation.surroundings.recording.path.read_text()
        assert not [what for what, secret in emulated.emulation.secrets.items() if secret in text]


@pytest.mark.slow
def test_the_step_operator_sends_one_step_to_the_cluster_and_waits_for_it(standing: Open) -> None:
    from tools.stack_rehearsal.standins.azureml import GROUP, SUBSCRIPTION, WORKSPACE, AzureML

    configuration = {"subscription_id": SUBSCRIPTION, "resource_group": GROUP, "workspace_name": WORKSPACE}
    with standing("azureml") as emulated:
        done = emulated.submit(
            {"step_operator": {"flavor": "azureml", "configuration": configuration}},
            options={
                "steps": {"locate": {"step_operator": True, "settings": {"step_operator": {**GPUS, "shm_size": "16g"}}}}
            },
        )
        assert done.returncode == 0, done.stderr
        outcome = emulated.outcome()
        assert outcome["status"] == "completed", emulated.logs()
        assert outcome["values"]["library"] == str(emulated.jobs_of("locate")[0].app / "code" / "llm_engineering")
        (azureml,) = emulated.emulation.standins
        assert isinstance(azureml, AzureML)
        (task,) = next(iter(azureml.runs.values())).tasks
        asked = (task.image, task.compute, task.size, task.shm_size)
        assert asked == (REGISTRY_IMAGE, "gpus", "Standard_NC24ads_A100_v4", "16g")
