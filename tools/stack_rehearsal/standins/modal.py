"""Stands in for Modal: sandboxes that are created here run their entry point as a local process.

Modal's own client, and so ZenML's step operator and orchestrator, talk to this server over gRPC once
``MODAL_SERVER_URL`` names it. The protocol is Modal's private one: it is read from the installed client's own
descriptors, and ``METHODS`` is what a client of the pinned version calls. ``tests/pipelines/stacks/test_modal.py``
says which method a newer client lacks.

Imitated: apps, environments, secrets, images from a registry, sandboxes of both kinds. Modal's client creates a
sandbox with a GPU by ``SandboxCreate`` and one without by ``SandboxCreateV2``; the first refers to every variable by
the id of a secret, the second sends variables beside the definition.

Not imitated: pulling the image, GPUs (what was asked for is recorded and checked by nobody), regions, limits of
memory and time, quotas, volumes, commands in a running sandbox, logs in Modal's dashboard.
"""

import base64
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Self

from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from modal_proto import api_pb2

from tools.stack_rehearsal.standins.grpc_server import GrpcServer, Method
from tools.stack_rehearsal.standins.jobs import Job, Machine
from tools.stack_rehearsal.standins.loopback import Recording
from tools.stack_rehearsal.standins.posted import Posted, step_of

SERVICE = "ModalClient"
BUILDER = "2025.06"
"""The version of Modal's image builder that the workspace is set to."""
SECONDS_OF_A_TOKEN = 24 * 3600


@dataclass(frozen=True)
class Sandbox:
    """What was asked for, and the process that plays it."""

    app: str
    image: str
    """Its name in the registry."""
    command: tuple[str, ...]
    gpu: str
    """Modal's name of the type; empty for none."""
    num_gpus: int
    cpus: float
    """0 for Modal's default."""
    memory: int
    """In MiB; 0 for Modal's default."""
    cloud: str
    regions: tuple[str, ...]
    timeout: int
    """In seconds."""
    secrets: Mapping[str, str] = field(repr=False)
    """The environment. Holds the run's token."""
    job: Job = field(repr=False)


