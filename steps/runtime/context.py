"""What a step knows of its run: settings, keys, where steps are executed, and on which packages."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

from pydantic import TypeAdapter
from zenml import get_step_context, log_metadata
from zenml.client import Client
from zenml.enums import StackComponentType

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.config.hardware import HardwareConfig
from llm_engineering.config.tracking import TrackingConfig
from llm_engineering.config.watch import WatchConfig
from llm_engineering.errors import ConfigError, ImageError
from llm_engineering.reports.training import TrackerLink

LOCAL = "local"
"""The flavor of the orchestrator that runs steps in the process that submits them."""


def run_name() -> str:
    """Return the name of the run."""
    return str(get_step_context().pipeline_run.name)


def experiment_name() -> str:
    """Return the name of the run and, where it makes several models, the model that this step is for."""
    step = get_step_context().step_run
    model = step.name.removeprefix(step.config.name)
    return f"{run_name()}{model}"


def run_settings() -> dict[str, Any]:
    """Return what the run was given beside step parameters: it shapes no result, so that no cache key holds it."""
    return dict(get_step_context().pipeline_run.config.extra)


def tracking() -> TrackingConfig:
    """Return the configured tracker."""
    config: TrackingConfig = TypeAdapter(TrackingConfig).validate_python(run_settings()["tracking"])
    return config


def watch() -> WatchConfig:
    """Return what curves are judged by; the part of it that can change a training is a step parameter as well."""
    return WatchConfig.model_validate(run_settings()["watch"])


def judge_settings(judge: OpenAIJudge) -> OpenAIJudge:
    """Return the configured judge, with what shapes no verdict: time-outs, prices, and where its key is."""
    whole = OpenAIJudge.model_validate(run_settings()["judge"])
    assert whole.deciding == judge
    return whole


def hardware() -> HardwareConfig:
    """Return in how many processes is trained: it shapes no result, as far as it does not shape checkpoints."""
    config: HardwareConfig = TypeAdapter(HardwareConfig).validate_python(run_settings()["hardware"])
    return config


def sources() -> list[str]:
    """Return what the user calls the sources of rows."""
    return list(run_settings()["sources"])


def log_facts(facts: Mapping[str, Any], tracker: TrackerLink | None = None) -> None:
    """Attach metadata to the step, with a link to the tracker that the dashboard makes clickable."""
    from zenml.metadata.metadata_types import Uri

    link: dict[str, Any] = {}
    if tracker is not None and tracker.url:
        link = {"comet": Uri(tracker.url)}
    elif tracker is not None and tracker.offline_archive:
        link = {"comet_offline_archive": tracker.offline_archive}
    if link and tracker is not None and tracker.key:
        link["comet_experiment"] = tracker.key
    log_metadata({**{name: as_metadata(value) for name, value in facts.items() if value is not None}, **link})


def as_metadata(value: Any) -> Any:
    """Return a value whose numbers are in words where JSON has none for them: the dashboard could not send them."""
    if isinstance(value, Mapping):
        return {name: as_metadata(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_metadata(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def judge_key(config: OpenAIJudge) -> str | None:
    """Return the key of the judge's endpoint, None where the configuration says that it wants none.

    Raises:
        ConfigError: There is no such variable or secret.
    """
    if config.api_key_secret is not None:
        return _secret(config.api_key_secret)
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ConfigError(
            f"evaluation.judge needs a key, and the environment variable {config.api_key_env} is not set. Set it, name "
            "a ZenML secret with evaluation.judge.api_key_secret, or say `api_key_env: null` where the endpoint wants "
            "no key."
        )
    return key


def _secret(place: str) -> str:
    name, _, key = place.partition(".")
    try:
        values = Client().get_secret(name).secret_values
    except KeyError as error:
        raise ConfigError(
            f"evaluation.judge.api_key_secret names {place}, but ZenML has no secret {name!r}. Make it with "
            f"`zenml secret create {name} --{key}=...`."
        ) from error
    if key not in values:
        raise ConfigError(
            f"evaluation.judge.api_key_secret names {place}, but the secret has no {key!r}. It has: "
            f"{', '.join(sorted(values)) or 'nothing'}."
        )
    return str(values[key])


def require_submitted_packages() -> None:
    """Refuse to compute where the packages are not those that this step's run was submitted with.

    Raises:
        ImageError: A version differs, or a package is missing here.
    """
    submitted: Mapping[str, str] = get_step_context().pipeline_run.config.extra.get("packages", {})
    installed = {name: _installed(name) for name in submitted}
    require_same_packages(submitted, {name: found for name, found in installed.items() if found is not None})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def require_same_packages(submitted: Mapping[str, str], running: Mapping[str, str]) -> None:
    """Refuse to compute on other packages than those in the step's cache key.

    The key is made where the run is submitted: a result of other versions would be found under it and taken for theirs.
    Builds of one version, such as ``2.13.0+cpu`` and ``2.13.0+cu130``, count as the same.

    Args:
        submitted: Versions by package, from :func:`steps.runtime.caching.packages` where the run was submitted.
        running: The same, here.

    Raises:
        ImageError: A version differs, or a package is missing here.
    """
    differing = [
        f"{name} {running.get(name, 'missing')} (submitted: {version})"
        for name, version in submitted.items()
        if _public(running.get(name)) != _public(version)
    ]
    if differing:
        raise ImageError(
            f"The image of this step has other packages than the run was submitted with: {', '.join(differing)}. Build "
            "the image of this code (`make image`), or submit with the packages of the image."
        )


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]


@dataclass(frozen=True)
class Place:
    """Where steps are executed."""

    here: bool
    """All in the process that submits the run, so that they see its files, its GPU and its environment."""
    orchestrated_here: bool
    """The process that submits the run starts the steps: the run ends with it."""
    variables: frozenset[str] = frozenset()
    """The environment variables that the stack gives its steps, from its settings or from ZenML secrets."""


HERE = Place(here=True, orchestrated_here=True)


def place_of_steps(environment: Iterable[str] = (), secrets: Iterable[str] = ()) -> Place:
    """Return where the active stack executes steps; a stack with a step operator has them elsewhere.

    Args:
        environment: Variables that a run gives its steps beside those of the stack.
        secrets: ZenML secrets whose values become variables likewise.
    """
    stack = Client().active_stack_model
    orchestrator = stack.components[StackComponentType.ORCHESTRATOR][0]
    is_local = orchestrator.flavor_name == LOCAL
    if is_local and not stack.components.get(StackComponentType.STEP_OPERATOR):
        return HERE
    components = [component for several in stack.components.values() for component in several]
    named = {*secrets, *stack.secrets, *(secret for component in components for secret in component.secrets)}
    given = {*environment, *stack.environment, *(name for component in components for name in component.environment)}
    given |= {name for secret in named for name in Client().get_secret(str(secret)).secret_values}
    return Place(here=False, orchestrated_here=is_local, variables=frozenset(given))
