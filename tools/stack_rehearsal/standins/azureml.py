"""Stands in for Azure Machine Learning: pipelines and command jobs that are put here run as local processes.

Microsoft's own client (``azure-ai-ml``), and so ZenML's orchestrator and step operator, speak HTTPS to the hosts that
they know; ``Internet`` leads the connections here. No function of ZenML or of the client is replaced. It logs in as a
service principal of nobody.

Imitated: the log-in, one workspace, compute targets (made and found), environments, components, command jobs,
pipelines of command components, their state and their cancelling. A pipeline's jobs run one after the other, in the
order in which their inputs come from other jobs' outputs, and a job whose file ``completed`` is missing at its end is
a failed one, as the next would wait for it. The first that fails ends the pipeline.

Not imitated: pulling the image, machines and their sizes (recorded, and checked by nobody), quotas, rights, restarts,
logs (who follows a job sees its end alone), schedules, blob storage: the artifacts of an emulation lie in ``s3``.
"""

import base64
import json
import re
import secrets
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import jwt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tools.stack_rehearsal.standins.internet import Internet
from tools.stack_rehearsal.standins.jobs import Job, Machine
from tools.stack_rehearsal.standins.loopback import Recording, serving
from tools.stack_rehearsal.standins.posted import Posted

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP, WORKSPACE, REGION, TENANT = "emulation", "emulation", "westeurope", "emulation"
LOGIN_HOST = "login.microsoftonline.com"
MANAGEMENT_HOST = "management.azure.com"
WORKSPACE_HOST = f"{REGION}.api.azureml.ms"
AUDIENCE = "https://ml.azure.com"
_PROVIDER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.MachineLearningServices"
_ROOT = f"{_PROVIDER}/workspaces/{WORKSPACE}"
_OUTPUT_OF_JOB = re.compile(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.\w+\}\}")

Document = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One container: a job of a pipeline, or a command job."""

    name: str
    image: str
    command: str
    """For the shell. ZenML's orchestrator puts the environment into it, and with it the run's token."""
    compute: str
    """The compute target; ``serverless`` where Azure chooses the machine."""
    size: str | None
    """The size of the target's machines, where the target is known."""
    shm_size: str
    """Shared memory of the container; empty for Azure's default."""
    after: tuple[str, ...] | None
    """The jobs before it; None for a job of its own."""
    environment: Mapping[str, str] = field(repr=False)
    """What stands beside the command, and what ZenML's orchestrator encoded into it."""


@dataclass
class Run:
    """A pipeline or a command job, and what became of it."""

    name: str
    tasks: tuple[Task, ...]
    status: str = "Running"
    """In Azure's words: Running, Completed, Failed, Canceled."""
    jobs: list[Job] = field(default_factory=list)


