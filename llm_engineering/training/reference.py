"""The reference's log-probabilities: scored once, stored, and taken by every DPO on the same model and rows.

A pair's log-probabilities under the frozen reference depend on its weights, the tokens, the precision and ``ld_alpha``,
and on no loss, beta or learning rate.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_engineering.config.model import AdapterConfig, FullFineTuning, ModelConfig, QloraAdapter
from llm_engineering.data.rowsets import REFERENCE, read_rows, write_rows
from llm_engineering.errors import ProofError
from llm_engineering.models.adapters import adapter_config, load_for_training
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reports.folders import Checkpoint, ReferenceKey, ReferenceLogProbs, RowSet, hash_files
from llm_engineering.scoring.likelihood import labelled, score_rows
from llm_engineering.training.dpo_arguments import SEEN_OFTEN
from llm_engineering.training.losses import REFERENCE_LOGPS
from llm_engineering.training.upstream import require_upstream

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPLITS = ("train", "eval")
"""What DPO sees of the pairs."""
COMPARED = 16
"""Pairs of a split whose stored log-probabilities are computed anew before a training takes them."""
TOLERANCE = 1e-4
"""Nats a token, on average over the compared answers."""
HALF_TOLERANCE = 0.05
"""In half precision a token's log-probability moves by some hundredths of a nat with the padding of its batch."""


@dataclass(frozen=True)
class Scoring:
    """How a reference scores pairs."""

    model: ModelConfig
    """How it is loaded."""
    adapter: AdapterConfig
    """What of it is trained later: that decides whether it is loaded in few bits, or in float32."""
    fast_path: Literal["auto", "off"] = "auto"
    """As for the training."""
    ld_alpha: float | None = None
    """See :class:`~llm_engineering.reports.folders.ReferenceKey`."""

    def key(self, policy: Checkpoint, rows: RowSet) -> ReferenceKey:
        """Return what the log-probabilities of a model on these rows depend on."""
        precision, weights = self._precision(), policy.weights_sha256
        return ReferenceKey(weights_sha256=weights, rows_sha256=rows.sha256, dtype=precision, ld_alpha=self.ld_alpha)

    def _precision(self) -> str:
        """Return the precision of weights and products in words, such as ``bfloat16 with weights in 4 bits``."""
        dtype = str(pick_dtype(self.model.dtype)).removeprefix("torch.")
        name = "tf32" if self.model.dtype == "tf32" else dtype
        if isinstance(self.adapter, QloraAdapter):
            return f"{name} with weights in {self.adapter.bits} bits"
        full = isinstance(self.adapter, FullFineTuning) and dtype != "float32"
        return f"{name} with weights in float32" if full else name


def store_reference(
    policy: Checkpoint, rows: RowSet, scoring: Scoring, pairs_seen: int | None, folder: Path
) -> ReferenceLogProbs:
    """Score the pairs that DPO will see with its reference, and keep what was found.

    Args:
        policy: The SFT model, which DPO starts from and is held to.
        rows: Preference rows.
        scoring: How it scores them.
        pairs_seen: How many pairs the training sees, repeats included: where that is too few for storing to pay, no
            model is loaded and nothing scored. None: in any case it pays.
        folder: Gets the result.
    """
    pays = pairs_seen is None or pairs_seen > SEEN_OFTEN * rows.rows["train"]
    scored = score_reference(policy, rows, scoring, folder) if pays else {}
    written = write_rows(folder / "rows", scored, REFERENCE)
    return ReferenceLogProbs(**written.model_dump(), key=scoring.key(policy, rows))


def score_reference(policy: Checkpoint, rows: RowSet, scoring: Scoring, folder: Path) -> "dict[str, Dataset]":
    """Return the log-probabilities of a model on the pairs of every split, loading it and letting it go again.

    Args:
        policy: The model.
        rows: Preference rows.
        scoring: How it scores them.
        folder: TRL's trainer wants one; nothing is left in it.
    """
    from accelerate.utils.memory import clear_device_cache

    tokenizer = load_chat_tokenizer(policy, scoring.model).tokenizer
    model = load_for_training(policy.path, scoring.model, scoring.adapter)
    scored = score_pairs(model, tokenizer, rows, scoring, folder)
    del model
    clear_device_cache(garbage_collection=True)  # trainer and model refer to each other
    return scored


def score_pairs(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: RowSet, scoring: Scoring, folder: Path
) -> "dict[str, Dataset]":
    """Return the log-probabilities of a model in memory on the pairs of every split, in nats an answer.

    They are TRL's, by the forward pass that the training takes; the model is frozen, and of no use for training after.
    """
    require_upstream("dpo")
    from accelerate.utils import convert_outputs_to_fp32
    from trl.trainer.utils import disable_dropout_in_model

    from llm_engineering.models.flat.linear import take_kernel
    from llm_engineering.training.dpo_arguments import reference_arguments
    from llm_engineering.training.dpo_trainer import PreparedDPOTrainer

    disable_dropout_in_model(model)
    model.requires_grad_(False).eval()
    model.forward = convert_outputs_to_fp32(model.forward)  # the training loop does this to the policy
    if scoring.fast_path == "auto":
        take_kernel(model)
    splits = {name: read_rows(rows, name) for name in SPLITS if rows.rows.get(name)}
    quantised = isinstance(scoring.adapter, QloraAdapter)  # no trainer takes such a model without an adapter; it is off
    trainer = PreparedDPOTrainer(
        model=model,
        args=reference_arguments(folder, scoring.model, scoring.ld_alpha),
        train_dataset=splits["train"],
        eval_dataset=splits.get("eval"),
        processing_class=tokenizer,
        fast_path=scoring.fast_path,
        peft_config=adapter_config(scoring.adapter, model) if quantised else None,
    )
    scored = {"train": trainer.train_dataset, "eval": trainer.eval_dataset}
    return {name: scored[name].select_columns(list(REFERENCE_LOGPS)) for name in splits}


