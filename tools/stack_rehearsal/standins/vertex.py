"""Stands in for Vertex AI: pipelines and custom jobs that are posted here run as local processes.

Google's own client, and so ZenML's orchestrator and step operator, post over gRPC and TLS to the host that they know;
``Internet`` leads the connection here. No function of ZenML or of the client is replaced. The credentials are of
nobody, and the pipeline root is a bucket of ``google_cloud_standin``.

Imitated: ``CreatePipelineJob``, ``CreateCustomJob``, questions about their state, their cancelling, and the question
to whom the pipeline's bucket belongs, which the client asks first. A pipeline's tasks run one after the other in the
order of their dependencies: container components as they are, and custom jobs (``custom_job_parameters``) as the
launcher of Google's components would start them. The first task that fails ends the pipeline.

Not imitated: pulling the image, machine types, accelerators and disks (recorded, and checked by nobody), quotas,
service accounts and their rights, networks, several workers in a job, restarts, time limits, tasks at the same time,
schedules, the caching of Vertex AI (ZenML turns it off), and anything of Kubeflow's that ZenML's orchestrator does
not use: parameters, conditions, loops.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, Self

from google.cloud.aiplatform_v1.types import (
    custom_job,
    job_service,
    job_state,
    pipeline_job,
    pipeline_service,
    pipeline_state,
)
from google.cloud.resourcemanager_v3.types import projects
from google.protobuf import empty_pb2
from google.protobuf.json_format import MessageToDict

from tools.stack_rehearsal.standins.google_cloud import ACCOUNT, PROJECT, PROJECT_NUMBER, GoogleCloud
from tools.stack_rehearsal.standins.grpc_server import GrpcServer, Method
from tools.stack_rehearsal.standins.jobs import Job, Machine
from tools.stack_rehearsal.standins.loopback import Recording
from tools.stack_rehearsal.standins.posted import Limits, Posted, step_of

JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
"""What Vertex AI takes as the id of a pipeline's run."""
LOCATION = "europe-west4"


@dataclass(frozen=True)
class Task:
    """One container: a task of a pipeline, or a custom job."""

    name: str
    image: str
    command: tuple[str, ...]
    """The entry point and its arguments."""
    accelerator: str
    """Vertex AI's name of the type; empty for none."""
    num_accelerators: int
    machine: str
    """The machine type; empty where Vertex AI chooses one for the limits."""
    cpus: str
    memory: str
    after: tuple[str, ...] | None
    """The tasks before it; None for a job of its own."""
    environment: Mapping[str, str] = field(repr=False)
    """Holds the run's token, in plain text: that is how ZenML posts it."""


@dataclass
class Run:
    """A pipeline or a custom job, and what became of it."""

    name: str
    """``projects/…/pipelineJobs/…`` or ``projects/…/customJobs/…``."""
    tasks: tuple[Task, ...]
    request: Any = field(repr=False)
    """The resource as it was posted."""
    state: str = "RUNNING"
    """The end of the state's name in Vertex AI: RUNNING, SUCCEEDED, FAILED, CANCELLED."""
    jobs: list[Job] = field(default_factory=list)


