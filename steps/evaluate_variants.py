"""Step: measure the models of a comparison or a sweep on the same held-out rows and questions."""

from typing import Annotated, Literal

from zenml import step

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.evaluation.evaluator import Evaluator, read_held_out
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from steps.evaluate import tracked_evaluation
from steps.runtime.fetching import all_at_hand
from steps.runtime.traits import traits


@traits(gpu=True, tracked="evaluation")
@step
def evaluate_variants(
    base: Checkpoint,
    sft_rows: RowSet,
    preference_rows: RowSet,
    questions: RowSet,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    beta: float,
    checker_sha256: str,  # in the cache key: an edited checker judges anew
    seed: int,
    first: Literal["test", "eval"],
    names: list[str],  # of the models that are measured; `base` is the base
    trained: list[str],  # names of `models`, those that are only parents included
    parents: dict[str, str],
    models: list[Checkpoint],
) -> Annotated[EvaluationReport, "variants_evaluation"]:
    """Generate, judge and score; all models see the same questions and seeds, each is held against its parent."""
    there = all_at_hand({"base": base, **dict(zip(trained, models, strict=True))})
    base = there["base"]
    evaluator = Evaluator(
        read_held_out(sft_rows, preference_rows, questions, evaluation, seed, first, checker_sha256),
        evaluation,
        load_chat_tokenizer(base, model).tokenizer,
        beta,
        seed,
        pick_dtype(model.dtype),
    )
    return tracked_evaluation(
        evaluator,
        base,
        model,
        {name: there[name] for name in names},
        {name: there[parent] for name, parent in parents.items() if name in names},
    )