class AzureML:
    """One workspace."""

    values: Mapping[str, str] = {
        "subscription": SUBSCRIPTION,
        "resource_group": GROUP,
        "workspace": WORKSPACE,
        "tenant": TENANT,
        "client": "emulation",
    }
    limits = None

    def __init__(self, machine: Machine, recording: Recording, internet: Internet) -> None:
        self._machine = machine
        self._recording = recording
        self._internet = internet
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        """Held while a job starts and while a run is cancelled: no job starts in a run that is."""
        self._signature = secrets.token_hex(32)
        self.resources: dict[str, Document] = {}
        """All that was put, by its path in the workspace: ``computes/…``, ``environments/…/versions/…``."""
        self.runs: dict[str, Run] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What leads Microsoft's client here, in the names of ``azure-identity``. The principal is nobody."""
        principal = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "emulation", "AZURE_CLIENT_SECRET": "emulation"}
        return {**self._internet.environment, **principal}

    def posted(self) -> list[Posted]:
        """Return the containers that were asked for."""
        return [
            Posted(
                name=task.name,
                image=task.image,
                command=shlex.split(task.command),
                environment=task.environment,
                machine=task.size,
                after=None if task.after is None else frozenset(task.after),
            )
            for run in self.runs.values()
            for task in run.tasks
        ]

    def finish(self) -> None:
        """Wait until no job runs."""
        for thread in self._threads:
            thread.join()

    def token(self) -> Document:
        """Return a token: the client looks at whom it is for, and nobody checks its signature."""
        claims = {"aud": AUDIENCE, "tid": TENANT, "oid": "emulation", "appid": "emulation"}
        encoded = jwt.encode(claims, self._signature, algorithm="HS256")
        return {"token_type": "Bearer", "expires_in": 3600, "access_token": encoded}

    def get(self, path: str) -> Document | None:
        """Return a resource of the workspace; None where there is none."""
        if path == "":
            return _workspace()
        found = self.resources.get(path)
        if found and path.startswith("jobs/"):
            found["properties"]["status"] = self.runs[found["name"]].status
        return found

    def put(self, path: str, document: Document) -> Document:
        """Keep a resource; a job starts."""
        self._recording.add(f"put {path}", document)
        name = path.rpartition("/")[2]
        kept = self.resources[path] = {**document, "id": f"{_ROOT}/{path}", "name": name}
        if path.startswith("computes/"):
            kept["properties"]["provisioningState"] = "Succeeded"
        if path.startswith("jobs/"):
            studio = {"endpoint": "https://ml.azure.com", "type": "Studio", "jobServiceType": "Studio"}
            kept["properties"] |= {"status": "Running", "services": {"Studio": studio}}
            self._start(Run(name, self._tasks(name, kept["properties"])))
        return kept

    def cancel(self, name: str) -> None:
        """End a run."""
        run = self.runs[name]
        self._end(run, "Canceled")
        for job in run.jobs:
            job.stop()

    def close(self) -> None:
        """End all runs."""
        for name in self.runs:
            self.cancel(name)
        self.finish()

    def _tasks(self, name: str, asked: Document) -> tuple[Task, ...]:
        if asked["jobType"] == "Command":
            return (self._task(name, asked, asked["environmentId"], asked.get("computeId"), None),)
        assert asked["jobType"] == "Pipeline", f"{asked['jobType']} is not played"
        default = (asked.get("settings") or {}).get("default_compute") or asked.get("computeId")
        # The client calls a job of a pipeline as the variable of the pipeline's function that held it.
        components = {node: self._component(job["componentId"]) for node, job in asked["jobs"].items()}
        tasks = []
        for node, job in asked["jobs"].items():
            component = components[node]
            sources = [str(given.get("value", "")) for given in (job.get("inputs") or {}).values()]
            nodes_before = [found[1] for source in sources if (found := _OUTPUT_OF_JOB.fullmatch(source))]
            after = tuple(components[before]["name"] for before in nodes_before)
            shared = component | {"resources": job.get("resources") or component.get("resources")}
            environment, compute = component["environment"], job.get("computeId") or default
            tasks.append(self._task(component["name"], shared, environment, compute, after))
        return tuple(tasks)

    def _component(self, reference: str) -> Document:
        specification: Document = self.resources[_within(reference)]["properties"]["componentSpec"]
        return specification

    def _task(
        self, name: str, asked: Document, environment: str, compute: str | None, after: tuple[str, ...] | None
    ) -> Task:
        resources = asked.get("resources") or {}
        target = (compute or "serverless").rpartition("/")[2]
        known = self.resources.get(f"computes/{target}")
        return Task(
            name=name,
            image=self.resources[_within(environment)]["properties"]["image"],
            command=asked["command"],
            compute=target,
            size=known["properties"]["properties"]["vmSize"] if known else None,
            shm_size=resources.get("shmSize") or resources.get("shm_size") or "",
            after=after,
            environment={**(asked.get("environmentVariables") or {}), **_encoded_variables(asked["command"])},
        )

    def _start(self, run: Run) -> None:
        self.runs[run.name] = run
        for task in run.tasks:  # those that are encoded in a command would be found by nobody who looks for secrets
            self._recording.add(f"variables of {task.name}", dict(task.environment))
        thread = threading.Thread(target=self._play, args=[run], name=run.name)
        self._threads.append(thread)
        thread.start()

    def _play(self, run: Run) -> None:
        """Run the jobs one after the other."""
        tasks = {task.name: task for task in run.tasks}
        for name in TopologicalSorter({task.name: task.after or () for task in run.tasks}).static_order():
            if not self._succeeds(run, tasks[name]):
                self._end(run, "Failed")
                return
        self._end(run, "Completed")

    def _succeeds(self, run: Run, task: Task) -> bool:
        """Run a job to its end; none starts in a run that was cancelled."""
        number = len(self._machine.jobs) + 1
        completed = self._machine.folder / "outputs" / str(number) / "completed"
        given = {"AZUREML_ROOT_RUN_ID": run.name, "AZUREML_RUN_ID": f"{run.name}-{number}"}
        if task.after is not None:
            given["AZURE_ML_OUTPUT_COMPLETED"] = str(completed)
        with self._lock:
            if run.status != "Running":
                return False
            # The shell's arguments go unused; by them one sees which step the job runs.
            command = ["bash", "-c", task.command, *shlex.split(task.command)]
            job = self._machine.start(f"{task.name}-{number}", command, {**given, **task.environment})
            run.jobs.append(job)
        return job.wait() == 0 and (task.after is None or completed.exists())

    def _end(self, run: Run, status: str) -> None:
        with self._lock:
            if run.status == "Running":
                run.status = status


