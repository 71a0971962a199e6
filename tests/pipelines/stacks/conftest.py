"""Stand-ins with a small project beside them, whose pipeline any stack can run in seconds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.stacks.rehearsal import REPOSITORY, Rehearsal, require_packages, standing_in
from pipelines.stacks.standins.posted import Posted

HERE = Path(__file__).parent


@dataclass
class Rehearsed:
    """Stand-ins, and a client that submits the small pipeline to them."""

    rehearsal: Rehearsal
    project: Path

    @property
    def bucket(self) -> str:
        return self.rehearsal.surroundings.aws.bucket

    def client(self, **request: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "submitting.py", json.dumps(request)],
            env=self.rehearsal.environment,
            cwd=self.project,
            capture_output=True,
            text=True,
            check=False,
        )

    def submit(self, components: dict[str, Any], **request: Any) -> subprocess.CompletedProcess[str]:
        """Submit with S3, a registry and these components, and wait for what was submitted."""
        stored = {
            "artifact_store": {"flavor": "s3", "configuration": {"path": f"s3://{self.bucket}"}},
            "container_registry": {
                "flavor": "default",
                "configuration": {"uri": self.rehearsal.values["registry"]},
            },
            "image_builder": {"flavor": "local", "configuration": {}},
        }
        done = self.client(components={**stored, **components}, **request)
        for standin in self.rehearsal.standins:
            standin.finish()
        return done

    def outcome(self) -> dict[str, Any]:
        done = self.client(look=True)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    @property
    def posted(self) -> dict[str | None, Posted]:
        """What was asked for, by step."""
        return {each.step: each for standin in self.rehearsal.standins for each in standin.posted()}

    def logs(self) -> str:
        return "\n".join(f"{job.name}: {job.log.read_text()}" for job in self.rehearsal.surroundings.machine.jobs)

    def app_of(self, step: str) -> Path:
        """Return the folder ``/app`` of the job that ran a step."""
        from pipelines.stacks.standins.posted import step_of

        (job,) = (job for job in self.rehearsal.surroundings.machine.jobs if step_of(job.command) == step)
        return job.app


Open = Callable[[str], AbstractContextManager[Rehearsed]]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Return what starts the stand-ins of a flavour; skip where their packages are not installed."""
    from llm_engineering.errors import StoreError

    try:
        require_packages()
    except StoreError as error:
        pytest.skip(str(error))

    @contextmanager
    def start(flavor: str) -> Iterator[Rehearsed]:
        folder = tmp_path_factory.mktemp(flavor)
        project = folder / "project"
        ignored = shutil.ignore_patterns("__pycache__", "embedded")
        shutil.copytree(REPOSITORY / "llm_engineering", project / "llm_engineering", ignore=ignored)
        for name in ("__init__.py", "stacks/__init__.py", "stacks/workarounds.py"):
            (project / "pipelines" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / "pipelines" / name, project / "pipelines" / name)
        for name in ("small_pipeline.py", "submitting.py"):
            shutil.copy(HERE / name, project)
        with standing_in([flavor], folder / "rehearsal") as rehearsal:
            yield Rehearsed(rehearsal, project)

    return start
