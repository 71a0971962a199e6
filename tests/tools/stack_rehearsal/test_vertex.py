"""Google's own client against the stand-in of Vertex AI: what it posts arrives, and what it posted runs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small_pipeline import IMAGE as REGISTRY_IMAGE

from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.loopback import Recording
from tools.stack_rehearsal.standins.zenml_server import zenml_server

REASON = "Google Cloud's packages are not installed here: run with .venv-vertex (`make vertex-env`)"
aiplatform = pytest.importorskip("google.cloud.aiplatform", reason=REASON)
from kfp import dsl  # noqa: E402
from kfp.compiler import Compiler  # noqa: E402

if TYPE_CHECKING:
    from tools.stack_rehearsal.standins.google_cloud import GoogleCloud
    from tools.stack_rehearsal.standins.vertex import VertexStandIn

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DEADLINE = 30.0
IMAGE = "europe-docker.pkg.dev/emulation/images/llm-engineering:1"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator["GoogleCloud"]:
    """One for all tests: gRPC reads certificates once a process."""
    from tools.stack_rehearsal.standins.google_cloud import google_cloud_standin

    with google_cloud_standin(tmp_path_factory.mktemp("cloud")) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        yield cloud
    assert cloud.internet.refused == set()


@pytest.fixture
def stand_in(cloud: "GoogleCloud", tmp_path: Path) -> Iterator["VertexStandIn"]:
    from tools.stack_rehearsal.standins.vertex import VertexStandIn

    machine = Machine(tmp_path / "machine", Image(Path(sys.executable)))
    with VertexStandIn(cloud, machine, Recording(tmp_path / "submitted.jsonl")) as vertex:
        yield vertex


def component(*command: str) -> dsl.ContainerSpec:
    @dsl.container_component
    def container() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=IMAGE, command=list(command))

    return container


def post(pipeline: object, folder: Path) -> "aiplatform.PipelineJob":
    from google.auth import default

    Compiler().compile(pipeline, str(folder / "pipeline.json"), pipeline_name="training")
    credentials, project = default()
    run = aiplatform.PipelineJob(
        display_name="training",
        template_path=str(folder / "pipeline.json"),
        job_id="training-1",
        pipeline_root="gs://emulation/root",
        credentials=credentials,
        project=project,
        location="europe-west4",
    )
    run.submit()
    return run


def ended(run: "aiplatform.PipelineJob") -> str:
    end = time.monotonic() + DEADLINE
    while (state := run.state.name) == "PIPELINE_STATE_RUNNING":
        assert time.monotonic() < end
        time.sleep(0.05)
    return str(state)


def test_tasks_run_in_the_order_of_their_dependencies_with_what_was_posted(
    stand_in: "VertexStandIn", tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.write_text("")

    def write(mark: str) -> dsl.ContainerSpec:
        line = f"import os; open({str(marks)!r}, 'a').write('{mark} ' + os.environ['RUN'] + '\\n')"
        return component("python", "-c", line)

    @dsl.pipeline
    def training() -> None:
        late = write("late")().set_env_variable("RUN", dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
        early = write("early")().set_env_variable("RUN", dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
        late.after(early)
        late.set_accelerator_type("NVIDIA_TESLA_A100").set_accelerator_limit(2).set_cpu_limit("8").set_memory_limit(
            "64G"
        )

    assert ended(post(training, tmp_path)) == "PIPELINE_STATE_SUCCEEDED"
    assert marks.read_text() == "early training-1\nlate training-1\n"
    (run,) = stand_in.runs.values()
    asked = [(task.image, task.accelerator, task.num_accelerators, task.cpus, task.memory) for task in run.tasks]
    assert sorted(asked) == [(IMAGE, "", 0, "", ""), (IMAGE, "NVIDIA_TESLA_A100", 2, "8", "64G")]


def test_the_first_task_that_fails_ends_the_pipeline(stand_in: "VertexStandIn", tmp_path: Path) -> None:
    @dsl.pipeline
    def training() -> None:
        failing = component("python", "-c", "raise SystemExit(3)")()
        component("true")().after(failing)

    assert ended(post(training, tmp_path)) == "PIPELINE_STATE_FAILED"
    (run,) = stand_in.runs.values()
    assert [job.poll() for job in run.jobs] == [3]


def test_a_cancelled_pipeline_leaves_no_process(stand_in: "VertexStandIn", tmp_path: Path) -> None:
    @dsl.pipeline
    def training() -> None:
        component("sleep", "600")()

    run = post(training, tmp_path)
    (posted,) = stand_in.runs.values()
    end = time.monotonic() + DEADLINE
    while not posted.jobs:
        assert time.monotonic() < end
        time.sleep(0.01)
    run.cancel()
    assert ended(run) == "PIPELINE_STATE_CANCELLED"
    assert posted.jobs[0].poll() is not None


def test_a_job_finds_the_bucket_by_the_metadata_server_and_without_a_key(
    stand_in: "VertexStandIn", tmp_path: Path
) -> None:
    write = """
