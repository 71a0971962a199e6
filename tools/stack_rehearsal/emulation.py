"""Emulate a stack on this machine: submit to stand-ins, run what was submitted, and say whether it is as it should be.

Nothing leaves the machine, and nobody pays. ZenML's own code submits, as it would to the platform; a stand-in takes the
command and the environment out of each request and runs them here (:mod:`tools.stack_rehearsal.standins`).
docs/emulating_stacks.md says what that proves and what it does not.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter

from llm_engineering.checkup.finding import Finding
from llm_engineering.config.stacks import OpenStack, StackConfig
from llm_engineering.errors import ConfigError, StoreError
from steps.runtime.caching import REPOSITORY
from tools.stack_rehearsal.conformity import CODE, examine_code, examine_secrets, examine_submission
from tools.stack_rehearsal.outcome import Outcome
from tools.stack_rehearsal.standins.jobs import Image, Machine
from tools.stack_rehearsal.standins.kubernetes import kubernetes_standin
from tools.stack_rehearsal.standins.loopback import Recording
from tools.stack_rehearsal.standins.posted import Cloud, StandIn
from tools.stack_rehearsal.standins.s3 import AWS, aws_standin
from tools.stack_rehearsal.standins.sagemaker import sagemaker_standin
from tools.stack_rehearsal.standins.zenml_server import ZenMLServer, zenml_server


@dataclass(frozen=True)
class Environment:
    """What an emulation needs of an interpreter."""

    packages: tuple[str, ...]
    """They tell whether the extra with the stand-ins is installed."""
    made_by: str
    python: str


ENVIRONMENTS = {
    "s3": Environment(
        ("boto3", "kubernetes", "moto", "sagemaker", "uvicorn"), "make stacks-env", ".venv-stacks/bin/python"
    ),
    "gcp": Environment(
        ("gcp_storage_emulator", "gcsfs", "grpclib", "kfp", "trustme"), "make vertex-env", ".venv-vertex/bin/python"
    ),
}
"""By the flavour of the artifact store, of which one is played: Google Cloud's packages do not go with all others."""
_NOT_INHERITED = ("AWS_", "AZURE_", "CLOUDSDK_", "GCE_", "GOOGLE_", "KUBE", "MODAL_", "SAGEMAKER_", "ZENML_")
"""What the shell says of accounts, clusters and servers is none of an emulation's."""
_CORES = ("OMP_NUM_THREADS",)
"""How many cores a job may use is the platform's to say, and here the shell's."""
_SECRET = ("KEY", "PASSWORD", "SECRET", "TOKEN")
"""In whose names there is one of these, variables of the shell are taken to be secrets."""


@dataclass(frozen=True)
class Surroundings:
    """What a stand-in is put into."""

    folder: Path
    cloud: Cloud
    machine: Machine
    recording: Recording


Opening = Callable[[Surroundings], AbstractContextManager[StandIn]]


def _azureml(around: Surroundings) -> AbstractContextManager[StandIn]:
    from tools.stack_rehearsal.standins.azureml import azureml_standin

    return azureml_standin(around.machine, around.recording, around.folder / "azure")


def _vertex(around: Surroundings) -> AbstractContextManager[StandIn]:
    from tools.stack_rehearsal.standins.google_cloud import GoogleCloud
    from tools.stack_rehearsal.standins.vertex import VertexStandIn

    assert isinstance(around.cloud, GoogleCloud)
    return VertexStandIn(around.cloud, around.machine, around.recording)


def _sagemaker(around: Surroundings) -> AbstractContextManager[StandIn]:
    assert isinstance(around.cloud, AWS)
    return sagemaker_standin(around.cloud, around.machine, around.recording)


def _modal(around: Surroundings) -> AbstractContextManager[StandIn]:
    from tools.stack_rehearsal.standins.modal import ModalStandIn

    return ModalStandIn(around.machine, around.recording)


STANDINS: dict[str, Opening] = {
    "azureml": _azureml,
    "kubernetes": lambda around: kubernetes_standin(around.folder, around.machine, around.recording),
    "modal": _modal,
    "sagemaker": _sagemaker,
    "vertex": _vertex,
}
"""What opens the stand-in of a flavour of orchestrators and step operators."""
_OWN_STORE = {"sagemaker": "s3", "vertex": "gcp"}
"""Platforms that take artifacts of their own cloud alone, and the flavour of its stores."""


