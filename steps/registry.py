"""Model versions: who holds a stage, with which model and which scores."""

from dataclasses import dataclass
from typing import TypeVar

from zenml.client import Client
from zenml.models import ModelVersionResponse

from llm_engineering.artifacts import Checkpoint, EvaluationReport, ModelScores, PromotionDecision
from llm_engineering.errors import StoreError

T = TypeVar("T")


@dataclass(frozen=True)
class Incumbent:
    """The version that holds a stage, with the model that was promoted in it."""

    version: str
    checkpoint: Checkpoint
    fingerprint: str
    """Of the evaluation that it was promoted by."""
    scores: ModelScores


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
    found = _incumbent(holder)
    if found is not None:
        return found, ""
    gone = f"version {holder.name}, which holds the stage, has no decision or no model folder any more"
    for version in Client().list_model_versions(model=name, size=50, sort_by="desc:number", hydrate=True).items:
        earlier = _incumbent(version) if version.name not in (own_version, holder.name) else None
        if earlier is not None:
            return earlier, f"{gone}, version {earlier.version} stands in for it"
    return None, gone


def _incumbent(version: ModelVersionResponse) -> Incumbent | None:
    """Return a version as an incumbent, if it was promoted and all that it rests on is still there."""
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    report = _artifact(version, "evaluation_report", EvaluationReport)
    if decision is None or report is None or decision.promoted is None:
        return None
    checkpoint = _artifact(version, f"{decision.promoted}_model", Checkpoint)
    if checkpoint is None:
        return None
    return Incumbent(str(version.name), checkpoint, report.fingerprint, report.models[decision.promoted])


def promoted_model(version: ModelVersionResponse) -> Checkpoint | None:
    """Return the model that a version stands for: the promoted one, else the last that its run made."""
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    promoted = decision.promoted if decision else None
    names = [f"{promoted}_model"] if promoted else ["dpo_model", "sft_model"]
    found = (_artifact(version, name, Checkpoint) for name in names)
    return next((checkpoint for checkpoint in found if checkpoint), None)


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
    artifact = version.get_artifact(name)
    try:
        loaded = artifact.load() if artifact else None
    except (StoreError, FileNotFoundError):
        return None
    return loaded if isinstance(loaded, kind) else None
