"""Make a run ready to start: find model, data and versions, and go through everything that is asked beforehand."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zenml.client import Client

from llm_engineering.config.measuring import Lineup
from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.errors import StoreError
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import (
    describe_hub_model,
    is_hub_id,
    known_weights,
    locate_base,
)
from llm_engineering.planning.recipes import PATHS_OF_JOBS
from llm_engineering.reports.folders import Checkpoint, FromHub
from pipelines.launching.packing import find_artifacts
from pipelines.launching.preflight import Asked, Job, go_through, intent_of_job
from pipelines.stacks.target import Target
from steps.runtime.context import HERE, Place, place_of_steps
from steps.runtime.fetching import described
from steps.runtime.registry import has_folder, model_version, promoted_model
from steps.runtime.stores import hash_memo


@dataclass(frozen=True)
class Launch:
    """A run that is ready to start: everything that can be checked before it has been checked."""

    job: Job
    config: RunConfig
    base: Checkpoint
    """Its folder here has weights only where those were here anyway, or steps here will want them."""
    template: str
    """Which chat template will render the rows, and why."""
    arguments: dict[str, Any]
    """What the pipeline function gets beside configuration and base."""
    model_version: str | None = None
    """The version that is measured again; else the run makes a new one."""
    warnings: tuple[str, ...] = ()
    """What can run and is seldom meant."""
    target: Target | None = None
    """The stack that the run is sent to; None: the active one, as it is."""
    place: Place = HERE
    """Where its steps are executed."""
    known_weights: dict[str, str] = field(default_factory=dict)
    """Weights hashes of models of the hub that this machine has, by their commits: steps must find the same."""


def prepare(job: Job, config: RunConfig, target: Target | None = None) -> Launch:
    """Resolve model, data and versions, and refuse what cannot run.

    Args:
        job: What is run.
        config: Its configuration.
        target: The stack that it is sent to; none: the active one. What only the machine that trains can answer (a GPU,
            a package) is asked here only if that is this one, and in the step anyway.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    place = place_of_steps(target.config.environment, target.config.secrets) if target else place_of_steps()
    asked = Asked(job, config, place, target)
    warnings = go_through(asked, "configuration")
    base = _resolve(config.model, "model.base", place)
    chat = load_chat_tokenizer(base, config.model)
    arguments, version = _arguments(job, config, base, place)
    warnings += go_through(replace(asked, base=base, chat=chat, arguments=arguments), "base")
    return Launch(
        job,
        config,
        base,
        chat.template,
        arguments,
        version,
        tuple(warnings),
        target,
        place,
        _known_weights([base, *arguments.get("models", [])]),
    )


def _arguments(job: Job, config: RunConfig, base: Checkpoint, place: Place) -> tuple[dict[str, Any], str | None]:
    """Return what the pipeline gets beside configuration and base, and the version that is measured again."""
    arguments: dict[str, Any] = {"origins": _origins(config)}
    if job in PATHS_OF_JOBS:
        return {**arguments, "intent": intent_of_job(job, config)}, None
    if job == "evaluation" and config.evaluation.models:
        named = _named_models(config, place)
        names, parents = list(named), config.evaluation.parent_names()
        lineup = Lineup(models=names, measured=names, parents=parents, own_tokens=True)
        return {**arguments, "models": list(named.values()), "lineup": lineup}, None
    if job == "evaluation":
        version, trained = _trained_models(config.name)
        _require_same_base(next(iter(trained.values())), base, version)
        return {**arguments, "models": list(trained.values()), "lineup": Lineup.of_run(list(trained))}, version
    return arguments, None


def _known_weights(models: list[Checkpoint]) -> dict[str, str]:
    of_hub = {model.fetch.revision: known_weights(model) for model in models if isinstance(model.fetch, FromHub)}
    return {commit: weights for commit, weights in of_hub.items() if weights is not None}


def _origins(config: RunConfig) -> Origins:
    """Return what the rows would be read from now; hashes of local files are kept in ZenML's folder."""
    return Origins(files=file_hashes(config.data, hash_memo()), artifacts=find_artifacts(config.data))


def _resolve(config: ModelConfig, key: str, place: Place) -> Checkpoint:
    """Return a model that can be looked at; its weights are here only if steps here will want them."""
    found = _version_model(config.base)
    if found is not None:
        return described(found)
    if is_hub_id(config.base) and not place.here:
        return describe_hub_model(config, key)
    return locate_base(config, key)


def find_version_model(config: RunConfig) -> Checkpoint | None:
    """Return the model of an earlier run that ``NAME@VERSION_OR_STAGE`` stands for; None if the base is another kind.

    Raises:
        StoreError: There is no such version, or its folder is gone.
    """
    return _version_model(config.model.base)


def _version_model(where: str) -> Checkpoint | None:
    name, at, version = where.partition("@")
    if not at or Path(where).exists():
        return None
    found = model_version(name, version)
    checkpoint = promoted_model(found)
    if checkpoint is None or not has_folder(checkpoint):
        raise StoreError(f"Version {found.name} of the model {name!r} has no model folder. Name another version.")
    return checkpoint.model_copy(update={"base": where})


def _named_models(config: RunConfig, place: Place) -> dict[str, Checkpoint]:
    """Return the models of ``evaluation.models``: folders, hub ids or versions."""
    return {
        name: _resolve(ModelConfig(base=where), f"evaluation.models.{name}", place)
        for name, where in config.evaluation.models.items()
    }


def _trained_models(name: str) -> tuple[str, dict[str, Checkpoint]]:
    """Return the newest version of a model whose run made something, and its models by stage."""
    model_version(name, "latest")
    for version in Client().list_model_versions(model=name, size=50, sort_by="desc:number").items:
        found = {stage: version.get_artifact(f"{stage}_model") for stage in ("sft", "dpo")}
        models = {stage: artifact.load() for stage, artifact in found.items() if artifact is not None}
        if models:
            return str(version.name), models
    raise StoreError(f"No run of {name!r} has made a model yet. Run --run-training first.")


def _require_same_base(first: Checkpoint, base: Checkpoint, version: str) -> None:
    """Refuse to measure models against another base than the one that the first of them was trained from."""
    if not base.weights_sha256:  # of the hub: only the step will read the weights
        return
    if first.base_sha256 != base.weights_sha256:
        raise StoreError(
            f"The models of version {version} were trained from {first.base!r} (weights {first.base_sha256[:12]}), but "
            f"model.base is {base.base!r} (weights {base.weights_sha256[:12]}). Set model.base to theirs."
        )
