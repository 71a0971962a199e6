"""A client that submits the small pipeline to stand-ins, and looks at what became of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.stack_rehearsal.emulation import Emulation
from tools.stack_rehearsal.standins.jobs import Job
from tools.stack_rehearsal.standins.posted import Posted, step_of

DEADLINE = 300.0
"""How long a submitted step may take to begin, in seconds; 15 on two idle cores."""


@dataclass
class Emulated:
    """Stand-ins, and a client that submits the small pipeline to them."""

    emulation: Emulation
    project: Path

    @property
    def bucket(self) -> str:
        return self.emulation.surroundings.cloud.bucket

    def client(self, **request: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "submitting.py", json.dumps(request)],
            env=self.emulation.environment,
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
                "configuration": {"uri": self.emulation.values["registry"]},
            },
            "image_builder": {"flavor": "local", "configuration": {}},
        }
        done = self.client(components={**stored, **components}, **request)
        for standin in self.emulation.standins:
            standin.finish()
        return done

    def outcome(self) -> dict[str, Any]:
        done = self.client(look=True)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    @property
    def posted(self) -> dict[str | None, Posted]:
        """What was asked for, by step."""
        return {each.step: each for standin in self.emulation.standins for each in standin.posted()}

    def logs(self) -> str:
        return "\n".join(f"{job.name}: {job.log.read_text()}" for job in self.emulation.surroundings.machine.jobs)

    def jobs_of(self, step: str) -> list[Job]:
        """Return the jobs that ran a step, in order."""
        return [job for job in self.emulation.surroundings.machine.jobs if step_of(job.command) == step]

    def submit_and_take_away(
        self, components: dict[str, Any], take_away: Callable[[Job], None], **options: Any
    ) -> None:
        """Submit, and take the machine of the step ``locate`` away while its first attempt runs."""
        mark = self.project / "mark"
        environment = {"SMALL_PIPELINE_MARK": str(mark)}
        with ThreadPoolExecutor(1) as client:
            submitted = client.submit(self.submit, components, options={"environment": environment, **options})
            limit = time.monotonic() + DEADLINE
            while not mark.exists():
                assert time.monotonic() < limit, self.logs()
                assert not submitted.done(), submitted.result().stderr
                time.sleep(0.1)
            take_away(self.jobs_of("locate")[0])
            submitted.result()


Open = Callable[[str], AbstractContextManager[Emulated]]
