"""Model versions: found, held against the holder of a stage, and what is said of them there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from zenml import log_metadata
from zenml.client import Client
from zenml.models import ModelVersionResponse, StepRunResponse

from llm_engineering.config.measuring import Measuring
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.errors import StoreError
from llm_engineering.evaluation.evaluator import Evaluator
from llm_engineering.evaluation.incumbents import measure_incumbent, saved_tokenizer
from llm_engineering.evaluation.measuring import evaluator_for
from llm_engineering.evaluation.promotion import Candidate, decide, forced, settled
from llm_engineering.reports.evaluation import EvaluationReport, ModelScores
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.promotion import Force, PromotionDecision
from steps.runtime.context import as_metadata
from steps.runtime.fetching import at_hand, described

T = TypeVar("T")
Trained = Literal["dpo", "sft"]


@dataclass(frozen=True)
class Incumbent:
    """The version that holds a stage, with the model that was promoted in it."""

    version: str
    checkpoint: Checkpoint
    fingerprint: str
    """Of the evaluation that it was promoted by."""
    scores: ModelScores


def model_version(name: str, version: str) -> ModelVersionResponse:
    """Return a version of a model by its number, name or stage; ``latest`` is the newest.

    Raises:
        StoreError: There is no such model or version; it lists those that there are.
    """
    try:
        if not (name and version):  # ZenML takes the beginning of an id for a name, and so an empty one for any
            raise KeyError(name)
        return Client().get_model_version(name, int(version) if version.isdigit() else version)
    except KeyError as error:
        names = [str(model.name) for model in Client().list_models(size=50).items]
        if name not in names:
            there = f"There are: {', '.join(names)}." if names else "No run has made one yet."
            raise StoreError(f"There is no model {name!r}. {there}") from error
        versions = Client().list_model_versions(model=name, size=20, sort_by="desc:number").items
        listed = ", ".join(f"{v.name} ({v.stage})" if v.stage else f"{v.name}" for v in versions)
        raise StoreError(f"The model {name!r} has no version or stage {version!r}. There are: {listed}.") from error


def find_incumbent(name: str, stage: str, own_version: str) -> tuple[Incumbent | None, str]:
    """Return whom a new model is compared with, and a sentence where that is not simply the holder of the stage.

    A holder whose decision or model is gone (a run that died while it promoted, a folder that was removed) is no
    measure; then the newest earlier version that was promoted is.
    """
    try:
        holder = Client().get_model_version(name, stage)
    except KeyError:
        return None, ""
    if holder.name == own_version:
        return None, ""
    found = _incumbent(holder, stands_for)
    if found is not None:
        return found, ""
    gone = f"version {holder.name}, which holds the stage, has no decision or no model folder any more"
    for version in Client().list_model_versions(model=name, size=50, sort_by="desc:number", hydrate=True).items:
        earlier = _incumbent(version, _promoted) if version.name not in (own_version, holder.name) else None
        if earlier is not None:
            return earlier, f"{gone}, version {earlier.version} stands in for it"
    return None, gone


def _incumbent(
    version: ModelVersionResponse, which: Callable[[ModelVersionResponse], Trained | None]
) -> Incumbent | None:
    """Return a version as an incumbent, if all that it rests on is still there."""
    report, model = _artifact(version, "evaluation_report", EvaluationReport), which(version)
    if report is None or model is None or model not in report.models:
        return None
    checkpoint = _artifact(version, f"{model}_model", Checkpoint)
    if checkpoint is None:
        return None
    return Incumbent(str(version.name), checkpoint, report.fingerprint, report.models[model])


def _promoted(version: ModelVersionResponse) -> Trained | None:
    """Return the model of a version that its own run promoted."""
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    return decision.promoted if decision else None


def stands_for(version: ModelVersionResponse) -> Trained | None:
    """Return which model a version that was decided on stands for: the one that its run chose, else the last made.

    None where its run has not decided, or made no model.
    """
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    if decision is None:
        return None
    return decision.promoted or decision.chosen or last_made(version)


def last_made(version: ModelVersionResponse) -> Trained | None:
    """Return which model a version's run made last; None where it made none."""
    made: tuple[Trained, ...] = ("dpo", "sft")
    return next((name for name in made if version.get_artifact(f"{name}_model")), None)


def evaluation_of(version: ModelVersionResponse) -> tuple[EvaluationReport, StepRunResponse]:
    """Return the newest evaluation of a version, and the step run that measured it.

    Raises:
        StoreError: There is none, or its files are gone.
    """
    artifact = version.get_artifact("evaluation_report")
    report = _artifact(version, "evaluation_report", EvaluationReport)
    if artifact is None or report is None:
        raise StoreError(
            f"Version {version.name} of {version.model.name!r} has no stored evaluation. Run --run-evaluation for it, "
            "or name another version."
        )
    return report, measured_by(artifact.step)


def measured_by(step: StepRunResponse) -> StepRunResponse:
    """Return the step that measured what a step reports, which may have laid in what a judge or the harness says."""
    while "held_out" not in step.inputs:
        step = step.inputs["evaluation_report"][0].step
    return step


