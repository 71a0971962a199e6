"""The store is made by the first start, and by the next one where that was killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.checkup import is_half_made

REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("open_and_die.py")
INTERRUPTED = Path(__file__).with_name("interrupt_again.py")


def start(folder: Path, *killed_before: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZENML_CONFIG_PATH": str(folder), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, str(script), *killed_before],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        umask=0,
    )


def require_works_after_kills(folder: Path, kills: list[tuple[str, str]]) -> None:
    """Kill one start after the other on one folder; each must come as far as a first one, and the last to its end."""
    for statement, number in kills:
        killed = start(folder, statement, number)
        assert killed.returncode == -signal.SIGKILL, (statement, killed.stdout + killed.stderr)
    (folder / "config.yaml").write_text("")  # ZenML empties it before it writes it: a kill may come between
    done = start(folder)
    assert done.returncode == 0, done.stderr
    name, artifacts, user, runs = done.stdout.splitlines()[-1].split()  # after what ZenML says
    assert (name, user, runs) == ("default", "default", "0")
    assert Path(artifacts).parent == folder / "local_stores"
    files = {path.name for path in (folder / "local_stores" / "default_zen_store").iterdir()}
    assert files - {"zenml.db.half-made"} == {"zenml.db"}  # what was half made last, and no journal


def test_a_first_start_that_was_killed_is_made_good_by_the_next(tmp_path: Path) -> None:
    # killed with tables and no version, with flavors and no stack, with all but the user
    require_works_after_kills(
        tmp_path, [("INSERT INTO alembic_version", "1"), ("INSERT INTO stack", "1"), ("INSERT INTO user", "1")]
    )


@pytest.mark.slow
def test_a_first_start_may_be_killed_anywhere(tmp_path: Path) -> None:
    kills = [
        ("CREATE TABLE alembic_version", "1"),
        ("CREATE TABLE stack", "1"),
        ("CREATE TABLE stack_component", "1"),
        ("CREATE TABLE logs", "1"),
        ("INSERT INTO server_settings", "1"),
        ("INSERT INTO alembic_version", "1"),
        ("INSERT INTO flavor", "1"),
        ("INSERT INTO flavor", "40"),
        ("INSERT INTO project", "1"),
        ("INSERT INTO stack_component", "1"),
        ("INSERT INTO stack_component", "3"),
        ("INSERT INTO stack", "1"),
        ("INSERT INTO stack_composition", "1"),
        ("UPDATE server_settings SET active=?,", "1"),
        ("INSERT INTO user", "1"),
        ("SELECT pipeline_run.id,", "1"),
    ]
    require_works_after_kills(tmp_path, kills)


@pytest.mark.parametrize(
    ("rows", "half_made"),
    [
        (set(), True),
        ({"stack"}, True),
        ({"user"}, True),
        ({"stack", "user"}, False),  # complete
        ({"pipeline_run"}, False),  # somebody's, whatever else is wrong with it
    ],
)
def test_a_store_that_is_complete_or_holds_a_run_is_kept(rows: set[str], half_made: bool) -> None:
    with closing(sqlite3.connect(":memory:")) as store:
        for table in ("stack", "user", "pipeline_run"):
            store.execute(f'CREATE TABLE "{table}" (id TEXT)')
            if table in rows:
                store.execute(f"INSERT INTO \"{table}\" VALUES ('1')")
        assert is_half_made(store) == half_made


def test_a_database_without_the_tables_of_zenml_is_kept() -> None:
    with closing(sqlite3.connect(":memory:")) as store:
        store.execute("CREATE TABLE mine (id TEXT)")
        assert not is_half_made(store)


def test_what_the_first_start_makes_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    start(tmp_path / "zen", "CREATE TABLE stack", "1")
    made = [tmp_path / "zen", *(tmp_path / "zen").rglob("*")]
    assert {"config.yaml", "zenml.db"} <= {path.name for path in made}
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_a_run_is_marked_failed_though_interrupts_keep_coming(tmp_path: Path) -> None:
    done = start(tmp_path, script=INTERRUPTED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "failed ['failed']"