class ModalStandIn:
    """Modal's control plane on a loopback port, for ``with``.

    The recording holds what Modal keeps: of secrets, and of the variables that Modal treats as such, the names alone.
    """

    values: Mapping[str, str] = {}
    limits = None

    def __init__(self, machine: Machine, recording: Recording) -> None:
        self._machine = machine
        self._recording = recording
        self._waiting: list[Thread] = []
        self._open = ExitStack()
        self._apps: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._secrets: dict[str, dict[str, str]] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        """All that were created, by id."""
        self.terminated: set[str] = set()
        self._server: GrpcServer

    def __enter__(self) -> Self:
        self._server = self._open.enter_context(GrpcServer(self._methods()))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()  # from now on no sandbox can make another
        for sandbox in self.sandboxes.values():
            sandbox.job.stop()
        self.finish()

    def posted(self) -> list[Posted]:
        """Return what was asked for. No variable stands in a definition: all are sent as secrets."""
        return [
            Posted(sandbox.job.name, sandbox.image, sandbox.command, {}, gpus=sandbox.num_gpus)
            for sandbox in self.sandboxes.values()
        ]

    def finish(self) -> None:
        """Wait until no sandbox runs; one that ends may have made others before."""
        while self._waiting:
            self._waiting.pop().join()

    @property
    def environment(self) -> dict[str, str]:
        """What leads Modal's client here. The tokens are of nobody."""
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self._server.port}",
            "MODAL_TOKEN_ID": "ak-emulation",
            "MODAL_TOKEN_SECRET": "as-emulation",
        }

    def _methods(self) -> list[Method]:
        service = api_pb2.DESCRIPTOR.services_by_name[SERVICE]
        return [
            Method(
                f"/{service.full_name}/{name}",
                GetMessageClass(service.methods_by_name[name].input_type),
                GetMessageClass(service.methods_by_name[name].output_type),
                getattr(self, f"_{answer}"),
            )
            for name, answer in METHODS.items()
        ]

    def _hello(self, request: Any) -> Any:
        return api_pb2.ClientHelloResponse()

    def _token(self, request: Any) -> Any:
        """Return a token whose end the client can read. Nobody checks its signature."""
        parts = ({"alg": "none"}, {"exp": int(time.time()) + SECONDS_OF_A_TOKEN})
        encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return api_pb2.AuthTokenGetResponse(token=".".join([*encoded, "none"]))

    def _environment(self, request: Any) -> Any:
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    def _app(self, request: Any) -> Any:
        known = {name: app for app, name in self._apps.items()}
        app = known.get(request.app_name) or f"ap-{len(self._apps) + 1}"
        self._apps[app] = request.app_name
        return api_pb2.AppGetOrCreateResponse(app_id=app)

    def _secret(self, request: Any) -> Any:
        secret = f"st-{len(self._secrets) + 1}"
        self._secrets[secret] = dict(request.env_dict)
        self._recording.add("SecretGetOrCreate", sorted(request.env_dict))
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret)

    def _image(self, request: Any) -> Any:
        """Say of every image that it is there already."""
        lines = [line.split() for line in request.image.dockerfile_commands]
        image = f"im-{len(self._images) + 1}"
        self._images[image] = next(line[1] for line in lines if line[0] == "FROM")
        return api_pb2.ImageGetOrCreateResponse(image_id=image, result=_result(0))

    def _create(self, request: Any) -> Any:
        """Run a sandbox whose variables all stand in secrets."""
        variables: dict[str, str] = {}
        for secret in request.definition.secret_ids:
            variables |= self._secrets[secret]
        # Modal's client tells the kinds apart by the length of an id: sb- and 22 characters are the first kind.
        sandbox = f"sb-{len(self.sandboxes) + 1:022d}"
        self._run(sandbox, request, variables)
        return api_pb2.SandboxCreateResponse(sandbox_id=sandbox)

    def _create_v2(self, request: Any) -> Any:
        """Run a sandbox whose variables come beside the definition, or in secrets that it names."""
        variables: dict[str, str] = {}
        for source in request.secret_sources:
            variables |= self._secrets[source.secret_id] if source.secret_id else source.env.contents
        sandbox = f"sb-{len(self.sandboxes) + 1:026d}"
        self._run(sandbox, request, variables)
        return api_pb2.SandboxCreateV2Response(sandbox_id=sandbox, task_id=f"ta-{sandbox}")

    def _run(self, sandbox: str, request: Any, variables: dict[str, str]) -> None:
        asked = request.definition
        self._recording.add("SandboxCreate", {**MessageToDict(asked), "variables": sorted(variables)})
        platform = {"MODAL_SANDBOX_ID": sandbox, "MODAL_TASK_ID": f"ta-{sandbox}", "MODAL_IMAGE_ID": asked.image_id}
        platform["MODAL_SERVER_URL"] = self.environment["MODAL_SERVER_URL"]  # sandboxes can make sandboxes
        command = list(asked.entrypoint_args)
        name = f"{step_of(command) or 'sandbox'}-{len(self.sandboxes) + 1}"
        job = self._machine.start(name, command, {**platform, **variables})
        waiting = Thread(target=job.wait, name=sandbox)
        self._waiting.append(waiting)
        waiting.start()
        self.sandboxes[sandbox] = Sandbox(
            app=self._apps[request.app_id],
            image=self._images[asked.image_id],
            command=tuple(command),
            gpu=asked.resources.gpu_config.gpu_type,
            num_gpus=asked.resources.gpu_config.count,
            cpus=asked.resources.milli_cpu / 1000,
            memory=asked.resources.memory_mb,
            cloud=asked.cloud_provider_str,
            regions=tuple(asked.scheduler_placement.regions),
            timeout=asked.timeout_secs,
            secrets=variables,
            job=job,
        )

    def _task(self, request: Any) -> Any:
        return api_pb2.SandboxGetTaskIdResponse(task_id=f"ta-{request.sandbox_id}")

    def _wait(self, request: Any) -> Any:
        """Say how a sandbox ended, or nothing while it runs. Clients ask again."""
        code = self.sandboxes[request.sandbox_id].job.poll()
        if code is None:
            return api_pb2.SandboxWaitResponse()
        return api_pb2.SandboxWaitResponse(result=_result(code, request.sandbox_id in self.terminated))

    def _terminate(self, request: Any) -> Any:
        self.terminated.add(request.sandbox_id)
        self.sandboxes[request.sandbox_id].job.stop()
        return api_pb2.SandboxTerminateResponse()


METHODS = {
    "AppGetOrCreate": "app",
    "AuthTokenGet": "token",
    "ClientHello": "hello",
    "EnvironmentGetOrCreate": "environment",
    "ImageGetOrCreate": "image",
    "SandboxCreate": "create",
    "SandboxCreateV2": "create_v2",
    "SandboxGetTaskId": "task",
    "SandboxGetTaskIdV2": "task",
    "SandboxTerminate": "terminate",
    "SandboxTerminateV2": "terminate",
    "SandboxWait": "wait",
    "SandboxWaitV2": "wait",
    "SecretGetOrCreate": "secret",
}
"""Modal's methods that are answered, and by which function."""


def _result(code: int, terminated: bool = False) -> Any:
    if terminated:
        status = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED
    elif code == 0:
        status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
    else:
        status = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
    return api_pb2.GenericResult(status=status, exitcode=code)