@dataclass(frozen=True)
class Emulation:
    """A stack's stand-ins while they are up."""

    surroundings: Surroundings
    server: ZenMLServer
    standins: Sequence[StandIn]

    @property
    def values(self) -> dict[str, str]:
        """What stands for the values that a stack asks for, by the placeholders' names."""
        values = dict(self.surroundings.cloud.values)
        for standin in self.standins:
            values |= standin.values
        return values

    @property
    def environment(self) -> dict[str, str]:
        """The environment of whoever submits: this process's, led to the stand-ins."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        environment = {
            **own,
            **{name: value for name, value in os.environ.items() if name.startswith("ZENML_LOGGING")},
            **self.surroundings.cloud.environment,
            **self.server.client_environment(self.surroundings.folder / "client"),
            "PYTHONUNBUFFERED": "1",
        }
        for standin in self.standins:
            environment |= standin.environment
        return environment

    @property
    def secrets(self) -> dict[str, str]:
        """What must stand in no manifest, by what it is: the stand-ins' own, and what the shell holds."""
        of_the_shell = {
            f"the value of ${name}": value
            for name, value in self.environment.items()
            if len(value) >= 8 and any(part in name.upper() for part in _SECRET) and name in os.environ
        }
        return {
            **of_the_shell,
            **self.surroundings.cloud.secrets,
            "the API key of the ZenML server": self.server.api_key,
        }

    def submit(self, *commands: Sequence[str]) -> int:
        """Run a client's commands one after the other, until one fails; then wait for all that was submitted.

        Returns:
            The exit code of the last command that ran.
        """
        for command in commands:
            code = subprocess.run(command, env=self.environment, check=False).returncode
            if code != 0:
                return code
        for standin in self.standins:
            standin.finish()
        return 0

    def outcome(self) -> Outcome | None:
        """Return what became of the run."""
        command = [sys.executable, "-m", "tools.stack_rehearsal.outcome"]
        done = subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
        )
        return TypeAdapter(Outcome | None).validate_json(done.stdout.splitlines()[-1])

    def findings(self, config: StackConfig, tracked: Sequence[str]) -> Iterator[Finding]:
        """Say whether what was submitted is as it should be, and what became of it.

        Args:
            config: The stack's file, its placeholders filled.
            tracked: The files that have to be in the code archive.
        """
        posted = [each for standin in self.standins for each in standin.posted()]
        limits = next((standin.limits for standin in self.standins if standin.limits), None)
        yield from examine_submission(config, posted, self.surroundings.machine.jobs, self.outcome(), limits)
        text = self.surroundings.recording.path.read_text(encoding="utf-8")
        yield from examine_secrets(text, posted, self.secrets)
        yield from examine_code(self.surroundings.cloud.latest("code_uploads/"), tracked)


@contextmanager
def standing_in(flavors: Sequence[str], folder: Path, store: str = "s3") -> Iterator[Emulation]:
    """Start a ZenML server, a cloud's bucket, and the stand-ins of these flavours; stop all of it at the end.

    Args:
        flavors: Of the orchestrator and the step operator; those that run where one submits need no stand-in.
        folder: Takes logs, the recording and the jobs' folders; nobody else may read it.
        store: The flavour of the artifact store.

    Raises:
        ConfigError: There is no stand-in for a flavour, or none with this store.
        StoreError: The folder is in use, the extra with the stand-ins is not installed, or the server does not start.
    """
    openings = [_opening(flavor, store) for flavor in flavors if flavor != "local"]
    require_packages(store)
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"The folder {folder} is not empty, and an emulation's is its own. Name a new one.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    recording = Recording(folder / "submitted.jsonl")
    with ExitStack() as stack:
        cloud = stack.enter_context(_cloud(store, folder))
        cores = {name: os.environ[name] for name in _CORES if name in os.environ}
        python = Path(sys.executable)
        machine = Machine(folder / "jobs", Image(python), {**cloud.job_environment, **cores})
        around = Surroundings(folder, cloud, machine, recording)
        server = stack.enter_context(zenml_server(python, folder / "server", cloud.job_environment))
        standins = [stack.enter_context(opening(around)) for opening in openings]
        yield Emulation(around, server, standins)


