"""Step: tasks of the lm-evaluation-harness."""

from typing import Annotated

from zenml import step

from llm_engineering.config.evaluation import HarnessConfig
from llm_engineering.config.measuring import Lineup
from llm_engineering.config.model import ModelConfig
from llm_engineering.evaluation.lineup import own_tokenizers
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.evaluation import HarnessReport
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.harness import measure_tasks
from steps.runtime.context import log_facts
from steps.runtime.fetching import all_at_hand, described, tasks_at_hand
from steps.runtime.traits import traits


@traits(gpu=True)
@step
def run_harness(
    base: Checkpoint,
    models: list[Checkpoint],
    lineup: Lineup,
    model: ModelConfig,
    harness: HarnessConfig,
    tasks_sha256: str,  # in the cache key: an edited task file is run again
    seed: int,
) -> Annotated[HarnessReport, "harness_report"]:
    """Run the configured tasks on every model that is measured."""
    named = lineup.named(base, models)
    here = all_at_hand({name: named[name] for name in lineup.measured})
    tokenizer = load_chat_tokenizer(described(base), model).tokenizer
    others = own_tokenizers(here, model, tokenizer) if lineup.own_tokens else {}
    report = measure_tasks(here, tokenizer, tasks_at_hand(harness), pick_dtype(model.dtype), seed, others)
    for name, metrics in report.metrics.items():
        log_facts({name: {metric: value.value for metric, value in metrics.items()}})
    return report
