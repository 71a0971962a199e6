"""What the two training steps have in common."""

from pathlib import Path

from llm_engineering.config.training import TrainingSettings
from llm_engineering.models.backends import pick_backend
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.training.inputs import StageInputs
from steps.runtime.context import experiment_name, hardware, sources, tracking, watch
from steps.runtime.fetching import at_hand
from steps.runtime.tracking import archive_folder, stage_origin


def stage_inputs(
    base: Checkpoint, rows: RowSet, questions: RowSet, settings: TrainingSettings, work_dir: Path
) -> StageInputs:
    """Return the inputs of a training stage, with the run's name, sources, tracker, watch and hardware."""
    pick_backend(settings.model.backend).start()  # in a process of the step's own nobody has
    return StageInputs(
        base=at_hand(base),
        rows=rows,
        questions=questions,
        model=settings.model,
        adapter=settings.adapter,
        evaluation=settings.evaluation,
        tracking=tracking(),
        seed=settings.seed,
        run=experiment_name(),
        work_dir=work_dir,
        archive_dir=archive_folder(),
        sources=sources(),
        watch=watch(),
        origin=stage_origin(),
        hardware=hardware(),
    )
