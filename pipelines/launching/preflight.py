"""What is asked before a run starts, so that nothing is found out later that could be known now."""

from typing import Literal

from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import TransformersTracking
from llm_engineering.errors import ConfigError
from llm_engineering.models.adapters import require_backend, require_hardware
from llm_engineering.models.chat import ChatTokenizer, instruct_warning
from llm_engineering.models.export import require_export
from llm_engineering.models.hardware import require_devices, require_liger
from llm_engineering.planning.recipes import comparison_recipes, sweep_recipes
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.harness import require_tasks
from llm_engineering.tracking.other_trackers import require_trackers
from llm_engineering.training.arguments import require_shares
from pipelines.launching.elsewhere import require_reachable
from steps.runtime.places import Place
from steps.runtime.secrets import judge_key
from steps.runtime.tracking import comet_account

Job = Literal["training", "sft", "dpo", "evaluation", "comparison", "sweep"]


def require_trainable(config: RunConfig, place: Place) -> None:
    """Refuse what cannot be trained: at all, or by this machine if that is to do it."""
    require_backend(config.model, config.adapter)
    if not place.here:
        return
    require_hardware(config.model, config.adapter)
    require_devices(config.hardware)
    for stage in (config.sft, config.dpo):
        require_liger(stage.liger_kernel)


def require_job_shares(job: Job, config: RunConfig) -> None:
    """Refuse batches that the processes cannot share, on whatever machine they are."""
    if job != "dpo":
        require_shares("sft", config.sft, config.hardware)
    if job != "sft":
        require_shares("dpo", config.dpo, config.hardware)


def require_services(job: Job, config: RunConfig, place: Place) -> None:
    """Refuse checkers, judges, tasks, exports and trackers that cannot be had, before anything is loaded."""
    if not place.here:
        require_reachable(config, place)
    for name in (config.evaluation.checker, config.data.sampling.checker if config.data.sampling else None):
        if name is not None:
            load_checker(name)
    if config.evaluation.judge and (place.here or config.evaluation.judge.api_key_secret):
        judge_key(config.evaluation.judge)
    if config.evaluation.harness:
        require_tasks(config.evaluation.harness)
    if job != "evaluation" and place.here:
        require_export(config.export)
    comet_account(config.tracking)
    if isinstance(config.tracking, TransformersTracking):
        require_trackers(config.tracking.report_to)


def warnings_of(job: Job, config: RunConfig, chat: ChatTokenizer) -> tuple[str, ...]:
    """Return what can run and is seldom meant; of the base, where SFT starts from one that is not this project's."""
    found = config.warnings if job in ("training", "comparison", "sweep") else []
    is_own = config.model.base == "embedded" or "@" in config.model.base
    trains_base = job not in ("dpo", "evaluation") and not is_own
    of_base = instruct_warning(config.model.base, chat) if trains_base else None
    return (*found, of_base) if of_base else tuple(found)


def require_data(job: Job, config: RunConfig) -> None:
    """Refuse a job whose data no source gives, and a sweep or a comparison that makes no models."""
    if job == "comparison":
        comparison_recipes(config)
    if job == "sweep":
        sweep_recipes(config)
    wanted = {"training": ("sft", "preference"), "sft": ("sft",), "dpo": ("preference",)}
    for kind in wanted.get(job, ()):
        if not getattr(config.data, kind):
            raise ConfigError(
                f"data.{kind} names no source, which --run-{job} needs. Add one, such as `{kind}: [{{path: FILE}}]`."
            )
    if job == "dpo" and config.data.sampling and not config.data.sft:
        raise ConfigError("data.preference samples answers to the prompts of data.sft, which names no source. Add one.")
