"""Step: measure base, SFT and DPO model on the same held-out rows and questions."""

from pathlib import Path
from typing import Annotated

from zenml import step

from llm_engineering.artifacts import Checkpoint, EvaluationReport, RowSet
from llm_engineering.config.schema import EvaluationConfig, ModelConfig
from llm_engineering.evaluation.scoring import Evaluator, read_held_out
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.tracking import tracked_stage
from steps.context import archive_folder, log_facts, run_name, tracking
from steps.tracking import stage_origin


@step
def evaluate(
    base: Checkpoint,
    sft_rows: RowSet,
    preference_rows: RowSet,
    questions: RowSet,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    beta: float,
    checker_sha256: str,  # in the cache key: an edited checker judges anew
    seed: int,
    sft_model: Checkpoint | None = None,
    dpo_model: Checkpoint | None = None,
) -> Annotated[EvaluationReport, "evaluation_report"]:
    """Generate, judge and score; all models see the same questions and seeds."""
    models = {name: m for name, m in (("base", base), ("sft", sft_model), ("dpo", dpo_model)) if m is not None}
    held_out = read_held_out(sft_rows, preference_rows, questions, evaluation, seed)
    evaluator = Evaluator(
        held_out,
        evaluation,
        load_chat_tokenizer(base, model).tokenizer,
        beta,
        seed,
        pick_dtype(model.dtype),
    )
    with tracked_stage(
        tracking(),
        stage="evaluation",
        name=f"{run_name()}-evaluation",
        tags=[run_name(), Path(base.base).name, f"data:{held_out.fingerprint[:12]}"],
        parameters={
            "evaluation": evaluation.model_dump(mode="json"),
            "model": model.model_dump(mode="json"),
            "beta": beta,
            "seed": seed,
        },
        archive_dir=archive_folder(),
        origin=stage_origin(),
    ) as tracker:
        report = evaluator.evaluate(models)
        tracker.log_evaluation(report)
    for name, scores in report.models.items():
        log_facts({name: {metric: value.value for metric, value in scores.metrics.items()}})
    log_facts({"questions": report.questions, "pairs": report.pairs, "split": report.split}, tracker.link)
    return report.model_copy(update={"tracker": tracker.link})
