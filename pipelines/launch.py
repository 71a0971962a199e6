"""Start one pipeline, and collect what came out of it."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from zenml import Model
from zenml.client import Client
from zenml.enums import ExecutionMode
from zenml.exceptions import RunInterruptedException
from zenml.models import PipelineRunResponse
from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.artifacts import (
    Checkpoint,
    ComparisonReport,
    EvaluationReport,
    MeasuredModels,
    PromotionDecision,
    TrackerLink,
)
from llm_engineering.config.loader import dump_config
from llm_engineering.config.schema import ModelConfig, RunConfig, TransformersTracking
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.data.tokens import require_length
from llm_engineering.errors import ConfigError, StoreError
from llm_engineering.evaluation.checkers import load_checker
from llm_engineering.evaluation.harness import require_tasks
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.adapters import require_hardware
from llm_engineering.models.chat import ChatTokenizer, instruct_warning, load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base, max_positions
from llm_engineering.models.export import require_export
from llm_engineering.models.hardware import require_liger
from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.wording import higher_is_better
from llm_engineering.tracking.other_trackers import require_trackers
from llm_engineering.training.recipes import comparison_recipes, sweep_recipes
from llm_engineering.training.watch import judged_anew
from pipelines import training as pipelines
from pipelines.comparison import comparison
from pipelines.stacks.target import Target
from pipelines.store import alive
from pipelines.sweep import sweep, sweep_metric
from steps.artifact_sources import find_artifacts
from steps.caching import packages
from steps.facts import origin, run_facts
from steps.materializers import FILES
from steps.provenance import code_facts, recorded
from steps.registry import model_version, promoted_model
from steps.secrets import judge_key
from steps.tracking import comet_account
from steps.work import release_work_folders

Job = Literal["training", "sft", "dpo", "evaluation", "comparison", "sweep"]
PIPELINES: dict[Job, Any] = {
    "training": pipelines.training,
    "sft": pipelines.sft,
    "dpo": pipelines.dpo,
    "evaluation": pipelines.evaluation,
    "comparison": comparison,
    "sweep": sweep,
}


@dataclass(frozen=True)
class Launch:
    """A run that is ready to start: everything that can be checked before it has been checked."""

    job: Job
    config: RunConfig
    base: Checkpoint
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


def prepare(job: Job, config: RunConfig, target: Target | None = None) -> Launch:
    """Resolve model, data and versions, and refuse what cannot run.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    _require_data(job, config)
    _require_services(job, config)
    base = _resolve_base(config)
    require_length(config.data, max_positions(base.path))
    chat = load_chat_tokenizer(base, config.model)
    if job != "evaluation":
        for run in [recipe.config for recipe in sweep_recipes(config)] if job == "sweep" else [config]:
            _require_machine(run)
    arguments: dict[str, Any] = {"origins": _origins(config)}
    version = None
    if job == "evaluation" and config.evaluation.models:
        measured = _measured_models(config)
        own_tokenizers(measured.checkpoints, config.model, chat.tokenizer)  # refuses here what it would refuse later
        arguments["measured"] = measured
    elif job == "evaluation":
        version, arguments["models"] = _trained_models(config.name)
        _require_same_base(arguments["models"], base, version)
    return Launch(job, config, base, chat.template, arguments, version, warnings_of(job, config, chat), target)


def _require_machine(config: RunConfig) -> None:
    """Refuse what this machine cannot train."""
    require_hardware(config.model, config.adapter)
    for stage in (config.sft, config.dpo):
        require_liger(stage.liger_kernel)


def _require_services(job: Job, config: RunConfig) -> None:
    """Refuse checkers, judges, tasks, exports and trackers that cannot be had, before anything is loaded."""
    for name in (config.evaluation.checker, config.data.sampling.checker if config.data.sampling else None):
        if name is not None:
            load_checker(name)
    if config.evaluation.judge:
        judge_key(config.evaluation.judge)
    if config.evaluation.harness:
        require_tasks(config.evaluation.harness)
    if job != "evaluation":
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


