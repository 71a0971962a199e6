"""Google's own client against the stand-in of Vertex AI: what it posts arrives, and what it posted runs."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.stacks.standins.jobs import Image, Machine

REASON = "Google Cloud's packages are not installed here: run with .venv-vertex (`make vertex-env`)"
aiplatform = pytest.importorskip("google.cloud.aiplatform", reason=REASON)
from kfp import dsl  # noqa: E402
from kfp.compiler import Compiler  # noqa: E402

if TYPE_CHECKING:
    from pipelines.stacks.standins.google_cloud import GoogleCloud
    from pipelines.stacks.standins.vertex import VertexStandIn

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DEADLINE = 30.0
IMAGE = "europe-docker.pkg.dev/rehearsal/images/llm-engineering:1"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator["GoogleCloud"]:
    """One for all tests: gRPC reads certificates once a process."""
    from pipelines.stacks.standins.google_cloud import google_cloud_standin

    with google_cloud_standin(tmp_path_factory.mktemp("cloud")) as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment.items():
            patch.setenv(name, value)
        yield cloud
    assert cloud.internet.refused == set()


@pytest.fixture
def stand_in(cloud: "GoogleCloud", tmp_path: Path) -> Iterator["VertexStandIn"]:
    from pipelines.stacks.standins.vertex import VertexStandIn

    machine = Machine(tmp_path / "machine", Image(Path(sys.executable)))
    with VertexStandIn(cloud, machine) as vertex:
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
        pipeline_root="gs://rehearsal/root",
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
with system.open("gs://rehearsal/kept/it.txt", "wb") as file:
    file.write(b"from the job")
print(system.credentials.method, system.cat("gs://rehearsal/kept/it.txt").decode())
"""

    @dsl.pipeline
    def training() -> None:
        component("python", "-c", write)()

    assert ended(post(training, tmp_path)) == "PIPELINE_STATE_SUCCEEDED"
    (run,) = stand_in.runs.values()
    assert run.jobs[0].log.read_text() == "cloud from the job\n"


def test_the_key_is_for_its_owner_alone(cloud: "GoogleCloud") -> None:
    assert cloud.key.stat().st_mode & 0o777 == 0o600