import gcsfs
system = gcsfs.GCSFileSystem()
with system.open("gs://emulation/kept/it.txt", "wb") as file:
    file.write(b"from the job")
print(system.credentials.method, system.cat("gs://emulation/kept/it.txt").decode())
"""

    @dsl.pipeline
    def training() -> None:
        component("python", "-c", write)()

    assert ended(post(training, tmp_path)) == "PIPELINE_STATE_SUCCEEDED"
    (run,) = stand_in.runs.values()
    assert run.jobs[0].log.read_text() == "google_default from the job\n"


def test_the_key_is_for_its_owner_alone(cloud: "GoogleCloud") -> None:
    assert cloud.key.stat().st_mode & 0o777 == 0o600


ACCELERATOR = ["cloud.google.com/gke-accelerator", "NVIDIA_L4"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The small pipeline, with what of this project it imports."""
    here, repository = Path(__file__).parent, Path(__file__).parents[3]
    ignored = shutil.ignore_patterns("__pycache__", "embedded")
    shutil.copytree(repository / "llm_engineering", tmp_path / "project/llm_engineering", ignore=ignored)
    for name in ("pipelines/__init__.py", "pipelines/stacks/__init__.py", "pipelines/stacks/workarounds.py"):
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, tmp_path / "project" / name)
    for name in ("small_pipeline.py", "submitting.py"):
        shutil.copy(here / name, tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.slow
def test_zenml_s_orchestrator_and_step_operator_post_what_runs(
    cloud: "GoogleCloud", stand_in: "VertexStandIn", tmp_path: Path, project: Path
) -> None:
    with zenml_server(Path(sys.executable), tmp_path / "server", cloud.job_environment) as server:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
        led = {**cloud.environment, **server.client_environment(tmp_path / "client")}
        environment = {**kept, "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore::FutureWarning", **led}

        def client(**request: object) -> dict[str, Any]:
            command = [sys.executable, "submitting.py", json.dumps(request)]
            done = subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, check=False)
            stand_in.finish()
            assert done.returncode == 0, done.stdout + done.stderr
            return dict(json.loads(done.stdout.splitlines()[-1]))

        here = {"project": "emulation", "location": "europe-west4", "synchronous": False}
        there = {"project": "emulation", "region": "europe-west4"}
        gpu = {"orchestrator": {"node_selector_constraint": ACCELERATOR}}
        client(
            components={
                "artifact_store": {"flavor": "gcp", "configuration": {"path": f"{cloud.bucket}/artifacts"}},
                "container_registry": {"flavor": "default", "configuration": {"uri": REGISTRY_IMAGE.split("/")[0]}},
                "image_builder": {"flavor": "local", "configuration": {}},
                "orchestrator": {"flavor": "vertex", "configuration": here},
                "step_operator": {"flavor": "vertex", "configuration": there},
            },
            options={
                "settings": {"resources": {"cpu_count": 4, "memory": "16GB"}},
                "steps": {
                    "locate": {"settings": {**gpu, "resources": {"gpu_count": 2, "cpu_count": 12, "memory": "48GB"}}},
                    "add": {
                        "step_operator": True,
                        "settings": {
                            "step_operator": {"accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 1},
                            "resources": {"gpu_count": 1},
                        },
                    },
                },
            },
        )
        logs = "\n".join(job.log.read_text() for run in stand_in.runs.values() for job in run.jobs)
        found = client(look=True)
    assert found["status"] == "completed", logs
    assert found["values"]["total"] == 42
    assert all(place.startswith(f"{cloud.bucket}/artifacts/") for place in found["places"].values())
    pipeline, job = stand_in.runs.values()
    asked = {t.name: (t.image, t.accelerator, t.num_accelerators, t.cpus, t.memory) for t in pipeline.tasks}
    assert asked["count"] == (REGISTRY_IMAGE, "", 0, "4.0", "16G")
    assert asked["locate"] == (REGISTRY_IMAGE, "NVIDIA_L4", 2, "12.0", "48G")
    assert {task.name: set(task.after or ()) for task in pipeline.tasks}["add"] == {"count", "locate"}
    assert [(task.image, task.accelerator, task.num_accelerators) for task in job.tasks] == [
        (REGISTRY_IMAGE, "NVIDIA_TESLA_T4", 1)
    ]
    assert all(each.command[:3] == ("python", "-m", "zenml.entrypoints.entrypoint") for each in stand_in.posted())
    most = max(len(each.environment) for each in stand_in.posted())
    longest = max(len(value) for each in stand_in.posted() for value in each.environment.values())
    assert most <= stand_in.limits.variables
    assert longest <= stand_in.limits.characters
    posted = (tmp_path / "submitted.jsonl").read_text()
    assert server.api_key not in posted
    assert "PRIVATE KEY" not in posted