def _require_data(job: Job, config: RunConfig) -> None:
    if job == "comparison":
        comparison_recipes(config)
    if job == "sweep":
        sweep_recipes(config)
        _require_direction(sweep_metric(config))
    wanted = {"training": ("sft", "preference"), "sft": ("sft",), "dpo": ("preference",)}
    for kind in wanted.get(job, ()):
        if not getattr(config.data, kind):
            raise ConfigError(
                f"data.{kind} names no source, which --run-{job} needs. Add one, such as `{kind}: [{{path: FILE}}]`."
            )
    if job == "dpo" and config.data.sampling and not config.data.sft:
        raise ConfigError("data.preference samples answers to the prompts of data.sft, which names no source. Add one.")


def _require_direction(metric: str) -> None:
    if higher_is_better(metric) is None:
        raise ConfigError(
            f"sweep.metric {metric!r} cannot rank runs: there is no such metric, or more of it is neither better nor "
            "worse. Name one such as preferred_rate, answer_accuracy or ranking_accuracy."
        )


def _origins(config: RunConfig) -> Origins:
    """Return what the rows would be read from now; hashes of local files are kept in ZenML's folder."""
    memo = Path(get_global_config_directory()) / "llm-engineering-file-hashes.json"
    return Origins(files=file_hashes(config.data, memo), artifacts=find_artifacts(config.data))


def _resolve_base(config: RunConfig) -> Checkpoint:
    """Return the base."""
    return find_version_model(config) or locate_base(config.model)


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
    if checkpoint is None or not checkpoint.path.is_dir():
        raise StoreError(f"Version {found.name} of the model {name!r} has no model folder. Name another version.")
    return checkpoint.model_copy(update={"base": where})


def _measured_models(config: RunConfig) -> MeasuredModels:
    """Return the models of ``evaluation.models``: folders, hub ids or versions."""
    checkpoints = {
        name: _version_model(where) or locate_base(ModelConfig(base=where), f"evaluation.models.{name}")
        for name, where in config.evaluation.models.items()
    }
    return MeasuredModels(checkpoints=checkpoints, parents=config.evaluation.parent_names())


def _trained_models(name: str) -> tuple[str, dict[str, Checkpoint]]:
    """Return the newest version of a model whose run made something, and its models."""
    model_version(name, "latest")
    for version in Client().list_model_versions(model=name, size=50, sort_by="desc:number").items:
        found = {key: version.get_artifact(key) for key in ("sft_model", "dpo_model")}
        models = {key: artifact.load() for key, artifact in found.items() if artifact is not None}
        if models:
            return str(version.name), models
    raise StoreError(f"No run of {name!r} has made a model yet. Run --run-training first.")


def _require_same_base(models: dict[str, Checkpoint], base: Checkpoint, version: str) -> None:
    """Refuse to measure models against another base than the one they were trained from."""
    first = models.get("sft_model") or models["dpo_model"]
    if first.base_sha256 != base.weights_sha256:
        raise StoreError(
            f"The models of version {version} were trained from {first.base!r} (weights {first.base_sha256[:12]}), but "
            f"model.base is {base.base!r} (weights {base.weights_sha256[:12]}). Set model.base to theirs."
        )


def start(launch: Launch, *, cache: bool, started: Callable[[str], None]) -> PipelineRunResponse:
    """Run the pipeline to its end in this process.

    Args:
        launch: From :func:`prepare`.
        cache: Whether results of earlier runs may be taken.
        started: Called with the run's name before the first step.

    Raises:
        KeyboardInterrupt: Somebody stopped it.
    """
    run_name = f"{launch.config.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    started(run_name)
    release, code = True, code_facts()
    try:
        with alive(run_name), recorded(run_name, code):
            run: PipelineRunResponse = configured(launch, run_name=run_name, enable_cache=cache)(
                launch.config, launch.base, **launch.arguments
            )
        release = False
        return run
    except RunInterruptedException as error:  # what ZenML makes of a signal that arrives while it starts a step
        raise KeyboardInterrupt from error
    finally:
        release_work_folders(keep=release)


def tags_of(launch: Launch) -> list[str]:
    """Return what runs are found by in the dashboard: the job, the recipe, the base and the data."""
    config = launch.config
    sources = [f"data:{Path(name).name}" for name in config.data.source_names]
    return [launch.job, f"recipe:{config.name}", f"base:{Path(config.model.base).name}", *dict.fromkeys(sources)]


