"""Interrupts a run in its step, and again whenever ZenML is about to write what became of it; prints its status."""

import os
import signal
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tools.environment import keep_calm

keep_calm()
signal.signal(signal.SIGINT, signal.default_int_handler)

from zenml import pipeline, step  # noqa: E402
from zenml.client import Client  # noqa: E402

from pipelines.store import alive, open_store  # noqa: E402

interrupted = False


@step
def interrupts_itself() -> None:
    global interrupted
    interrupted = True
    os.kill(os.getpid(), signal.SIGINT)


@event.listens_for(Engine, "before_cursor_execute")
def interrupt(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
    if interrupted and statement.startswith("UPDATE "):
        os.kill(os.getpid(), signal.SIGINT)


@pipeline
def small() -> None:
    interrupts_itself()


open_store()
try:
    with alive("small-1"):
        small.with_options(run_name="small-1", enable_cache=False)()
except KeyboardInterrupt:
    run = Client().get_pipeline_run("small-1", hydrate=True)
    sys.stdout.write(f"{run.status} {[step.status.value for step in run.steps.values()]}\n")
