"""What ZenML's store looks like from outside: read without opening it, since opening makes or changes it."""

import shlex
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.checkup.finding import Finding
from llm_engineering.checkup.machine import examine_disk

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

MIB = 2**20
RUNNING = ("running", "initializing", "provisioning")
"""What ZenML says of a run or a step that has begun and not ended."""
SECONDS = 5.0
"""How long a ZenML server has to answer."""


def examine_zenml() -> Iterator[Finding]:
    """Look at ZenML's folder, store, stack and runs."""
    yield Finding("ZenML", "ok", version("zenml"))
    from zenml.utils.io_utils import get_global_config_directory

    folder = Path(get_global_config_directory())
    settings = _settings(folder)
    url = (settings.get("store") or {}).get("url") or f"sqlite:///{folder / 'local_stores/default_zen_store/zenml.db'}"
    yield from examine_disk("artifact store", folder)
    yield from examine_privacy(folder, Path(url.removeprefix("sqlite:///")))
    if not url.startswith("sqlite:///"):
        yield _server(url)
        return
    path = Path(url.removeprefix("sqlite:///"))
    if not path.is_file() or not path.stat().st_size:  # empty: killed before the first table
        yield Finding("store", "ok", f"none yet: the first run makes {path}")
        return
    yield from examine_store(path, folder / "llm-engineering-runs" / socket.gethostname())


def examine_privacy(folder: Path, store: Path) -> Iterator[Finding]:
    """Say which files that may hold secrets other users of this machine can get at; a folder that is closed keeps them.

    Args:
        folder: ZenML's.
        store: The SQLite file, or something else that is no file.
    """
    files = [path for path in (folder / "config.yaml", folder / "credentials.yaml", store) if path.is_file()]
    if exposed := [str(path) for path in files if all(map(_is_open, (path, path.parent, folder)))]:
        text = f"other users of this machine may open what may hold secrets: {', '.join(exposed)}"
        yield Finding("privacy", "note", text, f"Run `chmod -R go-rwx {shlex.quote(str(folder))}`.")


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the client's settings, which ZenML writes at its first use."""
    from ruamel.yaml import YAML

    path = folder / "config.yaml"
    found = YAML(typ="safe").load(path) if path.is_file() else None
    return found if isinstance(found, dict) else {}


def _server(url: str) -> Finding:
    """Ask a server that the client is connected to; it was named by the user, and every run needs it."""
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        text = f"the client is connected to the server {url}, which does not answer ({type(error).__name__})"
        return Finding(
            "store",
            "problem",
            text,
            "Start it again, or go back to the local store with `python tools/dashboard.py --reset`.",
        )
    return Finding("store", "ok", f"the server {url}, which answers")


def examine_store(path: Path, locks: Path) -> Iterator[Finding]:
    """Look at a store on this machine: its schema, its stack, its runs.

    Args:
        path: The SQLite file.
        locks: Has a locked file for every run of this host that lives.
    """
    text = f"{path}, {path.stat().st_size / MIB:,.0f} MiB"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        if is_half_made(store):
            yield Finding("store", "note", f"{text}, half made", "Nothing to do: the next run makes it anew.")
            return
        schema = [row[0] for row in store.execute("SELECT version_num FROM alembic_version")]
    finding = judge_schema(text, schema, _migrations())
    yield finding
    if finding.level == "ok":  # ZenML's client would bring an older one up to date
        yield from _stack()
        yield from _runs(locks)


def is_half_made(store: sqlite3.Connection) -> bool:
    """Return whether the first start was ended before ZenML had made the default stack and user, which come last.

    ZenML makes a store in many transactions, and does not go on where it was stopped. No run can be on such a store;
    one with runs is never taken for one, nor one without ZenML's tables, which ZenML fills.
    """
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def has_rows(table: str) -> bool:
        return table in tables and store.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None

    return "stack" in tables and not has_rows("pipeline_run") and not (has_rows("stack") and has_rows("user"))


def _migrations() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory
    from zenml.zen_stores import migrations

    return ScriptDirectory(str(Path(migrations.__file__).parent))


def judge_schema(text: str, schema: list[str], migrations: "ScriptDirectory") -> Finding:
    """Say whether the installed ZenML can read a store.

    Args:
        text: Names the store.
        schema: The revision it is at.
        migrations: All that the installed ZenML knows.
    """
    from alembic.util import CommandError

    if schema == migrations.get_heads():
        return Finding("store", "ok", text)
    try:
        known = bool(schema) and all(migrations.get_revision(revision) for revision in schema)
    except CommandError:
        known = False
    if known:
        remedy = (
            "Nothing to do: the next run brings it up to date. Copy the file first, if an older ZenML is to read it."
        )
        return Finding("store", "note", f"{text}, of an older ZenML (schema {', '.join(schema)})", remedy)
    remedy = "Install the ZenML that wrote it, or set ZENML_CONFIG_PATH to another folder."
    return Finding(
        "store", "problem", f"{text}, of a newer ZenML, or torn (schema {', '.join(schema) or 'none'})", remedy
    )


def _stack() -> Iterator[Finding]:
    from zenml.client import Client

    stack = Client().active_stack_model
    listed = [f"{kind} {each.name} ({each.flavor_name})" for kind, all_ in stack.components.items() for each in all_]
    yield Finding("stack", "ok", f"{stack.name}: {', '.join(listed)}")


def _runs(locks: Path) -> Iterator[Finding]:
    from zenml.client import Client

    from steps.runtime.work import is_locked

    found = [run.name for status in RUNNING for run in Client().list_pipeline_runs(status=status, size=20).items]
    living = {path.stem for path in locks.glob("*.lock") if is_locked(path)}
    dead = [name for name in found if name not in living]
    if alive := [name for name in found if name in living]:
        yield Finding("runs", "ok", f"running now: {', '.join(alive)}")
    if dead:
        text = f"said to be running, but no process of this machine runs them: {', '.join(dead)}"
        yield Finding("runs", "note", text, "Nothing to do: the next run marks those of this machine failed.")
    if not found:
        yield Finding("runs", "ok", "none is running")
