"""What is asked before anything is trained: one list, which a run, its plan and its rehearsal go through alike.

Each check is a function of the room whose business it is; here stands when, for which jobs and of which machine it is
asked. What needs the rows is asked by the step ``preflight``, and by the plan.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from llm_engineering.config.run import RunConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.config.tracking import TransformersTracking
from llm_engineering.data.tokens import require_length
from llm_engineering.errors import ConfigError
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.adapters import adapter_config, require_backend, require_hardware
from llm_engineering.models.chat import ChatTokenizer, instruct_warning
from llm_engineering.models.checkpoints import max_positions
from llm_engineering.models.export import require_export
from llm_engineering.models.hardware import require_devices, require_liger
from llm_engineering.planning.intent import OF_ROWS, CountedRows, Intent, RowCheck, intent_of, intent_of_recipes
from llm_engineering.planning.recipes import PATHS_OF_JOBS, comparison_recipes, require_sources, sweep_recipes
from llm_engineering.planning.shape import build_without_weights
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.harness import require_tasks
from llm_engineering.tracking.other_trackers import require_trackers
from llm_engineering.training.arguments import require_shares
from llm_engineering.training.losses import load_loss
from pipelines.launching.elsewhere import require_reachable
from pipelines.stacks.settings import require_gpus
from pipelines.stacks.target import Target
from steps.runtime.context import HERE, Place, judge_key
from steps.runtime.tracking import comet_account

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Job = Literal["training", "sft", "dpo", "evaluation", "comparison", "sweep"]
JOBS: tuple[Job, ...] = ("training", "sft", "dpo", "evaluation", "comparison", "sweep")
TRAININGS: tuple[Job, ...] = ("training", "sft", "dpo", "comparison", "sweep")


@dataclass(frozen=True)
class Asked:
    """What checks look at; what is not known yet when they are asked is None."""

    job: Job
    config: RunConfig
    place: Place = HERE
    target: Target | None = None
    base: Checkpoint | None = None
    chat: ChatTokenizer | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline will get beside configuration and base."""
    rows: CountedRows | None = None

    @property
    def runs(self) -> "list[Asked]":
        """The same of each run of a sweep; of another job itself."""
        if self.job != "sweep":
            return [self]
        return [Asked(**{**vars(self), "config": recipe.config}) for recipe in sweep_recipes(self.config)]

    @property
    def stages(self) -> "list[tuple[StageName, StageConfig]]":
        """The stages that the job may train, with their settings."""
        other = {"sft": "dpo", "dpo": "sft"}.get(self.job)
        stages: list[tuple[StageName, StageConfig]] = [("sft", self.config.sft), ("dpo", self.config.dpo)]
        return [stage for stage in stages if stage[0] != other]


Ask = Callable[[Asked], Iterable[str] | None]
"""Raises a UserError for what cannot work, and returns sentences for what is seldom meant."""


@dataclass(frozen=True)
class Check:
    """One thing that is asked before a run."""

    name: str
    ask: Ask
    jobs: tuple[Job, ...] = JOBS
    needs: Literal["configuration", "base", "rows"] = "configuration"
    """From when on it can be answered: ``base`` is the model's description and tokenizer, without weights."""
    machine: Literal["any", "submits", "trains"] = "any"
    """Whose answer counts: that of the machine that submits, or of the one that trains; a rehearsal is neither."""


def _checkers(asked: Asked) -> None:
    sample = asked.config.data.sampling
    for name in (asked.config.evaluation.checker, sample.checker if sample else None):
        if name is not None:
            load_checker(name)


def _losses(asked: Asked) -> None:
    for run in asked.runs:
        load_loss(run.config.dpo)


def _reachable(asked: Asked) -> None:
    if not asked.place.here:
        require_reachable(asked.config, asked.place)


def _judge(asked: Asked) -> None:
    judge = asked.config.evaluation.judge
    if judge and (asked.place.here or judge.api_key_secret):
        judge_key(judge)


def _tasks(asked: Asked) -> None:
    if asked.config.evaluation.harness:
        require_tasks(asked.config.evaluation.harness)


def _tracker(asked: Asked) -> None:
    tracking = asked.config.tracking
    comet_account(tracking)
    if isinstance(tracking, TransformersTracking):
        require_trackers(tracking.report_to)


def _stack(asked: Asked) -> None:
    if asked.target is not None:
        require_gpus(asked.target.name, asked.target.config, asked.config)


def _recipes(asked: Asked) -> None:
    if asked.job == "comparison":
        comparison_recipes(asked.config)
    else:
        sweep_recipes(asked.config)


def _shares(asked: Asked) -> None:
    for run in asked.runs:
        for stage, settings in run.stages:
            require_shares(stage, settings, run.config.hardware)


