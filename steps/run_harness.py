"""Step: tasks of the lm-evaluation-harness."""

from typing import Annotated

from zenml import step

from llm_engineering.artifacts import Checkpoint, HarnessReport
from llm_engineering.config.schema import HarnessConfig, ModelConfig
from llm_engineering.evaluation.harness import measure_tasks
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from steps.context import log_facts


@step
def run_harness(
    base: Checkpoint,
    model: ModelConfig,
    harness: HarnessConfig,
    tasks_sha256: str,  # in the cache key: an edited task file is run again
    seed: int,
    sft_model: Checkpoint | None = None,
    dpo_model: Checkpoint | None = None,
) -> Annotated[HarnessReport, "harness_report"]:
    """Run the configured tasks on every model."""
    models = {name: m for name, m in (("base", base), ("sft", sft_model), ("dpo", dpo_model)) if m is not None}
    tokenizer = load_chat_tokenizer(base, model).tokenizer
    report = measure_tasks(models, tokenizer, harness, pick_dtype(model.dtype), seed)
    for name, metrics in report.metrics.items():
        log_facts({name: {metric: value.value for metric, value in metrics.items()}})
    return report
