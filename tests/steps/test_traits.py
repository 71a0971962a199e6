"""What steps declare of themselves, held against what their code does."""

from typing import Any

import grimp
import pytest

from steps.runtime.traits import all_steps, gpu_steps, traits_of

CHECKPOINTS = "llm_engineering.models.checkpoints"
ASKING = {"steps.preflight"}
"""Ask the rooms that train what they would refuse, and load nothing."""


@pytest.fixture(scope="module")
def imports() -> Any:
    return grimp.build_graph("llm_engineering", "steps", exclude_type_checking_imports=True, cache_dir=None)


def loads_weights(imports: Any, module: str) -> bool:
    """Return whether a module has an import, its own or of what it stands on, that brings ``load_model``."""
    return any(
        "load_model" in each["line_contents"]
        for importer in {module, *imports.find_upstream_modules(module)}
        if imports.direct_import_exists(importer=importer, imported=CHECKPOINTS)
        for each in imports.get_import_details(importer=importer, imported=CHECKPOINTS)
    )


def test_every_module_that_loads_weights_has_a_step_that_declares_a_gpu_and_no_other_has(imports: Any) -> None:
    modules = {name: step.entrypoint.__module__ for name, step in all_steps().items()}
    loading = {module for module in modules.values() if loads_weights(imports, module)}
    assert loading - ASKING == {modules[name] for name in gpu_steps()}


def test_a_step_that_declares_nothing_is_neither_tracked_nor_taken_up_again() -> None:
    declared = {name: traits_of(step.configuration) for name, step in all_steps().items()}
    assert (declared["merge_sft"].tracked, declared["merge_sft"].resumable) == (None, False)
    assert not declared["format_datasets"].gpu
