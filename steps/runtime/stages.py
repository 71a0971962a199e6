"""What the two training steps have in common."""

from pathlib import Path

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import AdapterConfig, ModelConfig
from llm_engineering.models.backends import pick_backend
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.training.stage import StageInputs
from steps.runtime.context import experiment_name, hardware, sources, tracking, watch
from steps.runtime.fetching import at_hand
from steps.runtime.tracking import archive_folder, stage_origin


def stage_inputs(
    base: Checkpoint,
    rows: RowSet,
    questions: RowSet,
    model: ModelConfig,
    adapter: AdapterConfig,
    evaluation: EvaluationConfig,
    seed: int,
    work_dir: Path,
) -> StageInputs:
    """Return the inputs of a training stage, with the run's name, sources, tracker, watch and hardware."""
    pick_backend(model.backend).start()  # in a process of the step's own nobody has
    return StageInputs(
        base=at_hand(base),
        rows=rows,
        questions=questions,
        model=model,
        adapter=adapter,
        evaluation=evaluation,
        tracking=tracking(),
        seed=seed,
        run=experiment_name(),
        work_dir=work_dir,
        archive_dir=archive_folder(),
        sources=sources(),
        watch=watch(),
        origin=stage_origin(),
        hardware=hardware(),
    )
