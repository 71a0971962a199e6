"""Every private name of TRL, transformers, accelerate and PEFT that the library calls, overrides or replaces.

Nobody promises these names: another version may lack one, or call it otherwise. They are looked at before a training
begins.
"""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from llm_engineering.errors import LibraryError
from llm_engineering.reports.folders import StageName

TRAINER = "trl:Trainer"
"""The trainer of a stage, ``trl.SFTTrainer`` or ``trl.DPOTrainer``; most of it is transformers'."""
_ABSENT = object()


@dataclass(frozen=True)
class Name:
    """A private name, and what it must be."""

    place: str
    """``module`` or ``module:Class``."""
    name: str
    takes: str | None = None
    """Its parameters; None: it is called by nobody. Such a name of a trainer is set when one is made."""
    stages: tuple[StageName, ...] = ("sft", "dpo")
    fast: bool = False
    """The fast path alone needs it."""

    def place_in(self, stage: StageName) -> str:
        """Return where a stage has it."""
        return f"trl:{stage.upper()}Trainer" if self.place == TRAINER else self.place

    @property
    def is_set(self) -> bool:
        """Whether a trainer sets it when it is made."""
        return self.place == TRAINER and self.takes is None


NAMES = (
    Name(TRAINER, "_prepare_for_training", "self, max_steps, train_dataloader, resume_from_checkpoint"),
    Name(TRAINER, "_load_from_checkpoint", "self, resume_from_checkpoint, model"),
    Name(TRAINER, "_load_optimizer_and_scheduler", "self, checkpoint"),
    Name(TRAINER, "_save_checkpoint", "self, model, trial"),
    Name(TRAINER, "_get_grad_norm", "self, model, grad_norm"),
    Name(TRAINER, "_get_train_sampler", "self, train_dataset"),
    Name(TRAINER, "_get_eval_sampler", "self, eval_dataset"),
    Name(TRAINER, "_remove_unused_columns", "self, dataset, description"),
    Name(TRAINER, "_signature_columns"),
    Name(TRAINER, "_metrics"),
    Name(TRAINER, "_total_train_tokens"),
    Name(TRAINER, "_compute_loss", "self, model, inputs, return_outputs", stages=("dpo",)),
    Name(TRAINER, "_prepare_dataset", "self, dataset, processing_class, args, dataset_name", stages=("dpo",)),
    Name(TRAINER, "_precompute_ref_logps", "self, dataset, name, batch_size", stages=("dpo",)),
    Name(TRAINER, "compute_ref_log_probs", "self, model, inputs", stages=("dpo",)),
    Name(TRAINER, "loss_types", stages=("dpo",)),
    Name(TRAINER, "loss_weights", stages=("dpo",)),
    Name(
        "trl.trainer.dpo_trainer",
        "selective_log_softmax_and_entropy",
        "logits, index, entropy_requires_grad, temperature, row_mask",
        stages=("dpo",),
    ),
    Name("trl.trainer.dpo_trainer", "selective_log_softmax", "logits, index, temperature, row_mask", stages=("dpo",)),
    Name("transformers:TrainingArguments", "_setup_devices"),
    Name(
        "transformers.trainer_pt_utils",
        "LengthGroupedSampler",
        "batch_size, dataset, lengths, model_input_name, generator",
    ),
    Name(
        "transformers.trainer_utils",
        "rotate_checkpoints",
        "output_dir, save_total_limit, best_model_checkpoint, use_mtime, checkpoint_prefix",
    ),
    Name("accelerate:Accelerator", "gather", "self, tensor"),
    Name(TRAINER, "_is_vision_dataset", fast=True),
    Name(TRAINER, "compute_loss", "self, model, inputs, return_outputs, num_items_in_batch", fast=True),
    Name(
        "trl.trainer.sft_trainer",
        "_ChunkedCELMHeadOutput",
        "loss, logits, past_key_values, hidden_states, attentions, num_correct_tokens, entropy_sum, num_valid_tokens, "
        "aux_loss",
        stages=("sft",),
        fast=True,
    ),
    Name(TRAINER, "_compute_ref_log_probs", "self, model, inputs", stages=("dpo",), fast=True),
    Name(
        TRAINER,
        "_get_per_token_logps_and_entropies",
        "self, model, model_kwargs, input_ids, completion_mask",
        stages=("dpo",),
        fast=True,
    ),
    Name(TRAINER, "use_liger_kernel", stages=("dpo",), fast=True),
    Name(
        "trl.models.utils:_ForwardRedirection",
        "__call__",
        "self, wrapper_module, original_module, method, *args, **kwargs",
        stages=("dpo",),
        fast=True,
    ),
    Name("transformers:PreTrainedConfig", "_attn_implementation", fast=True),
    Name("transformers.modeling_utils:ALL_ATTENTION_FUNCTIONS", "register", "key, value", fast=True),
    Name("transformers.masking_utils:ALL_MASK_ATTENTION_FUNCTIONS", "register", "key, value", fast=True),
    Name("transformers.integrations.sdpa_attention", "repeat_kv", "hidden_states, n_rep", fast=True),
    Name(
        "transformers.integrations.sdpa_attention",
        "sdpa_attention_forward",
        "module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, **kwargs",
        fast=True,
    ),
    Name("peft.tuners.lora:Linear", "forward", "self, x, *args, **kwargs", fast=True),
)


def require_upstream(stage: StageName, trainer: Any = None) -> None:
    """Refuse libraries that are not as a training needs them.

    Args:
        stage: Its stage.
        trainer: Its trainer, once there is one: then what is set when it is made is looked at too.

    Raises:
        LibraryError: A name is missing, or takes something else.
    """
    if found := next(_differences(stage, trainer, fast=False), None):
        raise LibraryError(f"{stage.upper()} cannot train: {found}; install the version that constraints.txt names.")


def reason_against_fast_path(stage: StageName, trainer: Any) -> str | None:
    """Return what in the libraries is not as the fast path needs it, None if all is."""
    return next(_differences(stage, trainer, fast=True), None)


def _differences(stage: StageName, trainer: Any, *, fast: bool) -> Iterator[str]:
    for row in NAMES:
        if row.fast != fast or stage not in row.stages or (row.is_set and trainer is None):
            continue
        place = row.place_in(stage)
        found = getattr(trainer if row.is_set else _at(place), row.name, _ABSENT)
        where = f"{_versions(row)} has {{}} {place.partition(':')[2]}.{row.name}".replace(" .", " ")
        if found is _ABSENT:
            yield where.format("no")
        elif row.takes is not None and (takes := _parameters(found)) != row.takes:
            yield f"{where.format('a')}({takes}), and ({row.takes}) is needed"


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    return getattr(found, name, None) if name else found


def _parameters(function: Any) -> str:
    """Return what a function takes, without types and defaults: ``self, x, *args``."""
    empty = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(str(parameter.replace(annotation=empty, default=empty)) for parameter in parameters)


def _versions(row: Name) -> str:
    library = row.place.partition(":")[0].partition(".")[0]
    beside = f" with transformers {version('transformers')}" if row.place == TRAINER else ""
    return f"{library} {version(library)}{beside}"
