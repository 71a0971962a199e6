"""What steps take: few inputs, each step its own part of the configuration."""

import inspect
from types import SimpleNamespace
from typing import Any

import grimp

from steps.runtime.registry import measured_by
from steps.runtime.traits import all_steps


def test_a_step_takes_at_most_eight_inputs() -> None:
    taken = {name: len(inspect.signature(step.entrypoint).parameters) for name, step in all_steps().items()}
    assert {name: number for name, number in taken.items() if number > 8} == {}


def test_no_step_is_given_the_whole_configuration() -> None:
    graph = grimp.build_graph("llm_engineering", "steps", exclude_type_checking_imports=True, cache_dir=None)
    modules = {step.entrypoint.__module__ for step in all_steps().values()}
    config = "llm_engineering.config.run"
    assert [one for one in modules if graph.direct_import_exists(importer=one, imported=config)] == []


def test_an_evaluation_with_a_judges_word_in_it_was_measured_by_the_step_before() -> None:
    measuring: Any = SimpleNamespace(inputs={"held_out": []})
    gathering: Any = SimpleNamespace(inputs={"evaluation_report": [SimpleNamespace(step=measuring)]})
    assert measured_by(gathering) is measured_by(measuring) is measuring
