"""Registers a stack and runs the small pipeline on it, or says what became of a run: a client in a process of its own.

Takes one JSON object as its argument, and prints one as its last line.
"""

import json
import sys
from pathlib import Path
from typing import Any

from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.utils import source_utils

from pipelines.stacks.workarounds import work_around

NAME = "emulated"
STEP_OPERATOR = StackComponentType.STEP_OPERATOR
ROOT = Path(__file__).parent


def register(components: dict[str, dict[str, Any]]) -> None:
    """Register the components {type: {flavor, configuration}}, and a stack of them, which is active from now on."""
    client = Client()
    for kind, component in components.items():
        client.create_stack_component(name=NAME, component_type=StackComponentType(kind), **component)
    orchestrator = {StackComponentType.ORCHESTRATOR: "default"}
    client.create_stack(NAME, {**orchestrator, **{StackComponentType(kind): NAME for kind in components}})
    client.activate_stack(NAME)
    work_around(component.flavor_name for component in client.active_stack_model.components.get(STEP_OPERATOR, ()))


def submit(options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline with options, and say whether it was submitted."""
    import small_pipeline

    run = small_pipeline.small_pipeline.with_options(**options)()
    return {"submitted": run is not None}


def outcome() -> dict[str, Any]:
    """Return how the latest run ended, its outputs, and where they are stored."""
    found = Client().list_pipeline_runs(sort_by="desc:created", size=1, hydrate=True).items[0]
    outputs = {name: one for step in found.steps.values() for name, (one,) in step.outputs.items()}
    return {
        "status": found.status.value,
        "steps": {name: step.status.value for name, step in found.steps.items()},
        "values": {name: artifact.load() for name, artifact in outputs.items()},
        "places": {name: artifact.uri for name, artifact in outputs.items()},
    }


if __name__ == "__main__":
    source_utils.set_custom_source_root(str(ROOT))
    request = json.loads(sys.argv[1])
    if "look" in request:
        answer = outcome()
    else:
        register(request["components"])
        answer = submit(request.get("options", {}))
    sys.stdout.write(json.dumps(answer) + "\n")
