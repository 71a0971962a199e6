"""A stage's schedule, made to fit the rows that came, where only the largest possible number of them was known."""

from typing import TypeVar

from llm_engineering.config.stage import StageConfig
from llm_engineering.reports.folders import RowSet, StageName
from llm_engineering.training.arguments import planned_steps

AnyStage = TypeVar("AnyStage", bound=StageConfig)


def shortened(stage: StageName, config: AnyStage, rows: RowSet) -> tuple[AnyStage, list[str]]:
    """Return a stage's settings for the rows that came, and a sentence for what was changed.

    A warm-up of so many steps, and the steps between evaluations and between checkpoints, keep their parts of the
    training: they are multiplied by its steps over those that it would have made on the largest possible number of
    rows, and rounded down.

    Args:
        stage: Its name.
        config: Its settings.
        rows: Its rows; ``rows.most`` says how many there could have been.
    """
    there = rows.rows.get("train", 0)
    if there >= rows.most:
        return config, []
    fitted, notes = _in_proportion(stage, config, there, rows.most)
    if fitted.best_metric and not rows.rows.get("eval"):
        notes.append(f"{stage}.best_metric {fitted.best_metric} chooses nothing: no held-out rows came.")
        fitted = fitted.model_copy(update={"best_metric": None, "patience": None})
    return fitted, notes


def _in_proportion(stage: StageName, config: AnyStage, there: int, most: int) -> tuple[AnyStage, list[str]]:
    steps, planned = planned_steps(config, there), planned_steps(config, most)
    changes: dict[str, int] = {"save_steps": max(config.save_steps * steps // planned, 1)}
    if config.warmup >= 1:
        changes["warmup"] = int(config.warmup * steps / planned)
    if config.evaluation_interval:
        changes["evaluation_steps"] = max(config.evaluation_interval * steps // planned, 1)
    before = config.model_dump() | {"evaluation_steps": config.evaluation_interval}
    changes = {name: value for name, value in changes.items() if value != before[name]}
    if not changes:
        return config, []
    told = ", ".join(f"{name} {before[name]:g} → {value}" for name, value in changes.items())
    note = (
        f"{there} of at most {most} rows came for {stage}, which makes {steps} steps of {planned}: shortened in "
        f"proportion are {told}."
    )
    alone = {"evaluation_examples": None} if "evaluation_steps" in changes else {}
    return config.model_copy(update={**changes, **alone}), [note]