def _backend(asked: Asked) -> None:
    for run in asked.runs:
        require_backend(run.config.model, run.config.adapter)


def _machine(asked: Asked) -> None:
    for run in asked.runs:
        require_hardware(run.config.model, run.config.adapter)
        require_devices(run.config.hardware)
        for stage, settings in run.stages:
            require_liger(stage, settings.liger_kernel)


def _length(asked: Asked) -> None:
    assert asked.base is not None
    for run in asked.runs:
        require_length(run.config.data, max_positions(asked.base.path))


def _targets(asked: Asked) -> Iterator[str]:
    """Refuse an adapter on layers that there are not; runs of a sweep that have one fail alone, which is said."""
    assert asked.base is not None
    runs = asked.runs
    named = [run for run in runs if getattr(run.config.adapter, "targets", "all-linear") != "all-linear"]
    model = build_without_weights(asked.base.path) if named else None
    failed: list[ConfigError] = []
    for run in named:
        try:
            adapter_config(run.config.adapter, cast("PreTrainedModel", model))
        except ConfigError as error:
            failed.append(error)
    if len(failed) == len(runs):
        raise failed[0]
    yield from dict.fromkeys(f"{error} Runs of the sweep that have it will fail." for error in failed)


def _measured(asked: Asked) -> None:
    """Refuse models whose tokenizers cannot be asked what is measured."""
    assert asked.chat is not None
    if asked.config.evaluation.models:
        models = dict(zip(asked.config.evaluation.models, asked.arguments["models"], strict=True))
        own_tokenizers(models, asked.config.model, asked.chat.tokenizer)


def _instruct(asked: Asked) -> Iterator[str]:
    """Say where SFT starts from an instruct-tuned model that is not this project's."""
    assert asked.chat is not None
    base = asked.config.model.base
    warning = None if base == "embedded" or "@" in base else instruct_warning(base, asked.chat)
    if warning:
        yield warning


def _of_rows(check: RowCheck, asked: Asked) -> Iterable[str]:
    intent = intent_of_job(asked.job, asked.config)
    assert asked.rows is not None
    return check(intent, asked.rows) if intent else ()


CHECKS: tuple[Check, ...] = (
    Check("sources", lambda asked: require_sources(asked.job, asked.config), ("training", "sft", "dpo")),
    Check("recipes", _recipes, ("comparison", "sweep")),
    Check("reach", _reachable, machine="submits"),
    Check("stack", _stack),
    Check("checkers", _checkers),
    Check("losses", _losses, TRAININGS),
    Check("judge", _judge, machine="submits"),
    Check("tasks", _tasks, machine="submits"),
    Check("exports", lambda asked: require_export(asked.config.export), TRAININGS, machine="trains"),
    Check("tracker", _tracker, machine="submits"),
    Check("shares of a batch", _shares, TRAININGS),
    Check("backend", _backend, TRAININGS),
    Check("machine", _machine, TRAININGS, machine="trains"),
    Check("learning rates", lambda asked: asked.config.warnings, ("training", "comparison", "sweep")),
    Check("length", _length, needs="base"),
    Check("targets", _targets, TRAININGS, needs="base"),
    Check("instruct-tuned base", _instruct, ("training", "sft", "comparison", "sweep"), needs="base"),
    Check("measured models", _measured, ("evaluation",), needs="base"),
    *(Check(name, partial(_of_rows, check), TRAININGS, needs="rows") for name, check in OF_ROWS.items()),
)


def go_through(asked: Asked, needs: Literal["configuration", "base", "rows"], *, real: bool = True) -> list[str]:
    """Ask what can be answered now, and return what can run and is seldom meant.

    Args:
        asked: What is known.
        needs: The checks that need just this.
        real: Whether the run is to be made from here; else its machines are not asked.

    Raises:
        UserError: The first thing that cannot work.
    """
    machines = {"any"} | ({"submits"} if real else set()) | ({"trains"} if real and asked.place.here else set())
    return [
        said
        for check in CHECKS
        if asked.job in check.jobs and check.needs == needs and check.machine in machines
        for said in check.ask(asked) or ()
    ]


def intent_of_job(job: Job, config: RunConfig) -> Intent | None:
    """Return what a run is about to do with the rows of its ``data``; None where nothing is trained on them."""
    if job in PATHS_OF_JOBS:
        return intent_of(PATHS_OF_JOBS[job], config)
    if job == "evaluation":
        return None
    recipes = comparison_recipes(config)[0] if job == "comparison" else sweep_recipes(config)
    sharing = [recipe for recipe in recipes if recipe.config.data == config.data]
    return intent_of_recipes(sharing) if sharing else None
