"""Models that a person names: folders, hub ids, versions and stages of ZenML models, models within a version."""

from pathlib import Path

from zenml.client import Client

from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.errors import StoreError
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.reports.folders import Checkpoint
from pipelines.launching.prepare import find_version_model
from steps.runtime.fetching import at_hand
from steps.runtime.registry import has_folder, model_names, model_version, promoted_model, version_model, was_promoted


def find_model(name: str) -> Checkpoint:
    """Return the model that a name stands for.

    Args:
        name: ``embedded``, a folder, a hub id, ``NAME@VERSION_OR_STAGE`` for what a version stands for, or
            ``NAME@VERSION_OR_STAGE:sft`` for one of its models; ``:base`` is what they were trained from.

    Raises:
        UserError: There is no such model; says which there are.
    """
    address, colon, part = name.partition(":")
    if not colon or "@" not in address or Path(name).exists():
        model = ModelConfig(base=name)
        of_version = find_version_model(RunConfig(model=model))
        return at_hand(of_version) if of_version else locate_base(model)
    model_name, _, asked = address.partition("@")
    version = model_version(model_name, asked)
    if part == "base":
        return _base_of(version_model(version, "sft") or promoted_model(version), name)
    found = version_model(version, part)
    if found is None or not has_folder(found):
        there = ", ".join(["base", *model_names(version)])
        raise StoreError(f"Version {version.name} of {model_name!r} has no model {part!r}. There are: {there}.")
    return at_hand(found)


def _base_of(trained: Checkpoint | None, name: str) -> Checkpoint:
    if trained is None:
        raise StoreError(f"{name!r} has no base: the version has no model. Name another version.")
    base = find_model(trained.base)
    if base.weights_sha256 != trained.base_sha256:
        raise StoreError(
            f"{trained.base!r} is not what {name!r} was trained from any more: its weights are "
            f"{base.weights_sha256[:12]}, not {trained.base_sha256[:12]}. Name the base's folder."
        )
    return base


def newest_promoted(name: str) -> tuple[str, Checkpoint]:
    """Return the newest promoted version of a model, as ``NAME@VERSION``, and its model.

    Raises:
        StoreError: No run has promoted one.
    """
    model_version(name, "latest")
    for version in Client().list_model_versions(model=name, size=50, sort_by="desc:number", hydrate=True).items:
        found = promoted_model(version) if was_promoted(version) else None
        if found is not None and has_folder(found):
            return f"{name}@{version.name}", at_hand(found)
    raise StoreError(f"No run of {name!r} has promoted a model yet. Name a model, or NAME@VERSION:sft for a part.")
