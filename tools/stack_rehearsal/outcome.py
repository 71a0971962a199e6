"""What became of the latest run on a server: asked by a process of its own, whose ZenML client is on that server.

``python -m tools.stack_rehearsal.outcome`` prints an :class:`Outcome` as JSON, and ``null`` where there is no run.
"""

import json
import sys

from pydantic import BaseModel


class StepOutcome(BaseModel):
    """One step of a run."""

    status: str
    upstream: set[str]
    """The steps that it takes something from, or has to wait for."""


class Outcome(BaseModel):
    """One run."""

    name: str
    status: str
    steps: dict[str, StepOutcome]
    """Every step of the pipeline; one that never began is ``not started``."""


def latest_outcome() -> Outcome | None:
    """Return what became of the run that was begun last."""
    from zenml.client import Client

    found = Client().list_pipeline_runs(sort_by="desc:created", size=1, hydrate=True).items
    if not found:
        return None
    run = found[0]
    assert run.snapshot is not None
    planned = Client().get_snapshot(run.snapshot.id).step_configurations
    ran = {name: step.status.value for name, step in run.steps.items()}
    steps = {
        name: StepOutcome(status=ran.get(name, "not started"), upstream=set(step.spec.upstream_steps))
        for name, step in planned.items()
    }
    return Outcome(name=run.name, status=run.status.value, steps=steps)


if __name__ == "__main__":
    outcome = latest_outcome()
    sys.stdout.write(json.dumps(outcome.model_dump(mode="json") if outcome else None) + "\n")
