"""Kubernetes on loopback: an API that keeps objects, and runs the pods of jobs as processes of this machine.

What is played: jobs with one pod at a time (back-off limit, failure policy, replacement of pods that were taken away),
secrets as variables, logs, selectors, the defaults that the server adds and ZenML's client relies on. Manifests are
held against ``kubernetes_rules``. Not played: scheduling (a pod that asks for GPUs runs without), the pulling of the
image, volumes, networks between pods, roles, schedules.

Real clusters give a pod the address and a token of its service account. Here the pod finds both in ``KUBECONFIG``: the
client reads the files of a service account from one place below ``/var``, which processes on one machine would share.
"""

import base64
import json
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any

from tools.stack_rehearsal.standins.jobs import Job, Machine
from tools.stack_rehearsal.standins.kubernetes_rules import MODELS, Manifest, faults_of
from tools.stack_rehearsal.standins.loopback import Recording, serving
from tools.stack_rehearsal.standins.posted import Posted

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

CONTEXT = "emulation"
GPU = "nvidia.com/gpu"
SECONDS_OF_BACKOFF = 0.5
"""Before the second pod of a job; twice as long before each one after. A cluster begins with 10 s."""
_GROUPS = {"jobs": "batch/v1", "rolebindings": "rbac.authorization.k8s.io/v1"}
"""What does not belong to ``v1``."""


