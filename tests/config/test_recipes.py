"""The published recipes: what they say, and which hub files they ask for."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.data import HubSource
from llm_engineering.config.yaml.loader import CONFIGS_DIR, load_config
from llm_engineering.data.sources import read_source
from llm_engineering.errors import DataError, ModelError
from llm_engineering.models.checkpoints import EMBEDDED_FOLDER, locate_base, locate_description

RECIPES = sorted((CONFIGS_DIR / "recipes").glob("*.yaml"))
BASES = {
    "llama-orca-hh": "meta-llama/Llama-3.2-1B",
    "pythia-hh": "EleutherAI/pythia-2.8b",
    "qwen-human-like": "Qwen/Qwen2.5-0.5B",
    "twin-llama": "meta-llama/Llama-3.1-8B",
}
DATA = {
    "llama-orca-hh": ["Open-Orca/OpenOrca", "Anthropic/hh-rlhf"],
    "pythia-hh": ["Anthropic/hh-rlhf"] * 2,
    "qwen-human-like": ["HumanLLMs/Human-Like-DPO-Dataset"] * 2,
    "twin-llama": ["mlabonne/llmtwin", "mlabonne/llmtwin-dpo"],
}
Recorder = Callable[..., Any]


class Asked(Exception):
    """Stands for the network: what a loader was called with."""


def refuse(*args: Any, **kwargs: Any) -> None:
    raise Asked(args, kwargs)


def test_there_are_the_four_recipes() -> None:
    assert [path.stem for path in RECIPES] == sorted(BASES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_its_published_base_and_data(path: Path) -> None:
    config = load_config([path.stem])
    assert config.name == path.stem
    assert config.model.base == BASES[path.stem]
    assert [source.hub for _, source in config.data.row_sources if isinstance(source, HubSource)] == DATA[path.stem]
    assert config.dpo.learning_rate <= config.sft.learning_rate


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_number_of_a_recipe_is_accounted_for(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^# A number without another source beside it is ", text, re.MULTILINE)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_base_is_asked_of_the_hub_with_weights_only_where_they_are_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[list[str]] = []

    def answer(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repository, revision) == (BASES[path.stem], None)
        assert {"*.json", "*.model"} <= set(allow_patterns)
        asked.append(allow_patterns)
        return str(EMBEDDED_FOLDER)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    model = load_config([path]).model
    locate_description(model)
    locate_base(model)  # the description comes first: it may be refused
    assert ["*.safetensors" in patterns for patterns in asked] == [False, False, True]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_data_is_asked_of_the_hub_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    for _, source in load_config([path]).data.row_sources:
        with pytest.raises(DataError, match="cannot be had from the hub") as caught:
            next(read_source(source, seed=0))
        assert isinstance(caught.value.__cause__, Asked)
        (name, subset), options = caught.value.__cause__.args
        assert (name, subset, options["split"]) == (source.hub, None, "train")
        assert options["streaming"] == (source.first is not None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_without_a_network_a_recipe_stops_at_the_base_with_one_sentence(path: Path) -> None:
    with pytest.raises(ModelError, match=f"{BASES[path.stem]!r} is neither a folder here nor a model"):
        locate_base(load_config([path]).model)
