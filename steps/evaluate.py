"""Step: measure base, SFT and DPO model on the same held-out rows and questions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from zenml import step

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.evaluation.changes import write_changes
from llm_engineering.evaluation.evaluator import Evaluator, read_held_out
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, Folder, MeasuredModels, RowSet
from llm_engineering.tracking import tracked_stage
from steps.runtime.context import archive_folder, kept_archive, log_facts, run_name, tracking
from steps.runtime.fetching import all_at_hand, described
from steps.runtime.tracking import stage_origin
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True, tracked="evaluation")
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
) -> tuple[Annotated[EvaluationReport, "evaluation_report"], Annotated[Folder, "outcomes"]]:
    """Generate, judge and score; all models see the same questions and seeds."""
    models = all_at_hand({"base": base, "sft": sft_model, "dpo": dpo_model})
    base = models["base"]
    evaluator = Evaluator(
        read_held_out(sft_rows, preference_rows, questions, evaluation, seed, checker_sha256=checker_sha256),
        evaluation,
        load_chat_tokenizer(base, model).tokenizer,
        beta,
        seed,
        pick_dtype(model.dtype),
    )
    report = tracked_evaluation(evaluator, base, model, models, None)
    return report, write_changes(evaluator.changes, scratch_folder())


@traits(gpu=True, tracked="evaluation")
@step
def evaluate_models(
    measured: MeasuredModels,
    base: Checkpoint,
    sft_rows: RowSet,
    preference_rows: RowSet,
    questions: RowSet,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    beta: float,
    checker_sha256: str,  # in the cache key: an edited checker judges anew
    seed: int,
) -> tuple[Annotated[EvaluationReport, "evaluation_report"], Annotated[Folder, "outcomes"]]:
    """Measure any models on rows that were tokenised for ``base``; those with other tokens are asked with their own."""
    base, models = described(base), all_at_hand(measured.checkpoints)
    tokenizer = load_chat_tokenizer(base, model).tokenizer
    others = own_tokenizers(models, model, tokenizer)
    evaluator = Evaluator(
        read_held_out(sft_rows, preference_rows, questions, evaluation, seed, checker_sha256=checker_sha256),
        evaluation,
        tokenizer,
        beta,
        seed,
        pick_dtype(model.dtype),
        others,
    )
    parents = {name: models[parent] for name, parent in measured.parents.items() if parent not in others}
    report = tracked_evaluation(evaluator, base, model, models, parents)
    return report, write_changes(evaluator.changes, scratch_folder())


def tracked_evaluation(
    evaluator: Evaluator,
    base: Checkpoint,
    model: ModelConfig,
    models: Mapping[str, Checkpoint],
    parents: Mapping[str, Checkpoint] | None,
) -> EvaluationReport:
    """Measure models, and tell the tracker and the dashboard what came out."""
    with tracked_stage(
        tracking(),
        stage="evaluation",
        name=f"{run_name()}-evaluation",
        tags=[run_name(), Path(base.base).name, f"data:{evaluator.held_out.fingerprint[:12]}"],
        parameters={
            "evaluation": evaluator.config.model_dump(mode="json"),
            "model": model.model_dump(mode="json"),
            "beta": evaluator.beta,
            "seed": evaluator.seed,
        },
        archive_dir=archive_folder(),
        origin=stage_origin(),
    ) as tracker:
        report = evaluator.evaluate(models, parents)
        tracker.log_evaluation(report)
    link = kept_archive(tracker.link)
    for name, scores in report.models.items():
        log_facts({name: {metric: value.value for metric, value in scores.metrics.items()}})
    log_facts({"questions": report.questions, "pairs": report.pairs, "split": report.split}, link)
    log_facts({f"{name}_outcomes": counts for name, counts in report.changes.items()})
    return report.model_copy(update={"tracker": link})
