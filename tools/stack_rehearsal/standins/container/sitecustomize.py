"""What a container has that a local process has not: a folder ``/app`` of its own, and the pod's host name.

Python imports this module when a job starts, since its folder stands on the job's ``PYTHONPATH``. ZenML's entry points
make ``/app`` and go there before they fetch the code; here both calls are led to the job's own folder, so that no job
needs the right to write into ``/`` and none sees another's code.
"""

import os
import socket
from pathlib import Path
from typing import Any

APP = "/app"


def _led_to(folder: str) -> None:
    """Lead what is made in, or entered as, ``/app`` to a folder."""
    make, enter = os.makedirs, os.chdir

    def inside(path: Any) -> Any:
        parts = Path(os.fsdecode(path)).parts if isinstance(path, str | bytes | os.PathLike) else ()
        return os.path.join(folder, *parts[2:]) if parts[:2] == ("/", "app") else path  # noqa: PTH118

    def makedirs(name: Any, *args: Any, **kwargs: Any) -> None:
        make(inside(name), *args, **kwargs)

    def chdir(path: Any) -> None:
        enter(inside(path))

    os.makedirs, os.chdir = makedirs, chdir


def _named(host: str) -> None:
    """Answer to the name of the pod."""
    socket.gethostname = lambda: host


if _folder := os.environ.get("STANDIN_APP"):
    _led_to(_folder)
if _host := os.environ.get("STANDIN_HOSTNAME"):
    _named(_host)
