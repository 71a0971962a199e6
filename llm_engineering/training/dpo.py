"""Direct preference optimization against the frozen SFT model."""

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import FullFineTuning
from llm_engineering.config.watch import WatchConfig
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import ProofError, TrainingError
from llm_engineering.models.adapters import adapter_config, load_for_training
from llm_engineering.models.backends import pick_backend
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import hash_frozen, hash_weights
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.training import ReferenceProof, TrainingReport
from llm_engineering.scoring.likelihood import labelled, score_rows
from llm_engineering.training.arguments import stores_reference
from llm_engineering.training.memory import enough_memory
from llm_engineering.training.probes import probes
from llm_engineering.training.reference import (
    Scoring,
    compare_stored,
    is_exact,
    read_reference,
    reference_of,
    score_reference,
    with_reference,
)
from llm_engineering.training.stage import StageInputs, early_stopping, seed_everything, train
from llm_engineering.training.upstream import require_upstream

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from llm_engineering.training.trainers import PreparedDPOTrainer

_log = logging.getLogger(__name__)
LOSS_TOLERANCE = 1e-4
HALF_LOSS_TOLERANCE = 0.05
"""In half precision the padding of a batch moves a long answer's log-probability by some tenths of a nat."""
LOGP_TOLERANCE = 1e-3
"""Nats; the policy is the reference plus an adapter that adds exactly nothing, so that fp32 gives 0."""
HALF_LOGP_TOLERANCE = 0.02
"""Nats a token; LoRA adds nothing in half precision either, but DoRA's magnitudes are rounded."""


def train_dpo(config: DPOStageConfig, inputs: StageInputs) -> tuple[Checkpoint, TrainingReport]:
    """Train on preference pairs and return a fresh adapter, or the whole model, with a report.

    The policy is the merged SFT model with the adapter; the reference is the same model with the adapter off: the SFT
    model bit for bit, at no extra memory. Where all weights are trained it is a frozen copy. Loss: Rafailov et al. 2023
    (arXiv:2305.18290), equation 7, or the configured one, plus ``nll_weight`` times the token mean of the chosen
    answers' cross-entropy.

    Where the watch finds the policy displaced and is configured to, DPO is trained anew from the same SFT model with
    the NLL term, once. The first attempt's folder stays until the step ends, so that a run that is killed in the second
    one finds the first at its end and goes on in the second.

    Raises:
        ProofError: Before the first update the policy is not the reference, the loss is not the configured loss at zero
            log-ratios, or the reference is not the SFT model, before or after training.
    """
    checkpoint, report = _train_once(config, inputs)
    if not _restarts(report, inputs.watch):
        return checkpoint, report
    weight = inputs.watch.displaced.nll_weight
    _log.warning("DPO was displaced; it starts anew from the SFT model with nll_weight %g.", weight)
    again = replace(
        inputs,
        run=f"{inputs.run}-with-nll",
        work_dir=inputs.work_dir / "with-nll",
        watch=_without_restart(inputs.watch),
    )
    checkpoint, second = _train_once(config.model_copy(update={"nll_weight": weight}), again)
    return checkpoint, second.model_copy(update={"restarted_with_nll": weight, "first_attempt": report})


def _restarts(report: TrainingReport, watch: WatchConfig) -> bool:
    """Return whether an attempt is to be followed by one with the NLL term: it was displaced, while it ran or after."""
    found = [*report.verdicts, *([report.stopped_by] if report.stopped_by else [])]
    return watch.on.displaced == "restart_with_nll" and any(verdict.name == "displaced" for verdict in found)


def _without_restart(watch: WatchConfig) -> WatchConfig:
    return watch.model_copy(update={"on": watch.on.model_copy(update={"displaced": "warn"})})


