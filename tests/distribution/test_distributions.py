"""The wheel: the library alone, with all that it needs."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import grimp
import pytest
from dockerfile import REPOSITORY, installing_environment

from llm_engineering.checkup.software import canonical, installed_closure

LIBRARY = REPOSITORY / "llm_engineering"
OPTIONAL = {
    "bitsandbytes",
    "deepspeed",
    "lm_eval",
    "torchao",
    "unsloth",
    "unsloth_zoo",
    "vllm",
    "flash_attn",
    "fastapi",
    "starlette",
    "liger_kernel",
}
"""Imported where they are installed, or asked for; extras bring them, or their pages say how to get them."""


def test_all_that_the_library_imports_comes_with_its_requirements() -> None:
    import sys
    from importlib.metadata import packages_distributions

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed, missing = installed_closure(project["dependencies"])
    assert not missing
    assert not {"zenml", "grimp"} & set(installed)
    graph = grimp.build_graph("llm_engineering", include_external_packages=True, cache_dir=None)
    modules = {name.partition(".")[0] for name in graph.modules if graph.is_module_squashed(name)}
    distributions = packages_distributions()
    foreign = modules - sys.stdlib_module_names - OPTIONAL
    assert {"torch", "trl"} <= foreign
    without = {name for name in foreign if not {canonical(d) for d in distributions.get(name, ())} & set(installed)}
    assert not without


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_its_data_and_nothing_else(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", LIBRARY], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert names == set(tracked.stdout.splitlines())


@pytest.mark.slow
def test_the_source_distribution_holds_no_tests_and_no_pipeline(distributions: Path) -> None:
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        parts = {member.name.split("/")[1] for member in archive.getmembers() if "/" in member.name}
    assert parts == {
        *("llm_engineering", "llm_engineering.egg-info", "pyproject.toml", "constraints.txt", "MANIFEST.in"),
        *("LICENSE", "README.md", "PKG-INFO", "setup.cfg"),
    }


@pytest.mark.slow
def test_a_session_of_the_library_page_trains_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "session.py").write_text("\n".join(blocks), encoding="utf-8")
    environment = installing_environment() | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [installed, "-I", "session.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "DPO: loss 0.693 before the first update" in done.stdout
    answers = dict(re.findall(r"^(base|SFT|DPO) +(right|wrong)", done.stdout, re.MULTILINE))
    assert answers == {"base": "wrong", "SFT": "right", "DPO": "right"}


@pytest.mark.slow
def test_an_installed_wheel_is_without_zenml_and_says_where_the_configurations_are(
    installed: Path, tmp_path: Path
) -> None:
    program = """
from importlib.util import find_spec
from llm_engineering.config import load_config
from llm_engineering.errors import ConfigError
assert not any(map(find_spec, ("zenml", "grimp", "steps", "pipelines")))
try:
    load_config(["training"])
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [installed, "-I", "-c", program], cwd=tmp_path, env=installing_environment(), capture_output=True, text=True
    )
    assert done.stdout == "training does not exist. Name a file: the shipped configurations stay in the repository.\n"
