from pathlib import Path

import pytest
from zenml.utils import source_utils

from llm_engineering.config.metrics import METRICS
from llm_engineering.errors import ConfigError
from steps.load_datasets import load_datasets
from steps.runtime import caching
from steps.runtime.caching import (
    PACKAGES,
    checker_hash,
    code_dependencies,
    package_versions,
    package_versions_with_backend,
    with_code_dependencies,
)


def test_a_step_depends_on_what_it_imports_through_others() -> None:
    files = code_dependencies("steps.train_sft")
    assert "steps/train_sft.py" in files
    assert "llm_engineering/training/trainers.py" in files  # imported inside a function
    assert "llm_engineering/models/generation.py" in files  # imported by evaluation/answers.py
    assert "llm_engineering/models/templates/chatml.jinja" in files


def test_a_step_does_not_depend_on_what_it_does_not_use() -> None:
    files = code_dependencies("steps.load_datasets")
    assert "llm_engineering/data/sources.py" in files
    assert not [file for file in files if file.startswith(("llm_engineering/training", "llm_engineering/reporting"))]


def test_a_step_that_measures_depends_on_the_functions_that_metrics_name() -> None:
    files = code_dependencies("steps.evaluate")
    modules = {row.function.partition(":")[0] for row in METRICS.values() if row.takes}
    assert {f"{module.replace('.', '/')}.py" for module in modules} <= {*files}


def test_package_versions_name_what_computes() -> None:
    assert {pair.split("=")[0] for pair in package_versions().split()} >= {"torch", "transformers", "trl", "peft"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZenML imports
def test_package_versions_name_a_backend_that_was_imported_where_the_run_was_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source_utils.set_custom_source_root(str(caching.REPOSITORY))
    monkeypatch.setattr(caching, "BACKEND_PACKAGES", ("pytest", "no_such_package"))
    policy = with_code_dependencies(load_datasets).configuration.cache_policy
    assert policy.cache_func is not None
    assert policy.cache_func.attribute == "package_versions_with_backend"
    assert package_versions_with_backend() == f"{package_versions()} pytest={pytest.__version__}"


def test_builds_of_one_version_have_one_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "version", lambda name: "2.13.0+cpu")
    assert set(package_versions().split()) == {f"{name}=2.13.0" for name in PACKAGES}


def test_the_hash_of_a_checker_follows_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_checker.py"
    module.write_text("def judge(answer, reference): ...\n")
    before = checker_hash("own_checker:judge")
    module.write_text("def judge(answer, reference): return None\n")
    assert checker_hash("own_checker:judge") != before
    assert checker_hash(None) == checker_hash("exact") == ""


def test_a_checker_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'no_such_module:judge' cannot be found"):
        checker_hash("no_such_module:judge")