def record_decision(model: str, version: str, decision: PromotionDecision) -> None:
    """Attach a decision on a stage to a version, as what the dashboard shows of it; a later one replaces it."""
    facts = as_metadata(decision.model_dump(mode="json", exclude_none=True))
    log_metadata(metadata={f"stage_{decision.stage}": facts}, model_name=model, model_version=version)


def promoted_model(version: ModelVersionResponse) -> Checkpoint | None:
    """Return the model that a version stands for: the promoted one, else the last that its run made."""
    name = stands_for(version) or last_made(version)
    return _artifact(version, f"{name}_model", Checkpoint) if name else None


def has_folder(model: Checkpoint) -> bool:
    """Return whether a stored model's files are still there, or can be fetched."""
    return model.fetch is not None or model.path.is_dir()


def was_promoted(version: ModelVersionResponse) -> bool:
    """Return whether the version's run promoted one of its models."""
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    return decision is not None and decision.promoted is not None


def version_model(version: ModelVersionResponse, name: str) -> Checkpoint | None:
    """Return one of the models that a version's run made: ``sft``, ``dpo`` ..."""
    return _artifact(version, f"{name}_model", Checkpoint)


def model_names(version: ModelVersionResponse) -> list[str]:
    """Return the names of the models that a version's run made."""
    links = Client().list_model_version_artifact_links(model_version_id=version.id, size=200, hydrate=True).items
    names = {link.artifact_version.artifact.name for link in links}
    return sorted(name.removesuffix("_model") for name in names if name.endswith("_model"))


def _artifact(version: ModelVersionResponse, name: str, kind: type[T]) -> T | None:
    """Return an artifact of a version; None where there is none, or its files are gone."""
    artifact = version.get_artifact(name)
    try:
        loaded = artifact.load() if artifact else None
    except (StoreError, FileNotFoundError):
        return None
    return loaded if isinstance(loaded, kind) else None


def decide_on(
    report: EvaluationReport,
    evaluator: Callable[[], Evaluator],
    rules: PromotionConfig,
    model: str,
    version: str,
    candidates: Sequence[Candidate] = ("dpo", "sft"),
) -> tuple[PromotionDecision, EvaluationReport]:
    """Return the decision on a version, and its report with the incumbent in it.

    Args:
        report: Of the version's models.
        evaluator: Gives what they were measured with: an incumbent that was measured on other questions, rows or
            settings is measured anew.
        rules: Stage, tolerances, and what is done where the evidence is thin.
        model: The name of the model in the registry.
        version: Its version that is decided on.
        candidates: Which of its models may be promoted, the best first.
    """
    incumbent, note = find_incumbent(model, rules.stage, version)
    notes = [note]
    if incumbent is not None:
        scores = incumbent.scores
        if incumbent.fingerprint != report.fingerprint:
            scores, remark = measure_incumbent(evaluator(), at_hand(incumbent.checkpoint))
            notes.append(remark)
        report = report.model_copy(update={"models": {**report.models, "incumbent": scores}})
    decision = decide(report, rules, incumbent.version if incumbent else None, candidates)
    return settled(decision, model, version, notes, approval=rules.approval), report


def gate(
    version: ModelVersionResponse, stage: str, rules: PromotionConfig, force: Force | None = None
) -> PromotionDecision:
    """Return whether a version gets a stage. Archiving asks nothing; who forces it gets the stage whatever is said.

    Raises:
        StoreError: The version has no model; or no evaluation, and nobody forces it.
    """
    if stage == "archived":
        return PromotionDecision(promoted=None, stage=stage, reason="Archiving asks nothing.", version=version.name)
    if force is None:
        return decide_on_stored(version, rules)
    model = stands_for(version) or last_made(version)
    if model is None:
        raise StoreError(f"Version {version.name} of {version.model.name!r} has no model. Name another version.")
    try:
        decision = decide_on_stored(version, rules)
    except StoreError as error:
        decision = PromotionDecision(promoted=None, stage=stage, reason=str(error), version=version.name)
    return forced(decision, model, force)


def decide_on_stored(version: ModelVersionResponse, rules: PromotionConfig) -> PromotionDecision:
    """Return the decision on a version of an earlier run, by its newest stored evaluation.

    Raises:
        StoreError: The version has no model or no evaluation any more.
    """
    model, checkpoint = stands_for(version), promoted_model(version)
    report, step = evaluation_of(version)
    if model is None or checkpoint is None or model not in report.models:
        raise StoreError(
            f"Version {version.name} of {version.model.name!r} has no model that was measured and decided on. Name "
            "another version."
        )
    decision, _ = decide_on(
        report,
        lambda: _evaluator(step, checkpoint),
        rules.model_copy(update={"approval": False}),  # the pipeline asks, once the gate has spoken
        version.model.name,
        str(version.name),
        (model,),
    )
    return decision


def _evaluator(step: StepRunResponse, model: Checkpoint) -> Evaluator:
    """Return what a stored evaluation was made with; the tokenizer is the one that the model was saved with."""
    rows = [artifact.load() for artifact in step.inputs["held_out"]]
    measuring = Measuring.model_validate(step.config.parameters["measuring"])
    return evaluator_for(measuring, rows, saved_tokenizer(described(model)))