class VertexStandIn:
    """Vertex AI's services for pipelines and jobs, for ``with``."""

    limits = Limits(variables=100, characters=131_072)
    """Google allows 100 variables to a container of a custom job, and names no length; Linux starts no process with
    more than 128 KiB in one (``MAX_ARG_STRLEN``)."""

    def __init__(self, cloud: GoogleCloud, machine: Machine, recording: Recording, location: str = LOCATION) -> None:
        self._cloud = cloud
        self._machine = machine
        self._recording = recording
        self._location = location
        self._host = f"{location}-aiplatform.googleapis.com"
        self._open = ExitStack()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        """Held while a job starts and while a run is cancelled: no job starts in a run that is."""
        self.runs: dict[str, Run] = {}
        """All that were posted, by the resource's name."""

    def __enter__(self) -> Self:
        server = self._open.enter_context(GrpcServer(self._methods()))
        self._cloud.internet.lead(self._host, server.port, "h2")
        self._cloud.internet.lead("cloudresourcemanager.googleapis.com", server.port, "h2")
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.runs.values():
            self._cancel(run)
        self.finish()
        self._open.close()

    @property
    def environment(self) -> dict[str, str]:
        """What leads Google's client here."""
        return self._cloud.environment

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values of a stack."""
        return {"location": self._location, "service_account": ACCOUNT}

    def posted(self) -> list[Posted]:
        """Return the containers that were asked for."""
        return [_posted(task, run) for run in self.runs.values() for task in run.tasks]

    def finish(self) -> None:
        """Wait until nothing runs."""
        for thread in self._threads:
            thread.join()

    def _methods(self) -> list[Method]:
        pipelines = "/google.cloud.aiplatform.v1.PipelineService"
        jobs = "/google.cloud.aiplatform.v1.JobService"
        pipeline, job = pipeline_job.PipelineJob.pb(), custom_job.CustomJob.pb()
        create_pipeline = pipeline_service.CreatePipelineJobRequest.pb()
        get_pipeline, cancel_pipeline = (
            pipeline_service.GetPipelineJobRequest.pb(),
            pipeline_service.CancelPipelineJobRequest.pb(),
        )
        create_job, get_job, cancel_job = (
            job_service.CreateCustomJobRequest.pb(),
            job_service.GetCustomJobRequest.pb(),
            job_service.CancelCustomJobRequest.pb(),
        )
        return [
            Method(f"{pipelines}/CreatePipelineJob", create_pipeline, pipeline, self._create_pipeline),
            Method(f"{pipelines}/GetPipelineJob", get_pipeline, pipeline, self._tell),
            Method(f"{pipelines}/CancelPipelineJob", cancel_pipeline, empty_pb2.Empty, self._answer_cancel),
            Method(f"{jobs}/CreateCustomJob", create_job, job, self._create_job),
            Method(f"{jobs}/GetCustomJob", get_job, job, self._tell),
            Method(f"{jobs}/CancelCustomJob", cancel_job, empty_pb2.Empty, self._answer_cancel),
            Method(
                "/google.cloud.resourcemanager.v3.Projects/GetProject",
                projects.GetProjectRequest.pb(),
                projects.Project.pb(),
                _project,
            ),
        ]

    def _create_pipeline(self, request: Any) -> Any:
        name = request.pipeline_job_id
        assert JOB_ID.fullmatch(name), f"Vertex AI takes no id like {name!r}"
        tasks = tasks_of_pipeline(MessageToDict(request.pipeline_job.pipeline_spec), name)
        request.pipeline_job.name = f"{request.parent}/pipelineJobs/{name}"
        return self._start(Run(request.pipeline_job.name, tasks, request.pipeline_job))

    def _create_job(self, request: Any) -> Any:
        spec = MessageToDict(request.custom_job.job_spec, preserving_proto_field_name=True)
        name = str(len(self.runs) + 1)
        task = _task_of_workers(request.custom_job.display_name, spec["worker_pool_specs"], None)
        request.custom_job.name = f"{request.parent}/customJobs/{name}"
        return self._start(Run(request.custom_job.name, (task,), request.custom_job))

    def _start(self, run: Run) -> Any:
        self.runs[run.name] = run
        self._recording.add("create", MessageToDict(run.request))
        thread = threading.Thread(target=self._play, args=[run], name=run.name)
        self._threads.append(thread)
        thread.start()
        return self._stated(run)

    def _play(self, run: Run) -> None:
        """Run the tasks one after the other."""
        tasks = {task.name: task for task in run.tasks}
        for name in TopologicalSorter({task.name: task.after or () for task in run.tasks}).static_order():
            job = self._start_task(run, tasks[name])
            if job is None or job.wait() != 0:
                self._end(run, "FAILED")
                return
        self._end(run, "SUCCEEDED")

    def _start_task(self, run: Run, task: Task) -> Job | None:
        """Start a task; not in a run that was cancelled."""
        job_id = f"{len(self._machine.jobs) + 1}"
        given = {**self._cloud.job_environment, "CLOUD_ML_PROJECT_ID": PROJECT_NUMBER, "CLOUD_ML_JOB_ID": job_id}
        with self._lock:
            if run.state != "RUNNING":
                return None
            run.jobs.append(self._machine.start(f"{task.name}-{job_id}", task.command, {**given, **task.environment}))
            return run.jobs[-1]

    def _end(self, run: Run, state: str) -> None:
        with self._lock:
            if run.state == "RUNNING":
                run.state = state

    def _tell(self, request: Any) -> Any:
        return self._stated(self.runs[request.name])

    def _stated(self, run: Run) -> Any:
        """Return the resource with its state. What is posted and what is answered are of one type in this API."""
        kinds = {
            "pipelineJobs": (pipeline_state.PipelineState, "PIPELINE_STATE"),
            "customJobs": (job_state.JobState, "JOB_STATE"),
        }
        states, prefix = kinds[run.name.split("/")[-2]]
        run.request.state = states[f"{prefix}_{run.state}"].value
        return run.request

    def _answer_cancel(self, request: Any) -> Any:
        self._cancel(self.runs[request.name])
        return empty_pb2.Empty()

    def _cancel(self, run: Run) -> None:
        self._end(run, "CANCELLED")
        for job in run.jobs:
            job.stop()


def _posted(task: Task, run: Run) -> Posted:
    # Kubeflow's compiler writes a task's name with hyphens: its command has the step's own
    steps = {each.name: step_of(each.command) or each.name for each in run.tasks}
    return Posted(
        name=task.name,
        image=task.image,
        command=task.command,
        environment=task.environment,
        machine=task.machine or None,
        gpus=task.num_accelerators,
        after=None if task.after is None else frozenset(steps[name] for name in task.after),
    )


def tasks_of_pipeline(spec: Mapping[str, Any], job_id: str) -> tuple[Task, ...]:
    """Return the containers that a compiled pipeline asks for.

    Args:
        spec: The pipeline as Kubeflow's compiler writes it (IR, schema 2.1).
        job_id: What the pipeline's placeholders for its own name become.
    """
    executors = spec["deploymentSpec"]["executors"]
    tasks = []
    for name, task in spec["root"]["dag"]["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        after = tuple(task.get("dependentTasks", []))
        inputs = component.get("inputDefinitions", {}).get("parameters", {})
        if "worker_pool_specs" in inputs:
            tasks.append(_task_of_workers(name, inputs["worker_pool_specs"]["defaultValue"], after, job_id))
        else:
            tasks.append(_task_of_container(name, executors[component["executorLabel"]]["container"], after, job_id))
    return tuple(tasks)


def _task_of_container(name: str, container: Mapping[str, Any], after: tuple[str, ...], job_id: str) -> Task:
    resources = container.get("resources", {})
    accelerator = resources.get("accelerator", {})
    return Task(
        name=name,
        image=container["image"],
        command=(*container.get("command", []), *container.get("args", [])),
        accelerator=accelerator.get("resourceType", ""),
        num_accelerators=int(accelerator.get("resourceCount", 0)),
        machine="",
        cpus=resources.get("resourceCpuLimit", ""),
        memory=resources.get("resourceMemoryLimit", ""),
        after=after,
        environment=_variables(container.get("env", []), job_id),
    )


def _task_of_workers(
    name: str, pools: Sequence[Mapping[str, Any]], after: tuple[str, ...] | None, job_id: str | None = None
) -> Task:
    (pool,) = pools  # ZenML asks for one machine
    container, machine = pool["container_spec"], pool["machine_spec"]
    return Task(
        name=name,
        image=container["image_uri"],
        command=(*container.get("command", []), *container.get("args", [])),
        accelerator=machine.get("accelerator_type", ""),
        num_accelerators=int(machine.get("accelerator_count", 0)),
        machine=machine["machine_type"],
        cpus="",
        memory="",
        after=after,
        environment=_variables(container.get("env", []), job_id),
    )


def _variables(listed: Sequence[Mapping[str, str]], job_id: str | None) -> dict[str, str]:
    """Return the environment, with the placeholder that ZenML uses for the name of the run replaced."""
    given = {variable["name"]: variable.get("value", "") for variable in listed}
    return given if job_id is None else {name: _filled(value, job_id) for name, value in given.items()}


def _filled(value: str, job_id: str) -> str:
    return value.replace("{{$.pipeline_job_name}}", job_id)


def _project(request: Any) -> Any:
    reply = projects.Project.pb()()
    reply.name, reply.project_id = f"projects/{PROJECT_NUMBER}", PROJECT
    return reply