def _opening(flavor: str, store: str) -> Opening:
    if flavor not in STANDINS:
        raise ConfigError(
            f"There is no stand-in for the flavor {flavor!r}, so that a stack with it cannot be emulated; there are "
            f"stand-ins for {', '.join(STANDINS)}."
        )
    if _OWN_STORE.get(flavor, store) != store:
        raise ConfigError(
            f"The flavor {flavor!r} is emulated with an artifact store of the flavor {_OWN_STORE[flavor]!r}, and the "
            f"stack has {store!r}. Change it in a copy of the stack's file."
        )
    return STANDINS[flavor]


def _cloud(store: str, folder: Path) -> AbstractContextManager[Cloud]:
    if store == "s3":
        return aws_standin()
    from tools.stack_rehearsal.standins.google_cloud import google_cloud_standin

    return google_cloud_standin(folder / "google")


def require_packages(store: str = "s3") -> None:
    """Refuse an interpreter that lacks what stand-ins are made of.

    Raises:
        ConfigError: Nobody plays artifact stores of this flavour.
        StoreError: The extra with the stand-ins is not installed.
    """
    if store not in ENVIRONMENTS:
        raise ConfigError(
            f"An emulation plays artifact stores of the flavors {' and '.join(ENVIRONMENTS)}, not {store!r}. Copy the "
            "stack's file, take the flavor s3 with the path s3://${bucket} there, leave the connector out, and "
            "emulate the copy."
        )
    environment = ENVIRONMENTS[store]
    if missing := [name for name in environment.packages if find_spec(name) is None]:
        raise StoreError(
            f"An emulation needs {', '.join(missing)}, which {sys.executable} lacks. Run `{environment.made_by}`, then "
            f"`{environment.python} tools/stacks.py emulate`."
        )


def flavors_of(config: StackConfig) -> list[str]:
    """Return the flavours that an emulation needs stand-ins for."""
    return [part.flavor for part in (config.orchestrator, config.step_operator) if part is not None]


def commands_of(found: OpenStack, values: Mapping[str, str], arguments: Sequence[str]) -> list[list[str]]:
    """Return what a client does: register the stack, and run what the arguments of ``tools/run.py`` say on it."""
    said = [
        word for name, value in values.items() if name in found.placeholders for word in ("--set", f"{name}={value}")
    ]
    tools = REPOSITORY / "tools"
    # nobody plays what Google is asked when a connector is made
    ambient = ["--ambient"] if found.shown().artifact_store.flavor == "gcp" else []
    return [
        [sys.executable, str(tools / "stacks.py"), "register", found.name, "--yes", *ambient, *said],
        [sys.executable, str(tools / "run.py"), *arguments, "--stack", found.name],
    ]


def tracked_files(root: Path = REPOSITORY) -> list[str]:
    """Return the files that git tracks in the rooms that steps need.

    Raises:
        StoreError: There is no git here, or no repository.
    """
    git = ["git", "-C", str(root), "ls-files", "-z", *CODE]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StoreError(f"git does not list the files of {root}, which the code archive is compared with.") from error
    return [name for name in done.stdout.split("\0") if name and (root / name).exists()]


def emulate(found: OpenStack, arguments: Sequence[str], folder: Path) -> Iterator[Finding]:
    """Emulate a stack, and say what was found.

    Args:
        found: The stack.
        arguments: Of ``tools/run.py``, without ``--stack``: ``--run-training --config X --summary F``.
        folder: Takes logs, the recording and the jobs' folders.

    Raises:
        ConfigError: There is no stand-in for the stack, or for its artifact store.
        StoreError: The extra with the stand-ins is not installed, or the ZenML server does not start.
    """
    shown = found.shown()
    with standing_in(flavors_of(shown), folder, shown.artifact_store.flavor) as emulation:
        code = emulation.submit(*commands_of(found, emulation.values, arguments))
        if code != 0:
            yield Finding("client", "problem", f"the client ended with {code}; what it says stands above")
        config = found.shown(emulation.values)
        yield from emulation.findings(config, tracked_files())