def read_reference(stored: ReferenceLogProbs, key: ReferenceKey, rows: RowSet) -> "dict[str, Dataset]":
    """Return stored log-probabilities by split, if they are this reference's on these rows.

    Raises:
        ProofError: They are not, or the files have changed since they were written.
    """
    found, wanted = stored.key.model_dump(), key.model_dump()
    differences = [
        f"{name} {_short(found[name])} instead of {_short(wanted[name])}"
        for name in wanted
        if found[name] != wanted[name]
    ]
    sizes = {name: rows.rows.get(name, 0) for name in SPLITS}
    if not differences and {name: stored.rows.get(name, 0) for name in SPLITS} != sizes:
        differences = ["another number of pairs"]
    if not differences and hash_files(stored.path) != stored.sha256:
        differences = ["files that have changed since they were written"]
    if differences:
        raise ProofError(
            f"The stored log-probabilities in {stored.path} are not this reference's on these rows: "
            f"{', '.join(differences)}. Run again with --no-cache, which scores them anew."
        )
    return {name: read_rows(stored, name) for name, size in sizes.items() if size}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def with_reference(pairs: "Dataset", logps: "Dataset | None") -> "Dataset":
    """Return pairs with their reference log-probabilities beside them, where there are some."""
    from datasets import concatenate_datasets

    return pairs if logps is None else concatenate_datasets([pairs, logps], axis=1)


def has_adapter(model: "PreTrainedModel") -> bool:
    """Return whether a model is its own reference, once its adapter is off."""
    return hasattr(model, "disable_adapter")


@contextmanager
def reference_of(trainer: Any) -> "Iterator[PreTrainedModel | None]":
    """Give the frozen reference of a DPO trainer as a model: the policy with its adapter off, or a copy.

    None where there is neither: a policy that is trained whole, on stored log-probabilities.
    """
    if has_adapter(trainer.model):
        with trainer.model.disable_adapter():
            yield trainer.model
    else:
        copy = trainer.ref_model
        yield None if copy is None else trainer.accelerator.unwrap_model(copy)


def compare_stored(trainer: Any, ld_alpha: float | None) -> float:
    """Return how far stored log-probabilities are from fresh ones at most, in nats, on pairs from all over the rows.

    A pair that gives no number, stored and fresh, is left to the training, which names it when it comes to it.

    Args:
        trainer: Before its first update; its datasets have the stored log-probabilities.
        ld_alpha: What they were stored with.

    Raises:
        ProofError: They are too far apart.
    """
    pairs = [pair for rows in (trainer.train_dataset, trainer.eval_dataset) if rows is not None for pair in _some(rows)]
    with reference_of(trainer) as reference:
        fresh = _answer_logps(reference or trainer.model, pairs, ld_alpha)
    stored = [pair[column] for column in REFERENCE_LOGPS for pair in pairs]
    values = zip(fresh, stored, strict=True)
    differences = [abs(f - s) for f, s in values if math.isfinite(f) or math.isfinite(s)]
    tokens = sum(len(pair["chosen_ids"]) + len(pair["rejected_ids"]) for pair in pairs)
    allowed = (TOLERANCE if is_exact(trainer) else HALF_TOLERANCE) * tokens
    if not sum(differences) <= allowed:
        raise ProofError(
            f"The stored log-probabilities are not the reference's: on {len(pairs)} pairs they differ from fresh ones "
            f"by up to {max(differences):.3g} nats an answer. Run again with --no-cache, which scores them anew."
        )
    return max(differences, default=0.0)


def is_exact(trainer: Any) -> bool:
    """Return whether a row's numbers are the same in every batch, but for float32's last digits.

    In half precision they are not, and not with 8-bit weights, whose activations are quantised with their batch.
    """
    return not (trainer.args.bf16 or trainer.args.fp16 or getattr(trainer.model, "is_quantized", False))


def _some(rows: "Dataset") -> "Dataset":
    """Return rows at even distances, the first and the last among them."""
    count = min(COMPARED, len(rows))
    return rows.select(sorted({i * (len(rows) - 1) // max(1, count - 1) for i in range(count)}))


def _answer_logps(model: "PreTrainedModel", pairs: list[dict[str, Any]], ld_alpha: float | None) -> list[float]:
    """Return the log-probabilities of all chosen, then of all rejected answers, from full logits.

    With ``ld_alpha`` tokens beyond the length of the pair's other answer weigh so much (LD-DPO, Liu et al. 2024,
    arXiv:2409.06411), as TRL counts them.
    """
    answers = [(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
    whole = [score.logp for score in score_rows(model, [labelled(prompt, answer) for prompt, answer in answers])]
    if ld_alpha is None:
        return whole
    shared = 2 * [min(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
    cut = [labelled(prompt, answer[:length]) for (prompt, answer), length in zip(answers, shared, strict=True)]
    heads = [score.logp for score in score_rows(model, cut)]
    return [head + ld_alpha * (logp - head) for head, logp in zip(heads, whole, strict=True)]