class RefusedError(Exception):
    """What the API answers in place of an object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason

    @property
    def status(self) -> Manifest:
        """The answer, as an object of kind ``Status``."""
        status = {"apiVersion": "v1", "kind": "Status", "status": "Failure"}
        return {**status, "code": self.code, "reason": self.reason, "message": str(self)}


@dataclass(frozen=True)
class Collection:
    """Where an object stands: ``jobs`` of a namespace, and the like."""

    name: str
    namespace: str


class Cluster:
    """Keeps the objects, and plays the controller of jobs and the kubelet."""

    def __init__(self, machine: Machine, recording: Recording, kubeconfig: Path) -> None:
        self.machine = machine
        self.recording = recording
        self.kubeconfig = kubeconfig
        self.objects: dict[Collection, dict[str, Manifest]] = {}
        self.processes: dict[str, Job] = {}
        """By the name of the pod."""
        self._threads: list[Thread] = []
        self._lock = RLock()
        self._closing = False

    @property
    def environment(self) -> dict[str, str]:
        """By which variable a client finds it."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values of a stack."""
        return {"context": CONTEXT, "namespace": "emulation"}

    @property
    def limits(self) -> None:
        """Kubernetes has none that anybody meets."""

    def posted(self) -> list[Posted]:
        """Return the containers of the jobs that were asked for."""
        return [_posted(job) for job in self.recording.bodies("create jobs")]

    def finish(self) -> None:
        """Wait until no job runs."""
        while any(thread.is_alive() for thread in self._threads):
            for thread in list(self._threads):  # jobs create jobs
                thread.join()

    def create(self, collection: Collection, manifest: Manifest) -> Manifest:
        """Keep a new object, and start what it asks for.

        Raises:
            RefusedError: A real server would refuse it, or it is not played here.
        """
        self.recording.add(f"create {collection.name}", manifest)
        if faults := faults_of(collection.name, manifest):
            raise RefusedError(422, "Invalid", " ".join(faults))
        if collection.name == "jobs":
            _require_played(manifest["spec"])
        with self._lock:
            kept = self.objects.setdefault(collection, {})
            metadata = manifest.setdefault("metadata", {})
            name = metadata.setdefault("name", f"{metadata.get('generateName', '')}{_suffix()}")
            if name in kept:
                raise RefusedError(409, "AlreadyExists", f"{collection.name} {name!r} already exists")
            metadata |= _of_the_server(collection.namespace)
            _add_defaults(collection.name, manifest)
            kept[name] = manifest
        if collection.name == "jobs":
            thread = Thread(target=self._control, args=(collection.namespace, manifest), name="kubernetes")
            self._threads.append(thread)
            thread.start()
        return manifest

    def read(self, collection: Collection, name: str) -> Manifest:
        """Return an object.

        Raises:
            RefusedError: There is none.
        """
        try:
            return self.objects[collection][name]
        except KeyError:
            raise RefusedError(404, "NotFound", f"{collection.name} {name!r} not found") from None

    def select(self, collection: Collection, labels: str = "", fields: str = "") -> list[Manifest]:
        """Return the objects that selectors (``a=b,c=d``) select."""
        with self._lock:
            kept = list(self.objects.get(collection, {}).values())
        by_label = [pair.replace("==", "=").split("=", 1) for pair in labels.split(",") if pair]
        by_field = [pair.replace("==", "=").split("=", 1) for pair in fields.split(",") if pair]
        return [
            manifest
            for manifest in kept
            if all((manifest["metadata"].get("labels") or {}).get(name) == value for name, value in by_label)
            and all(_field(manifest, path) == value for path, value in by_field)
        ]

    def change(self, collection: Collection, name: str, patch: Manifest) -> Manifest:
        """Merge a patch into an object (RFC 7386, which suffices for labels, annotations and data)."""
        self.recording.add(f"change {collection.name}", patch)
        with self._lock:
            manifest = self.read(collection, name)
            _merge(manifest, patch)
            _take_in_text(manifest)
        return manifest

    def delete(self, collection: Collection, name: str) -> Manifest:
        """Forget an object; a job ends with its pods."""
        with self._lock:
            manifest = self.read(collection, name)
            del self.objects[collection][name]
        if collection.name == "jobs":
            for pod in self.select(Collection("pods", collection.namespace), f"job-name={name}"):
                if process := self.processes.get(pod["metadata"]["name"]):
                    process.stop()
        return manifest

    def log_of(self, pod: str) -> str:
        """Return what a pod has written."""
        process = self.processes.get(pod)
        return process.log.read_text(encoding="utf-8", errors="replace") if process else ""

    def take_away(self, pod: str) -> None:
        """End a pod as the loss of its node does: without notice, and with the condition that says so."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        with self._lock:
            (found,) = (pods[pod] for kept, pods in self.objects.items() if kept.name == "pods" and pod in pods)
            found["status"].setdefault("conditions", []).append(condition)
            self.processes[pod].kill()

    def close(self) -> None:
        """End what runs."""
        self._closing = True
        while any(thread.is_alive() for thread in self._threads):
            self.machine.stop()
            self._threads[-1].join(0.1)

    def _control(self, namespace: str, job: Manifest) -> None:
        """Run pods until one succeeds, or too many have failed."""
        status, name = job["status"], job["metadata"]["name"]
        failures, wait = 0, SECONDS_OF_BACKOFF
        while not self._closing and name in self.objects[Collection("jobs", namespace)]:
            pod = self._new_pod(namespace, job)
            code = self._run(namespace, pod)
            action = "Succeed" if code == 0 else _action_on_failure(job["spec"], pod, code)
            failures += action == "Count"
            with self._lock:
                status.update(active=0, failed=failures, succeeded=int(code == 0))
                if action == "Succeed":
                    return _conclude(status, "Complete", "", "")
                if action == "FailJob":
                    return _conclude(status, "Failed", "PodFailurePolicy", f"Container main exited with code {code}.")
                if failures > job["spec"]["backoffLimit"]:
                    message = "Job has reached the specified backoff limit"
                    return _conclude(status, "Failed", "BackoffLimitExceeded", message)
            time.sleep(wait)
            wait *= 2

    def _new_pod(self, namespace: str, job: Manifest) -> Manifest:
        template, owner = job["spec"]["template"], job["metadata"]
        metadata = json.loads(json.dumps(template.get("metadata") or {}))
        labels = {"job-name": owner["name"], "batch.kubernetes.io/job-name": owner["name"]}
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **metadata,
                **_of_the_server(namespace),
                "name": f"{owner['name'][:57]}-{_suffix()}",
                "labels": {**(metadata.get("labels") or {}), **labels},
                "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending", "startTime": _now()},
        }
        with self._lock:
            self.objects.setdefault(Collection("pods", namespace), {})[pod["metadata"]["name"]] = pod
            job["status"].update(active=1)
            job["status"].setdefault("startTime", _now())
        return pod

    def _run(self, namespace: str, pod: Manifest) -> int:
        """Run a pod's container, and return its exit code."""
        container, name = pod["spec"]["containers"][0], pod["metadata"]["name"]
        try:
            environment = self._environment(namespace, pod, container)
        except RefusedError as error:
            waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
            self._tell(pod, container, "Pending", waiting)
            while (
                not self._closing
                and pod["metadata"]["labels"]["job-name"] in self.objects[Collection("jobs", namespace)]
            ):
                time.sleep(0.1)
            return 1
        command = [*(container.get("command") or ()), *(container.get("args") or ())]
        with self._lock:  # whoever looks for the pod's process finds it as soon as it can have done something
            job = self.processes[name] = self.machine.start(name, command, environment, hostname=name)
        self._tell(pod, container, "Running", {"running": {"startedAt": _now()}})
        code = job.wait()
        code = code if code >= 0 else 128 - code
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": _now()}
        self._tell(pod, container, "Failed" if code else "Succeeded", {"terminated": ended})
        return code

    def _tell(self, pod: Manifest, container: Manifest, phase: str, state: Manifest) -> None:
        about = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        with self._lock:
            pod["status"]["phase"] = phase
            pod["status"]["containerStatuses"] = [{**about, "ready": phase == "Running", "state": state}]

    def _environment(self, namespace: str, pod: Manifest, container: Manifest) -> dict[str, str]:
        environment = dict(self.environment)
        for source in container.get("envFrom") or ():
            environment |= self._secret(namespace, source["secretRef"]["name"])
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            if reference := source.get("secretKeyRef"):
                values = self._secret(namespace, reference["name"])
                if reference["key"] not in values:
                    raise RefusedError(404, "NotFound", f"couldn't find key {reference['key']} in {reference['name']}")
                environment[variable["name"]] = values[reference["key"]]
            elif reference := source.get("fieldRef"):
                environment[variable["name"]] = _field(pod, reference["fieldPath"]) or ""
            else:
                environment[variable["name"]] = variable.get("value") or ""
        return environment

    def _secret(self, namespace: str, name: str) -> dict[str, str]:
        data = self.read(Collection("secrets", namespace), name).get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _posted(job: Manifest) -> Posted:
    container = job["spec"]["template"]["spec"]["containers"][0]
    limits = (container.get("resources") or {}).get("limits") or {}
    return Posted(
        name=job["metadata"]["name"],
        image=container["image"],
        command=[*(container.get("command") or ()), *(container.get("args") or ())],
        environment={each["name"]: each["value"] for each in container.get("env") or () if each.get("value")},
        gpus=int(limits.get(GPU, 0)),
    )


