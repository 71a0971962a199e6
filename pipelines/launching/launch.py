"""Start one pipeline, and collect what came out of it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from zenml import Model
from zenml.client import Client
from zenml.enums import ExecutionMode
from zenml.exceptions import RunInterruptedException
from zenml.models import PipelineRunResponse
from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import TransformersTracking
from llm_engineering.config.yaml.loader import dump_config
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.data.tokens import require_length
from llm_engineering.errors import ConfigError, PipelineError, StoreError
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.adapters import require_backend, require_hardware
from llm_engineering.models.chat import ChatTokenizer, instruct_warning, load_chat_tokenizer
from llm_engineering.models.checkpoints import (
    describe_hub_model,
    is_hub_id,
    known_weights,
    locate_base,
    max_positions,
)
from llm_engineering.models.export import require_export
from llm_engineering.models.hardware import require_devices, require_liger
from llm_engineering.planning.recipes import comparison_recipes, sweep_recipes
from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.wording import higher_is_better
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport
from llm_engineering.reports.folders import Checkpoint, FromHub, MeasuredModels
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import TrackerLink
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.harness import require_tasks
from llm_engineering.tracking.other_trackers import require_trackers
from llm_engineering.training.arguments import require_shares
from llm_engineering.training.watch import judged_anew
from pipelines import training as pipelines
from pipelines.comparison import comparison
from pipelines.launching.elsewhere import require_reachable
from pipelines.launching.follow import failure_of, follow, submitting
from pipelines.launching.packing import Packer
from pipelines.stacks.target import Target
from pipelines.store import alive
from pipelines.sweep import sweep, sweep_metric
from steps.runtime.artifact_sources import find_artifacts
from steps.runtime.caching import packages
from steps.runtime.facts import origin, place_of, run_facts
from steps.runtime.fetching import described
from steps.runtime.places import HERE, Place, place_of_steps
from steps.runtime.provenance import code_facts, recorded
from steps.runtime.registry import has_folder, model_version, promoted_model
from steps.runtime.secrets import judge_key
from steps.runtime.tracking import comet_account
from steps.runtime.work import release_work_folders

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
    _require_data(job, config)
    _require_services(job, config, place)
    base = _resolve(config.model, "model.base", place)
    require_length(config.data, max_positions(base.path))
    chat = load_chat_tokenizer(base, config.model)
    if job != "evaluation":
        for run in [recipe.config for recipe in sweep_recipes(config)] if job == "sweep" else [config]:
            _require_shares(job, run)
            _require_trainable(run, place)
    arguments: dict[str, Any] = {"origins": _origins(config)}
    version = None
    models = [base]
    if job == "evaluation" and config.evaluation.models:
        measured = _measured_models(config, place)
        models += measured.checkpoints.values()
        own_tokenizers(measured.checkpoints, config.model, chat.tokenizer)  # refuses here what it would refuse later
        arguments["measured"] = measured
    elif job == "evaluation":
        version, arguments["models"] = _trained_models(config.name)
        _require_same_base(arguments["models"], base, version)
    warnings, known = warnings_of(job, config, chat), _known_weights(models)
    return Launch(job, config, base, chat.template, arguments, version, warnings, target, place, known)


def _known_weights(models: list[Checkpoint]) -> dict[str, str]:
    of_hub = {model.fetch.revision: known_weights(model) for model in models if isinstance(model.fetch, FromHub)}
    return {commit: weights for commit, weights in of_hub.items() if weights is not None}


def _require_trainable(config: RunConfig, place: Place) -> None:
    """Refuse what cannot be trained: at all, or by this machine if that is to do it."""
    require_backend(config.model, config.adapter)
    if not place.here:
        return
    require_hardware(config.model, config.adapter)
    require_devices(config.hardware)
    for stage in (config.sft, config.dpo):
        require_liger(stage.liger_kernel)


def _require_shares(job: Job, config: RunConfig) -> None:
    """Refuse batches that the processes cannot share, on whatever machine they are."""
    if job != "dpo":
        require_shares("sft", config.sft, config.hardware)
    if job != "sft":
        require_shares("dpo", config.dpo, config.hardware)


def _require_services(job: Job, config: RunConfig, place: Place) -> None:
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


def _measured_models(config: RunConfig, place: Place) -> MeasuredModels:
    """Return the models of ``evaluation.models``: folders, hub ids or versions."""
    checkpoints = {
        name: _resolve(ModelConfig(base=where), f"evaluation.models.{name}", place)
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
    if not base.weights_sha256:  # of the hub: only the step will read the weights
        return
    if first.base_sha256 != base.weights_sha256:
        raise StoreError(
            f"The models of version {version} were trained from {first.base!r} (weights {first.base_sha256[:12]}), but "
            f"model.base is {base.base!r} (weights {base.weights_sha256[:12]}). Set model.base to theirs."
        )


def start(launch: Launch, *, cache: bool, started: Callable[[str], None]) -> PipelineRunResponse:
    """Run the pipeline to its end: in this process, or wherever the active stack executes it.

    Args:
        launch: From :func:`prepare`.
        cache: Whether results of earlier runs may be taken.
        started: Called with the run's name before the first step.

    Raises:
        KeyboardInterrupt: Somebody stopped it.
        PipelineError: A step failed elsewhere, or nobody watches the run any more, which goes on.
    """
    run_name = f"{launch.config.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    ready = packed(launch, uploads=True)
    started(run_name)
    pipeline = configured(ready, run_name=run_name, enable_cache=cache)
    if launch.place.orchestrated_here:
        return _run_here(ready, pipeline, run_name)
    with recorded(run_name, code_facts()), submitting(run_name):
        run = pipeline(ready.config, ready.base, **ready.arguments)
    return follow(run.id)


def packed(launch: Launch, *, uploads: bool) -> Launch:
    """Return a launch as its steps are given it: what they cannot find on their machines travels as an artifact.

    Args:
        launch: From :func:`prepare`.
        uploads: Store what is not stored yet.
    """
    packer = Packer(launch.place, uploads)
    return replace(
        launch,
        config=packer.settings(launch.config),
        base=packer.model(launch.base),
        arguments=packer.arguments(launch.config, launch.arguments),
    )


def _run_here(launch: Launch, pipeline: Any, run_name: str) -> PipelineRunResponse:
    """Run the pipeline in this process; step operators may execute its steps elsewhere."""
    keep, code = True, code_facts()
    try:
        with alive(run_name), recorded(run_name, code), _errors_of_steps(launch.place, run_name):
            run: PipelineRunResponse = pipeline(launch.config, launch.base, **launch.arguments)
        keep = False
        return run
    except RunInterruptedException as error:  # what ZenML makes of a signal that arrives while it starts a step
        raise KeyboardInterrupt from error
    finally:
        release_work_folders(keep=keep)


@contextmanager
def _errors_of_steps(place: Place, run_name: str) -> Iterator[None]:
    """Replace what ZenML says of a step that failed elsewhere by what the step said."""
    try:
        yield
    except Exception as error:  # step operators raise what they like
        found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
        if place.here or isinstance(error, PipelineError) or not found:
            raise
        raise failure_of(found[0]) from error


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
            **{name: getattr(config, name).model_dump(mode="json") for name in ("tracking", "watch", "hardware")},
            "sources": config.data.source_names,
            "origin": origin(config.seed),
            "judge": config.evaluation.judge.model_dump(mode="json") if config.evaluation.judge else None,
            "configuration": config.model_dump(mode="json"),
            "known_weights": launch.known_weights,
            "packages": packages(),
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
        str(found.run_metadata["weights_sha256"]): place_of(found)
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
