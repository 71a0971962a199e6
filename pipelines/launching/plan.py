"""What a run would do: which steps are cached, which will run, and on how much."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zenml import pipeline
from zenml.client import Client
from zenml.config.step_configurations import Step
from zenml.enums import StepRunInputArtifactType
from zenml.models import ArtifactVersionResponse
from zenml.models.v2.core.step_run import StepRunInputResponse
from zenml.orchestrators.cache_utils import generate_cache_key, get_cached_step_run

from llm_engineering.config.run import RunConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.data.loading import Origins, load_raw_rows
from llm_engineering.data.preparation import prepare_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.planning.estimate import Estimate
from llm_engineering.planning.intent import CountedRows
from llm_engineering.planning.recipes import PATHS_OF_JOBS, Training, imitation_settings
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.folders import Checkpoint, RowKind, RowSet
from llm_engineering.training.arguments import planned_steps
from pipelines.comparison import wire_comparison
from pipelines.launching.preflight import Asked, Job, go_through
from pipelines.launching.prepare import Launch
from pipelines.launching.rehearsal import estimates
from pipelines.launching.start import PIPELINES, configured, packed
from pipelines.pieces import Pieces
from pipelines.sweep import job_of, wire_sweep
from pipelines.variants import Bench, Made
from steps.preflight import OUTPUT
from steps.runtime.stores import load_artifacts
from steps.runtime.work import plan_folder


@dataclass(frozen=True)
class PlannedStep:
    """One step of the DAG."""

    name: str
    upstream: list[str]
    cached: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    steps: list[PlannedStep]
    data: DatasetReport
    stages: dict[str, str]
    """What each training stage would do, in words."""
    estimates: list[Estimate]
    """What the run would need: on this machine and, where it would take long here, on a GPU."""
    warnings: list[str]
    """What can run on these rows and is seldom meant."""


def make_plan(launch: Launch, *, cache: bool) -> Plan:
    """Resolve everything, prepare the data in a temporary folder unless an earlier run has, and train nothing."""
    config = launch.config
    made: list[Made] = []
    ready = packed(launch, uploads=False)
    pipeline = configured(ready, _twin(launch, made), enable_cache=cache)
    steps, outputs = _planned_steps(pipeline, ready, cache=cache)
    with _prepared(launch, outputs.get("format_datasets")) as (report, rows):
        warnings = go_through(Asked(launch.job, config, launch.place, rows=rows), "rows")
    stages: dict[str, str] = {stage: _stage(config, stage, rows) for stage in PATHS_OF_JOBS.get(launch.job, ())}
    for one in made:
        names = [training.invocation_id for training in one.trainings]
        for name, training in zip(names, one.recipe.path, strict=True):
            stages.setdefault(name, _stage(one.recipe.config, training, rows))
    on_gpu = launch.target is not None and launch.target.config.gpu.gpus > 0
    needed = estimates(config, launch.base.path, report, _estimated(launch), elsewhere=on_gpu) if stages else []
    return Plan(steps, report, stages, needed, warnings)


def _twin(launch: Launch, made: list[Made]) -> Any:
    """Return the pipeline that is planned: of a dynamic one a static twin, whose cache hits can be told beforehand.

    Args:
        launch: Of any job.
        made: Gets what the twin of a dynamic pipeline would make, once it is compiled.
    """
    if launch.job not in ("comparison", "sweep"):
        return PIPELINES[launch.job]
    wire = wire_comparison if launch.job == "comparison" else wire_sweep

    @pipeline(name=f"{launch.job}_plan")
    def twin(config: RunConfig, base: Checkpoint, origins: Origins) -> None:
        made.extend(wire(config, Bench(base, origins, Pieces()))[0])

    return twin


def _estimated(launch: Launch) -> Job:
    """Return the job whose stages are estimated: of a comparison or a sweep one training of each kind."""
    return job_of(launch.config) if launch.job in ("comparison", "sweep") else launch.job


@contextmanager
def _prepared(launch: Launch, stored: dict[str, Any] | None) -> Iterator[tuple[DatasetReport, CountedRows]]:
    """Give the prepared rows and their report: stored ones, or prepared now, for the time of the block."""
    config = launch.config
    if stored:
        sft, preference = (_counted(stored[name]) for name in ("sft_rows", "preference_rows"))
        yield stored["dataset_report"].load(), CountedRows(sft, preference, stored["questions"].load())
        return
    with plan_folder() as folder:
        artifacts = load_artifacts(launch.arguments["origins"].artifacts)
        raw = load_raw_rows(config.data, config.seed, folder / "raw", artifacts)
        chat = load_chat_tokenizer(launch.base, config.model)
        found = prepare_rows(raw, config.data, chat, config.seed, folder / "rows")
        yield found.report, CountedRows(found.sft, found.preference, found.questions)


def _counted(stored: ArtifactVersionResponse) -> RowSet:
    """Return stored rows by what is known of them; nothing is fetched."""
    facts = stored.run_metadata
    return RowSet.model_validate({"path": stored.uri, "sha256": facts["sha256"], "rows": facts["rows"]})


def _stage(run: RunConfig, training: Training, prepared: CountedRows) -> str:
    """Return in words what one training does."""
    kind: RowKind = "sft" if training == "sft" else "preference"
    rows = prepared.of(kind, "train", None)
    config: StageConfig = {"sft": run.sft, "dpo": run.dpo}.get(training) or imitation_settings(run)
    sampled = kind == "preference" and run.data.sampling is not None
    batch = f"effective batch {config.effective_batch} ({config.batch_size} × {config.accumulation})"
    if sampled and config.max_steps is None:
        return f"pairs are sampled first, so that the number of steps is open; {batch}"
    of = "sampled pairs" if sampled else f"{rows} rows"
    of = f"the chosen answers of {of}" if training in ("chosen", "clean") else of
    return f"{planned_steps(config, rows)} steps on {of}, {batch}, learning rate {config.learning_rate:g}"


def _planned_steps(
    pipeline: Any, launch: Launch, *, cache: bool
) -> tuple[list[PlannedStep], dict[str, dict[str, Any]]]:
    """Return the steps in order, and the outputs of those that are cached.

    A step is cached if all its inputs are and a completed run has its cache key.
    """
    pipeline.prepare(launch.config, launch.base, **launch.arguments)
    snapshot, *_ = pipeline._compile()
    store, project = Client().active_stack.artifact_store, Client().active_project.id
    outputs: dict[str, dict[str, Any]] = {}
    planned = []
    for name, compiled in snapshot.step_configurations.items():
        step = Step.model_validate_json(compiled.model_dump_json())  # as the store keeps it, and cache keys see it
        upstream = list(step.spec.upstream_steps)
        found: Any = None
        if cache and step.config.enable_cache is not False and all(one in outputs for one in upstream):
            inputs = {
                key: [_as_input(outputs[spec.step_name][spec.output_name]) for spec in specs]
                for key, specs in step.spec.normalized_inputs.items()
            }
            found = get_cached_step_run(generate_cache_key(step, inputs, store, project))
        if found:
            outputs[name] = {key: versions[0] for key, versions in found.outputs.items()}
        elif cache and OUTPUT in step.config.outputs and (constant := _newest(OUTPUT)):
            outputs[name] = {OUTPUT: constant}
        planned.append(PlannedStep(name, upstream, found is not None))
    return planned, outputs


def _newest(output: str) -> ArtifactVersionResponse | None:
    """Return an output that is the same in every run, of the last one that had it."""
    found = Client().list_artifact_versions(artifact=output, size=1, sort_by="desc:created").items
    return found[0] if found else None


def _as_input(output: ArtifactVersionResponse) -> StepRunInputResponse:
    """Return a step's output as another step's input, with the content hash that only the full record has."""
    full = Client().get_artifact_version(output.id)
    return StepRunInputResponse(input_type=StepRunInputArtifactType.STEP_OUTPUT, **full.model_dump())