def _require_played(spec: Manifest) -> None:
    pod = spec["template"]["spec"]
    if (spec.get("completions") or 1) > 1 or (spec.get("parallelism") or 1) > 1:
        raise RefusedError(501, "NotPlayed", "The stand-in plays jobs of one pod, not of several.")
    if len(pod["containers"]) > 1 or pod.get("initContainers") or pod["restartPolicy"] != "Never":
        raise RefusedError(501, "NotPlayed", "The stand-in plays pods of one container that is never restarted.")


def _add_defaults(collection: str, manifest: Manifest) -> None:
    """Add what the server adds, as far as somebody reads it."""
    _take_in_text(manifest)
    if collection != "jobs":
        return
    manifest["status"] = {}
    spec = manifest["spec"]
    spec["backoffLimit"] = 6 if spec.get("backoffLimit") is None else spec["backoffLimit"]
    for rule in (spec.get("podFailurePolicy") or {}).get("rules", []):
        for condition in rule.get("onPodConditions") or ():
            condition.setdefault("status", "True")  # ZenML leaves it out; without it its client cannot read the job


def _take_in_text(manifest: Manifest) -> None:
    """Write the plain text of a secret as its data."""
    if text := manifest.pop("stringData", None):
        data = manifest.setdefault("data", {})
        data |= {name: base64.b64encode(value.encode()).decode() for name, value in text.items()}