def _encoded_variables(command: str) -> dict[str, str]:
    """Return the environment that ZenML's orchestrator puts into the command, where it does."""
    words = shlex.split(command)
    if "--zenml_env_variables" not in words:
        return {}
    variables: dict[str, str] = json.loads(base64.b64decode(words[words.index("--zenml_env_variables") + 1]))
    return variables


def _within(reference: str) -> str:
    """Return the path in the workspace of what is referred to by its id."""
    return reference.removeprefix("azureml:").rpartition(f"/workspaces/{WORKSPACE}/")[2]


def _workspace() -> Document:
    properties = {
        "workspaceId": SUBSCRIPTION,
        "discoveryUrl": f"https://{WORKSPACE_HOST}/discovery",
        "mlFlowTrackingUri": f"azureml://{WORKSPACE_HOST}/mlflow/v1.0{_ROOT}",
        "provisioningState": "Succeeded",
    }
    kind = "Microsoft.MachineLearningServices/workspaces"
    return {"id": _ROOT, "name": WORKSPACE, "type": kind, "location": REGION, "properties": properties}


@contextmanager
def azureml_standin(machine: Machine, recording: Recording, folder: Path) -> Iterator[AzureML]:
    """Serve a workspace until the block ends.

    Args:
        machine: Runs the jobs.
        recording: Takes what was put.
        folder: Takes the certificates.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Internet(folder) as internet:
        workspace = AzureML(machine, recording, internet)
        with serving(_application(workspace)) as url:
            for host in (LOGIN_HOST, MANAGEMENT_HOST, WORKSPACE_HOST):
                internet.lead(host, int(url.rpartition(":")[2]))
            try:
                yield workspace
            finally:
                workspace.close()


def _application(workspace: AzureML) -> FastAPI:
    application = FastAPI(openapi_url=None)

    @application.get("/{tenant}/v2.0/.well-known/openid-configuration")
    def configuration(tenant: str) -> Document:
        place = f"https://{LOGIN_HOST}/{tenant}"
        return {
            "issuer": f"{place}/v2.0",
            "authorization_endpoint": f"{place}/oauth2/v2.0/authorize",
            "token_endpoint": f"{place}/oauth2/v2.0/token",
        }

    @application.post("/{tenant}/oauth2/v2.0/token")
    def token(tenant: str) -> Document:
        return workspace.token()

    @application.get("/discovery")
    def discover() -> Document:
        return dict.fromkeys(("api", "history", "experimentation"), f"https://{WORKSPACE_HOST}")

    @application.get(f"/history/v1.0{_ROOT}/runs/{{name}}/details")
    def details(name: str) -> Document:
        return {"runId": name, "status": workspace.runs[name].status, "logFiles": {}}

    @application.get(_ROOT)
    def show_workspace() -> Document:
        return _workspace()

    @application.get(f"{_ROOT}/{{path:path}}")
    def get(path: str) -> Response:
        found = workspace.get(path)
        return JSONResponse(found) if found else _not_found(path)

    @application.put(f"{_ROOT}/{{path:path}}")
    async def put(path: str, request: Request) -> Response:
        return JSONResponse(workspace.put(path, await request.json()), 201)

    @application.post(f"{_ROOT}/jobs/{{name}}/cancel")
    def cancel(name: str) -> Response:
        workspace.cancel(name)
        return Response(status_code=200)

    return application


def _not_found(path: str) -> Response:
    return JSONResponse({"error": {"code": "ResourceNotFound", "message": f"There is no {path}."}}, 404)