def number_of_steps(run_name: str) -> int | None:
    """Return how many steps a run has that has begun; None where it decides that while it runs."""
    found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
    snapshot = found[0].snapshot if found else None
    if snapshot is None or snapshot.is_dynamic:
        return None
    return len(snapshot.step_configurations)


def configured(launch: Launch, pipeline: Any = None, **options: Any) -> Any:
    """Return the launch's pipeline, or another in its place, with its model, tags and settings."""
    config = launch.config
    several = launch.job in ("comparison", "sweep")  # models of their own: the newest version of `name` is a training's
    name = f"{config.name}-{launch.job}" if several else config.name
    return (pipeline or PIPELINES[launch.job]).with_options(
        model=None if "measured" in launch.arguments else Model(name=name, version=launch.model_version),
        tags=tags_of(launch),
        execution_mode=_execution_mode(several=several),
        extra={
            **{name: getattr(config, name).model_dump(mode="json") for name in ("tracking", "watch")},
            "sources": config.data.source_names,
            "origin": origin(config.seed),
            "judge": config.evaluation.judge.model_dump(mode="json") if config.evaluation.judge else None,
            "configuration": config.model_dump(mode="json"),
        },
        **(launch.target.options if launch.target else {}),
        **options,
    )


def _execution_mode(*, several: bool) -> ExecutionMode:
    """Return what becomes of the other steps when one fails; most remote orchestrators refuse to stop them."""
    fast = ExecutionMode.FAIL_FAST in Client().active_stack.orchestrator.supported_execution_modes
    return ExecutionMode.FAIL_FAST if fast and not several else ExecutionMode.CONTINUE_ON_FAILURE


def compared(run: PipelineRunResponse) -> tuple[ComparisonReport, RunFacts]:
    """Return the report of a comparison or a sweep, and its facts: its artifacts are the page and every model."""
    outputs = [(name, versions[0]) for step in run.steps.values() for name, versions in step.outputs.items()]
    report: ComparisonReport = next(found for name, found in outputs if name == "comparison_report").load()
    facts = run_facts(run)
    models = {
        str(found.run_metadata["weights_sha256"]): str(Path(found.uri) / FILES)
        for name, found in outputs
        if name in ("sft_model", "dpo_model")
    }
    made = {one.name: models[one.model_sha256] for one in report.variants if one.model_sha256 in models}
    return report, facts.model_copy(update={"artifacts": {"report": facts.artifacts["comparison_page"], **made}})


def collect(config: RunConfig, run: PipelineRunResponse, error: str | None = None) -> RunReports:
    """Return the reports of a run, as far as it came."""
    artifacts = [
        (name, versions[0])
        for step in run.steps.values()
        for name, versions in step.outputs.items()
        if versions and name.endswith(("_report", "decision"))
    ]
    artifacts.sort(key=lambda pair: pair[1].created)  # the evaluation report is made anew once a judge has judged
    loaded: dict[str, Any] = {name: artifact.load() for name, artifact in dict(artifacts).items()}
    decision: PromotionDecision | None = loaded.get("promotion_decision")
    merges = {stage: loaded.get(f"{stage}_merge_report") for stage in ("sft", "dpo")}
    evaluation: EvaluationReport | None = loaded.get("evaluation_report")
    return RunReports(
        run=run_facts(run, error, decision.stage if decision and decision.promoted else None),
        dataset=loaded.get("dataset_report"),
        preferences=loaded.get("preference_report"),
        sft=judged_anew(loaded.get("sft_report"), config.watch, evaluation),
        dpo=judged_anew(loaded.get("dpo_report"), config.watch, evaluation),
        merges={stage: report for stage, report in merges.items() if report is not None},
        evaluation=evaluation,
        decision=decision,
        exports=loaded.get("export_report"),
        config_yaml=dump_config(config),
        published=_published(run),
        packages=packages(),
    )


def _published(run: PipelineRunResponse) -> TrackerLink | None:
    """Return where the report was logged, from its step's metadata: nothing comes after the report."""
    step = run.steps.get("report")
    facts = step.run_metadata if step else {}
    url, archive = facts.get("comet"), facts.get("comet_offline_archive")
    if not url and not archive:
        return None
    key = facts.get("comet_experiment")
    return TrackerLink(
        stage="report",
        url=str(url) if url else None,
        offline_archive=str(archive) if archive else None,
        key=str(key) if key else None,
    )
