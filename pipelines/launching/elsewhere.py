"""What cannot work where a run's steps do not see the machine that submits it: refused before anything is submitted."""

import os
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import CometTracking, TransformersTracking
from llm_engineering.errors import ConfigError
from steps.runtime.caching import REPOSITORY
from steps.runtime.context import Place
from steps.runtime.tracking import has_stack_tracker

MAKE_A_SECRET = "store it as a ZenML secret and give it to the stack (`zenml stack update --secret NAME`)"


def require_reachable(config: RunConfig, place: Place) -> None:
    """Refuse what steps would look for on their own machines in vain.

    Raises:
        ConfigError: Says what, and by which way it gets there.
    """
    for name in {config.evaluation.checker, config.data.sampling.checker if config.data.sampling else None} - {None}:
        _require_travelling("checker", str(name))
    _require_travelling("loss", config.dpo.loss)
    if config.export.dir is not None:
        raise ConfigError(
            "export.dir would be written on a machine that is gone after its step. Name a repository with export.hub, "
            "or leave it out: the merged model is an artifact of the run."
        )
    if config.export.hub is not None and "HF_TOKEN" not in place.variables:
        raise ConfigError(
            f"export.hub needs HF_TOKEN where the steps run, and the active stack does not set it: {MAKE_A_SECRET}."
        )
    if isinstance(config.evaluation.judge, OpenAIJudge):
        _require_judge_key(config.evaluation.judge, place)
    _require_tracker(config, place)


def _require_travelling(kind: str, name: str) -> None:
    """Refuse a user's function whose module is neither in the code that is submitted nor in an installed package."""
    module, colon, _ = name.partition(":")
    if not colon:
        return
    found = find_spec(module.partition(".")[0])
    origin = found.origin if found and found.origin else None
    roots = [REPOSITORY, *(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))]
    if origin is not None and not any(Path(origin).resolve().is_relative_to(root) for root in roots):
        raise ConfigError(
            f"The {kind} {name!r} is in {origin}, which does not travel to where the steps run. Put the module into "
            f"the repository {REPOSITORY}, whose code does."
        )


def _require_judge_key(judge: OpenAIJudge, place: Place) -> None:
    if judge.api_key_secret is None and judge.api_key_env is not None and judge.api_key_env not in place.variables:
        raise ConfigError(
            f"evaluation.judge.api_key_env: the variable {judge.api_key_env} of this machine is not set where the "
            "steps run. Name a ZenML secret with evaluation.judge.api_key_secret."
        )


def _require_tracker(config: RunConfig, place: Place) -> None:
    tracking = config.tracking
    if isinstance(tracking, TransformersTracking) and "tensorboard" in tracking.report_to:
        raise ConfigError(
            "tracking.report_to tensorboard writes to the disk of a machine that is gone after its step. Use Comet, or "
            "a tracker with a server."
        )
    has_key = tracking.secret or has_stack_tracker() if isinstance(tracking, CometTracking) else True
    if not has_key and os.environ.get("COMET_API_KEY") and "COMET_API_KEY" not in place.variables:
        raise ConfigError(
            "COMET_API_KEY is set on this machine and not where the steps run. Name a ZenML secret with "
            "tracking.secret, add a Comet tracker to the stack, or set `tracking.type: none`."
        )