def _train_once(config: DPOStageConfig, inputs: StageInputs) -> tuple[Checkpoint, TrainingReport]:
    """Train one attempt, and prove its reference."""
    require_upstream("dpo")
    from accelerate.utils import convert_outputs_to_fp32  # type: ignore[import-untyped]
    from trl.trainer.utils import disable_dropout_in_model

    from llm_engineering.training.arguments import dpo_arguments
    from llm_engineering.training.progress import Progress, TrackSeries, Watch
    from llm_engineering.training.trainers import PreparedDPOTrainer

    logps = _reference_logps(config, inputs)
    seed_everything(inputs.seed)
    tokenizer = load_chat_tokenizer(inputs.base, inputs.model).tokenizer
    model = load_for_training(inputs.base.path, inputs.model, inputs.adapter, inputs.hardware)
    sft_sha256 = hash_as_loaded(inputs.base, model)
    disable_dropout_in_model(model)  # the reference is deterministic; adapter.dropout is the adapter's alone
    # The training loop does this too, but the reference is proven before it starts.
    model.forward = convert_outputs_to_fp32(model.forward)
    rows = with_reference(read_rows(inputs.rows, "train"), logps.get("train"))
    held_out = read_rows(inputs.rows, "eval") if inputs.rows.rows.get("eval") else None
    if held_out is not None:
        held_out = with_reference(held_out, logps.get("eval"))
    lengths = [2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
    arguments = dpo_arguments(
        config,
        inputs.model,
        inputs.work_dir,
        inputs.seed,
        held_out is not None,
        len(rows),
        inputs.report_to,
        inputs.hardware,
    )
    memory = enough_memory("dpo", config, inputs.adapter, max(lengths), inputs.hardware.processes)
    with inputs.tracked("dpo", config) as tracker, memory:
        trainer = PreparedDPOTrainer(
            model=model,
            ref_model=None if arguments.precompute_ref_log_probs else _frozen_copy(inputs),
            args=arguments,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            fast_path=config.fast_path,
            hardware=inputs.hardware,
            reference_free=config.reference_free,
            peft_config=adapter_config(inputs.adapter, model),
            callbacks=[
                Progress("DPO", "pairs", config.effective_batch),
                TrackSeries(tracker),
                Watch("dpo", inputs.watch),
                *early_stopping(config),
            ],
        )
        pick_backend(inputs.model.backend).speed_up(trainer.model, gradient_checkpointing=config.gradient_checkpointing)
        trainer.probes = probes(inputs, config, tokenizer, tracker)
        trainer.source_names = inputs.sources
        difference = compare_stored(trainer, config.ld_alpha) if logps else None
        proof = None if config.reference_free else prove_reference(trainer, config, sft_sha256)
        checkpoint, report = train(trainer, "dpo", config, inputs, tracker, lengths)
        if proof and (reference := _kept_reference(trainer)) is not None:
            proof = proof.model_copy(update={"reference_sha256_after": hash_frozen(reference)})
            _require_frozen(proof)
    stored = {"stored_logps": bool(logps), "max_stored_difference": difference}
    proof = proof.model_copy(update=stored) if proof else None
    return checkpoint, report.model_copy(update={"tracker": tracker.link, "reference": proof})


def _frozen_copy(inputs: StageInputs) -> "PreTrainedModel | None":
    """Return the reference where all weights are trained; an adapter is only switched off."""
    if not isinstance(inputs.adapter, FullFineTuning):
        return None
    return load_for_training(inputs.base.path, inputs.model, inputs.adapter, inputs.hardware).requires_grad_(False)


def _kept_reference(trainer: "PreparedDPOTrainer") -> "PreTrainedModel | None":
    """Return the model that holds the reference's weights; none where they are trained and its results were stored."""
    if trainer.ref_model is not None:
        return trainer.accelerator.unwrap_model(trainer.ref_model)
    return trainer.model if hasattr(trainer.model, "peft_config") else None


def _reference_logps(config: DPOStageConfig, inputs: StageInputs) -> "dict[str, Dataset]":
    """Return the reference's log-probabilities by split: stored ones, or scored here; none for on the fly."""
    if not stores_reference(config, inputs.rows.rows["train"]):
        return {}
    scoring = Scoring(inputs.model, inputs.adapter, config.fast_path, config.ld_alpha)
    if inputs.reference is not None:
        return read_reference(inputs.reference, scoring.key(inputs.base, inputs.rows), inputs.rows)
    return score_reference(inputs.base, inputs.rows, scoring, inputs.work_dir)


def zero_ratio_loss(config: DPOStageConfig, nll: float) -> float:
    """Return the loss of a policy that equals its reference.

    All scores are zero then, under every f-divergence too, and docs/losses.md's formulas become constants: ``-log
    sigma(0) = ln 2`` for ``sigmoid`` and its kin (label smoothing mixes two equal terms), ``(0 - 1 / (2 beta))^2`` for
    ``ipo`` (Azar et al. 2023, equation 17), and so on.

    Args:
        config: The stage's configuration.
        nll: Token mean of the chosen answers' cross-entropy under the reference, in nats.
    """
    ln2, smoothing = math.log(2), config.label_smoothing
    losses = dict.fromkeys(("sigmoid", "robust", "sigmoid_norm", "aot", "aot_unpaired"), ln2)
    losses |= dict.fromkeys(("hinge", "apo_zero", "apo_down"), 1.0)
    losses |= dict.fromkeys(("nca_pair", "bco_pair"), 2 * ln2)
    losses |= {"ipo": (0.5 / config.beta) ** 2, "sppo_hard": 2 * (0.5 / config.beta) ** 2, "discopop": (ln2 + 1) / 2}
    if smoothing:
        losses["exo_pair"] = -ln2 - 0.5 * math.log(smoothing * (1 - smoothing))
    return losses[config.loss] + config.nll_weight * nll


def hash_as_loaded(sft: Checkpoint, model: "PreTrainedModel") -> str:
    """Return the hash that the reference must keep: the SFT model's.

    Where loading casts weights to another precision, or names them in another way than their file does, it is the hash
    of what was loaded, as long as the file is the SFT model's.
    """
    return hash_frozen(model) if hash_weights(sft.path) == sft.weights_sha256 else sft.weights_sha256


def prove_reference(trainer: "PreparedDPOTrainer", config: DPOStageConfig, sft_sha256: str) -> ReferenceProof:
    """Check on the first pairs that the untrained policy is the reference and that the loss says so.

    The log-probabilities are computed from full logits here, apart from TRL's code, which gives the loss.

    Args:
        trainer: Before its first update.
        config: The stage's configuration.
        sft_sha256: Weights hash of the SFT model.

    Raises:
        ProofError: Something differs.
        TrainingError: The loss is no number.
    """
    import torch

    model: Any = trainer.model
    # what is to be shared out still lies in main memory, whole, and each process computes the same
    most = 1 if trainer.hardware.sharding != "none" else config.batch_size
    tried = range(min(most, len(trainer.train_dataset)))
    examples = [trainer.train_dataset[i] for i in tried]
    chosen = [labelled(row["prompt_ids"], row["chosen_ids"]) for row in examples]
    rejected = [labelled(row["prompt_ids"], row["rejected_ids"]) for row in examples]
    policy = score_rows(model, chosen + rejected)
    with reference_of(trainer) as frozen_model:
        reference = score_rows(frozen_model or model, chosen + rejected)
    nll = -sum(s.logp for s in reference[: len(chosen)]) / sum(s.tokens for s in reference[: len(chosen)])
    with torch.no_grad(), trainer.accelerator.autocast():
        batch = trainer.data_collator(examples)
        loss = trainer.compute_loss(model, {name: value.to(model.device) for name, value in batch.items()})
    if not loss.isfinite():
        raise TrainingError(
            f"DPO: the loss is {loss.item()} before the first update, on {trainer.name_rows(tried)}. Mend what is in "
            "them, or train the SFT model anew."
        )
    trainer._metrics["eval"].clear()  # the probe is no evaluation
    model.train()
    frozen = hash_frozen(_kept_reference(trainer) or model)
    proof = ReferenceProof(
        step0_loss=float(loss),
        expected_loss=zero_ratio_loss(config, nll),
        max_logp_difference=max(abs(p.logp - r.logp) for p, r in zip(policy, reference, strict=True)),
        reference_sha256_before=frozen,
        reference_sha256_after=frozen,
        sft_sha256=sft_sha256,
    )
    if is_exact(trainer):
        _require_equal(proof, LOSS_TOLERANCE, LOGP_TOLERANCE)
    else:
        _require_equal(proof, HALF_LOSS_TOLERANCE, HALF_LOGP_TOLERANCE * max(score.tokens for score in policy))
    _require_frozen(proof)
    return proof


def _require_equal(proof: ReferenceProof, loss_tolerance: float, logp_tolerance: float) -> None:
    allowed = loss_tolerance * max(1.0, abs(proof.expected_loss))
    if not (abs(proof.step0_loss - proof.expected_loss) <= allowed and proof.max_logp_difference <= logp_tolerance):
        raise ProofError(
            f"Before the first update DPO's policy is not its reference: loss {proof.step0_loss:.6f}, expected "
            f"{proof.expected_loss:.6f}; log-probabilities differ by up to {proof.max_logp_difference:.2g} nats. "
            "Remove what changes the model between the two passes (a changed library, for example), and run again."
        )


def _require_frozen(proof: ReferenceProof) -> None:
    if not proof.sft_sha256 == proof.reference_sha256_before == proof.reference_sha256_after:
        raise ProofError(
            f"The reference is not the frozen SFT model: SFT {proof.sft_sha256[:12]}, reference "
            f"{proof.reference_sha256_before[:12]} before and {proof.reference_sha256_after[:12]} after training. "
            "Train again from the SFT model; the result is not kept."
        )
