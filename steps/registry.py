"""Model versions: who holds a stage, with which model and which scores."""

from dataclasses import dataclass
from typing import TypeVar

from zenml.client import Client
from zenml.models import ModelVersionResponse

from llm_engineering.artifacts import Checkpoint, EvaluationReport, ModelScores, PromotionDecision

T = TypeVar("T")


@dataclass(frozen=True)
class Incumbent:
    """The version that holds a stage, with the model that was promoted in it."""

    version: str
    checkpoint: Checkpoint
    fingerprint: str
    """Of the evaluation that it was promoted by."""
    scores: ModelScores


def find_incumbent(name: str, stage: str, own_version: str) -> Incumbent | None:
    """Return who holds a stage of a model, if somebody other than ``own_version`` does."""
    try:
        version = Client().get_model_version(name, stage)
    except KeyError:
        return None
    if version.name == own_version:
        return None
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    report = _artifact(version, "evaluation_report", EvaluationReport)
    if decision is None or report is None or decision.promoted is None:
        return None
    checkpoint = _artifact(version, f"{decision.promoted}_model", Checkpoint)
    if checkpoint is None or not checkpoint.path.is_dir():
        return None
    return Incumbent(str(version.name), checkpoint, report.fingerprint, report.models[decision.promoted])


def promoted_model(version: ModelVersionResponse) -> Checkpoint | None:
    """Return the model that a version stands for: the promoted one, else the last that its run made."""
    decision = _artifact(version, "promotion_decision", PromotionDecision)
    promoted = decision.promoted if decision else None
    names = [f"{promoted}_model"] if promoted else ["dpo_model", "sft_model"]
    found = (_artifact(version, name, Checkpoint) for name in names)
    return next((checkpoint for checkpoint in found if checkpoint), None)


def _artifact(version: ModelVersionResponse, name: str, kind: type[T]) -> T | None:
    artifact = version.get_artifact(name)
    loaded = artifact.load() if artifact else None
    return loaded if isinstance(loaded, kind) else None
