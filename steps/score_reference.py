"""Step: the log-probabilities of DPO's reference, once for every run on the same model and pairs."""

from typing import Annotated, Literal

from zenml import step

from llm_engineering.config.model import AdapterConfig, ModelConfig
from llm_engineering.models.backends import pick_backend
from llm_engineering.reports.folders import Checkpoint, ReferenceLogProbs, RowSet
from llm_engineering.training.reference import Scoring, store_reference
from steps.runtime.context import log_facts
from steps.runtime.fetching import at_hand
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True)
@step
def score_reference(
    preference_rows: RowSet,
    policy: Checkpoint,
    model: ModelConfig,
    adapter: AdapterConfig,
    fast_path: Literal["auto", "off"],
    ld_alpha: float | None,
    pairs_seen: int | None,  # too few of them, and nothing is scored
) -> Annotated[ReferenceLogProbs, "reference_log_probs"]:
    """Score the pairs with the frozen SFT model; nothing here depends on the loss, so that other losses share it."""
    pick_backend(model.backend).start()  # in a process of the step's own nobody has
    scoring = Scoring(model, adapter, fast_path, ld_alpha)
    reference = store_reference(at_hand(policy), preference_rows, scoring, pairs_seen, scratch_folder())
    log_facts({"pairs": reference.rows, **reference.key.model_dump()})
    return reference
