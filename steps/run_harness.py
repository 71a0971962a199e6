"""Step: tasks of the lm-evaluation-harness."""

from typing import Annotated

from zenml import step

from llm_engineering.config.evaluation import HarnessConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.evaluation import HarnessReport
from llm_engineering.reports.folders import Checkpoint, MeasuredModels
from llm_engineering.scoring.harness import measure_tasks
from steps.runtime.context import log_facts
from steps.runtime.fetching import all_at_hand, described, tasks_at_hand
from steps.runtime.traits import traits


@traits(gpu=True)
@step
def run_harness(
    base: Checkpoint,
    model: ModelConfig,
    harness: HarnessConfig,
    tasks_sha256: str,  # in the cache key: an edited task file is run again
    seed: int,
    sft_model: Checkpoint | None = None,
    dpo_model: Checkpoint | None = None,
    measured: MeasuredModels | None = None,  # in place of the run's own
    names: list[str] | None = None,  # of `models`: those of a comparison or a sweep
    models: list[Checkpoint] | None = None,
) -> Annotated[HarnessReport, "harness_report"]:
    """Run the configured tasks on every model."""
    own = {"base": base, "sft": sft_model, "dpo": dpo_model}
    several = dict(zip(names or [], models or [], strict=True))
    checkpoints = all_at_hand(measured.checkpoints if measured else own | several)
    tokenizer = load_chat_tokenizer(described(base), model).tokenizer
    others = own_tokenizers(checkpoints, model, tokenizer) if measured else {}
    report = measure_tasks(checkpoints, tokenizer, tasks_at_hand(harness), pick_dtype(model.dtype), seed, others)
    for name, metrics in report.metrics.items():
        log_facts({name: {metric: value.value for metric, value in metrics.items()}})
    return report
