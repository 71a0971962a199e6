"""Stand-ins with a small project beside them, whose pipeline any stack can run in seconds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from emulated import Emulated, Open

from llm_engineering.errors import StoreError
from tools.stack_rehearsal.emulation import REPOSITORY, require_packages, standing_in

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Return what starts the stand-ins of a flavour; skip where their packages are not installed."""
    try:
        require_packages()
    except StoreError as error:
        pytest.skip(str(error))

    @contextmanager
    def start(flavor: str) -> Iterator[Emulated]:
        folder = tmp_path_factory.mktemp(flavor)
        project = folder / "project"
        ignored = shutil.ignore_patterns("__pycache__", "embedded")
        shutil.copytree(REPOSITORY / "llm_engineering", project / "llm_engineering", ignore=ignored)
        for name in ("__init__.py", "stacks/__init__.py", "stacks/workarounds.py"):
            (project / "pipelines" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / "pipelines" / name, project / "pipelines" / name)
        for name in ("small_pipeline.py", "submitting.py"):
            shutil.copy(HERE / name, project)
        with standing_in([flavor], folder / "emulation") as emulation:
            yield Emulated(emulation, project)

    return start