def _action_on_failure(spec: Manifest, pod: Manifest, code: int) -> str:
    """Return what the first rule of the failure policy that fits says: ``Count``, ``Ignore`` or ``FailJob``."""
    conditions = {(found["type"], found["status"]) for found in pod["status"].get("conditions", [])}
    for rule in (spec.get("podFailurePolicy") or {}).get("rules", []):
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
        if any((asked["type"], asked["status"]) in conditions for asked in rule.get("onPodConditions") or ()):
            return str(rule["action"])
    return "Count"


def _conclude(status: Manifest, kind: str, reason: str, message: str) -> None:
    status["completionTime"] = _now()
    status["conditions"] = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": _now()}
    ]


def _merge(manifest: Manifest, patch: Mapping[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            manifest.pop(name, None)
        elif isinstance(value, dict) and isinstance(manifest.get(name), dict):
            _merge(manifest[name], value)
        else:
            manifest[name] = value


def _field(manifest: Any, path: str) -> Any:
    for name in path.split("."):
        manifest = (manifest or {}).get(name)
    return manifest


def _of_the_server(namespace: str) -> Manifest:
    return {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now(), "resourceVersion": "1"}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _suffix() -> str:
    return secrets.token_hex(3)[:5]


@contextmanager
def kubernetes_standin(folder: Path, machine: Machine, recording: Recording) -> Iterator[Cluster]:
    """Serve a cluster until the block ends; ``kubeconfig`` in the folder leads to it, with the context ``CONTEXT``."""
    token = secrets.token_urlsafe(24)
    cluster = Cluster(machine, recording, folder / "kubeconfig")
    with serving(_application(cluster, token)) as url:
        _write_kubeconfig(cluster.kubeconfig, url, token)
        try:
            yield cluster
        finally:
            cluster.close()


def _write_kubeconfig(path: Path, url: str, token: str) -> None:
    path.touch(mode=0o600)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": {"server": url}}],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
    }
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML


def _application(cluster: Cluster, token: str) -> Any:
    """Return the API as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    async def answer(request: "Request") -> "Response":
        if request.headers.get("authorization") != f"Bearer {token}":
            return JSONResponse(RefusedError(401, "Unauthorized", "Unauthorized").status, 401)
        body = json.loads(await request.body() or b"null")
        try:
            said = await run_in_threadpool(_answer, cluster, request, body)
        except RefusedError as error:
            return JSONResponse(error.status, error.code)
        if isinstance(said, str):
            return PlainTextResponse(said)
        return JSONResponse(said, 201 if request.method == "POST" else 200)

    namespaced = [f"{root}/namespaces/{{namespace}}" for root in ("/api/v1", "/apis/{group}/{version}")]
    paths = [f"{start}/{{collection}}{end}" for start in namespaced for end in ("", "/{name}", "/{name}/log")]
    methods = ["GET", "POST", "PATCH", "DELETE"]
    return Starlette(routes=[Route(path, answer, methods=methods) for path in paths])


def _answer(cluster: Cluster, request: "Request", body: Any) -> Manifest | str:
    """Do what a request asks for.

    Raises:
        RefusedError: It cannot be done.
    """
    path = request.path_params
    if path["collection"] not in MODELS:
        raise RefusedError(404, "NotFound", f"The stand-in keeps no {path['collection']}.")
    collection = Collection(path["collection"], path["namespace"])
    if "name" in path:
        return _answer_of_object(cluster, request, collection, path["name"], body)
    match request.method:
        case "POST":
            return cluster.create(collection, body)
        case "GET":
            query = request.query_params
            found = cluster.select(collection, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            kind = f"{MODELS[collection.name].removeprefix('V1')}List"
            return {"apiVersion": _GROUPS.get(collection.name, "v1"), "kind": kind, "metadata": {}, "items": found}
    raise RefusedError(405, "MethodNotAllowed", f"{request.method} of {collection.name} is not played here.")


def _answer_of_object(
    cluster: Cluster, request: "Request", collection: Collection, name: str, body: Any
) -> Manifest | str:
    if request.url.path.endswith("/log"):
        return cluster.log_of(name)
    match request.method:
        case "GET":
            return cluster.read(collection, name)
        case "DELETE":
            return cluster.delete(collection, name)
        case _:
            return cluster.change(collection, name, body)
