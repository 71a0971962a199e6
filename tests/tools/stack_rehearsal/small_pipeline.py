"""A pipeline of three steps, small enough to be run on every stand-in."""

import os
import time
from pathlib import Path
from typing import Annotated

from zenml import pipeline, step
from zenml.config import DockerSettings

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/llm-engineering:emulation"


@step(enable_cache=False)
def count() -> Annotated[int, "counted"]:
    """Return a number."""
    return 20


@step(enable_cache=False)
def locate() -> Annotated[str, "library"]:
    """Return where this project's library was imported from.

    Where the environment names a mark, the first attempt sets it and waits for its machine to be taken away.
    """
    import llm_engineering

    mark = os.environ.get("SMALL_PIPELINE_MARK")
    if mark and not Path(mark).exists():
        Path(mark).touch()
        time.sleep(600)
    return str(Path(llm_engineering.__file__).parent)


@step(enable_cache=False)
def add(counted: int, library: str) -> Annotated[int, "total"]:
    """Return the number, and 22 more; fail where the environment says so."""
    assert library
    if os.environ.get("SMALL_PIPELINE_FAILS"):
        raise RuntimeError("This step was asked to fail.")
    return counted + 22


@pipeline(enable_cache=False, settings={"docker": DockerSettings(parent_image=IMAGE, skip_build=True)})
def small_pipeline() -> None:
    """Add two numbers, and find the code."""
    add(count(), locate())
