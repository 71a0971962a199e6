"""Opens the store, in a process of its own; killed before the N-th SQL statement of a kind, if one is named."""

import os
import signal
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from tools.environment import keep_calm

kind, number = sys.argv[1:] or ("none", "0")
left = int(number)


@event.listens_for(Engine, "before_cursor_execute")
def die(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
    global left
    if " ".join(statement.split()).replace('"', "").startswith(f"{kind} "):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


keep_calm()

from zenml.client import Client  # noqa: E402

from pipelines.store import open_store  # noqa: E402

open_store()
stack = Client().active_stack
runs = Client().list_pipeline_runs(size=1).total
sys.stdout.write(f"{stack.name} {stack.artifact_store.path} {Client().active_user.name} {runs}\n")
