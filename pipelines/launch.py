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
from zenml.models import ModelVersionResponse, PipelineRunResponse
from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.artifacts import Checkpoint, EvaluationReport, PromotionDecision
from llm_engineering.config.loader import dump_config
from llm_engineering.config.schema import RunConfig
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.data.tokens import require_length
from llm_engineering.errors import ConfigError, StoreError
from llm_engineering.evaluation.checkers import load_checker
from llm_engineering.models.adapters import require_hardware
from llm_engineering.models.chat import ChatTokenizer, instruct_warning, load_chat_tokenizer
from llm_engineering.models.checkpoints import check_export, locate_base, max_positions
from llm_engineering.models.hardware import require_liger
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.training.watch import judged_anew
from pipelines import training as pipelines
from pipelines.store import alive
from steps.artifact_sources import find_artifacts
from steps.caching import package_versions
from steps.facts import origin, run_facts
from steps.registry import promoted_model
from steps.work import release_work_folders

Job = Literal["training", "sft", "dpo", "evaluation"]
PIPELINES: dict[Job, Any] = {
    "training": pipelines.training,
    "sft": pipelines.sft,
    "dpo": pipelines.dpo,
    "evaluation": pipelines.evaluation,
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


def prepare(job: Job, config: RunConfig) -> Launch:
    """Resolve model, data and versions, and refuse what cannot run.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    _require_data(job, config)
    for name in (config.evaluation.checker, config.data.sampling.checker if config.data.sampling else None):
        if name is not None:
            load_checker(name)
    if config.export.dir:
        check_export(Path(config.export.dir).expanduser().resolve())
    base = _resolve_base(config)
    require_length(config.data, max_positions(base.path))
    chat = load_chat_tokenizer(base, config.model)
    if job != "evaluation":
        require_hardware(config.model, config.adapter)
        for stage in (config.sft, config.dpo):
            require_liger(stage.liger_kernel)
    arguments: dict[str, Any] = {"origins": _origins(config)}
    version = None
    if job == "evaluation":
        version, arguments["models"] = _trained_models(config.name)
        _require_same_base(arguments["models"], base, version)
    return Launch(job, config, base, chat.template, arguments, version, warnings_of(job, config, chat))


def warnings_of(job: Job, config: RunConfig, chat: ChatTokenizer) -> tuple[str, ...]:
    """Return what can run and is seldom meant; of the base, where SFT starts from one that is not this project's."""
    found = config.warnings if job == "training" else []
    is_own = config.model.base == "embedded" or "@" in config.model.base
    of_base = instruct_warning(config.model.base, chat) if job in ("training", "sft") and not is_own else None
    return (*found, of_base) if of_base else tuple(found)


def _require_data(job: Job, config: RunConfig) -> None:
    wanted = {"training": ("sft", "preference"), "sft": ("sft",), "dpo": ("preference",), "evaluation": ()}[job]
    for kind in wanted:
        if not getattr(config.data, kind):
            raise ConfigError(
                f"data.{kind} names no source, which --run-{job} needs. Add one, such as `{kind}: [{{path: FILE}}]`."
            )
    if job == "dpo" and config.data.sampling and not config.data.sft:
        raise ConfigError("data.preference samples answers to the prompts of data.sft, which names no source. Add one.")


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
    name, at, version = config.model.base.partition("@")
    if not at or Path(config.model.base).exists():
        return None
    found = _model_version(name, version)
    checkpoint = promoted_model(found)
    if checkpoint is None or not checkpoint.path.is_dir():
        raise StoreError(f"Version {found.name} of the model {name!r} has no model folder. Name another version.")
    return checkpoint.model_copy(update={"base": config.model.base})


def _model_version(name: str, version: str) -> ModelVersionResponse:
    try:
        return Client().get_model_version(name, int(version) if version.isdigit() else version)
    except KeyError as error:
        names = [str(model.name) for model in Client().list_models(size=50).items]
        if name not in names:
            there = f"There are: {', '.join(names)}." if names else "No run has made one yet."
            raise StoreError(f"There is no model {name!r}. {there}") from error
        versions = Client().list_model_versions(model=name, size=20, sort_by="desc:number").items
        listed = ", ".join(f"{v.name} ({v.stage})" if v.stage else f"{v.name}" for v in versions)
        raise StoreError(f"The model {name!r} has no version or stage {version!r}. There are: {listed}.") from error


def _trained_models(name: str) -> tuple[str, dict[str, Checkpoint]]:
    """Return the newest version of a model whose run made something, and its models."""
    _model_version(name, "latest")
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
    release = True
    try:
        with alive(run_name):
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


def configured(launch: Launch, **options: Any) -> Any:
    """Return the launch's pipeline with its model, tags and settings."""
    config = launch.config
    return PIPELINES[launch.job].with_options(
        model=Model(name=config.name, version=launch.model_version),
        tags=tags_of(launch),
        execution_mode=ExecutionMode.FAIL_FAST,
        extra={
            **{name: getattr(config, name).model_dump(mode="json") for name in ("tracking", "watch")},
            "sources": config.data.source_names,
            "origin": origin(config.seed),
        },
        **options,
    )


def collect(config: RunConfig, run: PipelineRunResponse, error: str | None = None) -> RunReports:
    """Return the reports of a run, as far as it came."""
    artifacts = {
        name: versions[0]
        for step in run.steps.values()
        for name, versions in step.outputs.items()
        if versions and name.endswith(("_report", "decision"))
    }
    loaded: dict[str, Any] = {name: artifact.load() for name, artifact in artifacts.items()}
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
        config_yaml=dump_config(config),
        packages=dict(pair.split("=", 1) for pair in package_versions().split()),
    )
