"""Runs what was submitted: each command is a local process, shut off from its submitter as a container would be.

A stand-in takes the command and the environment out of a request and starts them here. The process sees what the
platform would give it and nothing else of this machine's environment: no ``ZENML_*`` of the submitter, no credentials
of the shell, no checkout on the path. So a job that needs something which was not submitted fails here as it would in
the cloud.

What is not shut off: the file system outside of the folders named below, the network, and the versions of the packages,
which are those of the interpreter that plays the image.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import psutil  # type: ignore[import-untyped]

CONTAINER = Path(__file__).with_name("container")
"""Holds ``sitecustomize.py``, which every Python process of a job imports when it starts."""
SECONDS_TO_END = 10.0
"""How long a job that is asked to end may take before it is killed. Kubernetes waits 30 s, SageMaker 120 s."""


@dataclass(frozen=True)
class Image:
    """What plays the container image."""

    python: Path
    """Its interpreter: has the pinned packages and the integrations, not this project's code."""


class Machine:
    """A folder in which submitted commands run as local processes, each as in a container of its own.

    Every job has a numbered folder with ``app`` (the container's ``/app``, where it starts), ``home`` and ``tmp``. Logs
    stand in ``logs``, by the jobs' names. Numbers keep paths short: a socket below ``TMPDIR`` allows 107 characters.
    """

    def __init__(self, folder: Path, image: Image, platform: Mapping[str, str] | None = None) -> None:
        """Take the folder, the image, and what the platform gives to every job that does not say otherwise.

        The platform's variables are those that nobody submits: the credentials of the job's role, the region.
        """
        self.folder = folder
        self.image = image
        self.platform = platform or {}
        self.jobs: list[Job] = []
        self._lock = Lock()

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, hostname: str | None = None
    ) -> "Job":
        """Start a command.

        Args:
            name: Names the log: unlike the name of any other job of this machine.
            command: The container's entry point and its arguments; ``python`` is the image's.
            environment: What was submitted, and what the platform says of this job alone.
            hostname: What the job's processes find themselves to be called; the machine's own name without it.
        """
        with self._lock:
            assert all(job.name != name for job in self.jobs), f"there is a job {name!r} already"
            job = Job(name, command, self.folder, len(self.jobs) + 1)
            job.start(self._environment(job, environment, hostname))
            self.jobs.append(job)
        return job

    def _environment(self, job: "Job", submitted: Mapping[str, str], hostname: str | None) -> dict[str, str]:
        environment = {**self.platform, **submitted}
        above = environment.get("PYTHONPATH")
        return {
            **environment,
            "PATH": os.pathsep.join([str(self.image.python.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(job.home),
            "TMPDIR": str(job.tmp),
            "PYTHONPATH": os.pathsep.join([str(CONTAINER), *([above] if above else [])]),
            "STANDIN_APP": str(job.app),
            **({"STANDIN_HOSTNAME": hostname} if hostname else {}),
        }

    def stop(self) -> None:
        """End all jobs."""
        with self._lock:
            for job in self.jobs:
                job.stop()


class Job:
    """A command that runs, or has run, with a container's folders."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, number: int) -> None:
        self.name = name
        self.command = command
        own = folder / f"{number:03d}"
        self.app, self.home, self.tmp = own / "app", own / "home", own / "tmp"
        self.log = folder / "logs" / f"{name}.log"
        """All that the job wrote, to stdout and stderr."""
        self.started = self.ended = 0.0
        """When, in seconds of the monotonic clock; 0 until then. The end is noticed by who waits for it."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the command. One that the image lacks ends with 127 and a line in the log, as in a container."""
        assert self._process is None
        for folder in (self.app, self.home, self.tmp, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/usr/bin/env", *self.command],
                env=dict(environment),
                cwd=self.app,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C for the submitter is none for its jobs
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, from its start on."""
        assert self._process is not None
        return self._process

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the job runs."""
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code.

        Args:
            timeout: In seconds; without one, as long as it takes.

        Raises:
            TimeoutExpired: The job runs on.
        """
        code = self.process.wait(timeout)
        self.ended = self.ended or time.monotonic()
        return code

    def kill(self) -> None:
        """End the job at once and without notice, as a machine that is taken away does."""
        children = self._children()
        self.process.kill()  # first, so that it cannot act on the end of its children
        _kill(children)
        self.process.wait()

    def stop(self) -> None:
        """Ask the job to end, wait a while, and end what is left of it."""
        children = self._children()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_END)
        self.process.kill()
        _kill(children)
        self.process.wait()

    def _children(self) -> list[psutil.Process]:
        """Return the job's other processes: workers of ``torchrun`` have sessions of their own, so groups do not do."""
        try:
            children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return children


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
