"""Direct preference optimization against the frozen SFT model."""

import logging
import shutil
from collections.abc import Sequence
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
from llm_engineering.reports.training import LossProof, ReferenceProof, TrainingReport
from llm_engineering.scoring.likelihood import ScoredTokens, labelled, score_rows
from llm_engineering.training.dpo_arguments import stores_reference
from llm_engineering.training.dpo_probes import dpo_probes
from llm_engineering.training.dpo_watch import judge_dpo
from llm_engineering.training.inputs import StageInputs
from llm_engineering.training.launcher import launch
from llm_engineering.training.losses import POLICY_LOGPS, REFERENCE_LOGPS, TOKENS, load_loss, uses_reference
from llm_engineering.training.memory import enough_memory
from llm_engineering.training.processes.task import FOLDER
from llm_engineering.training.reference import (
    Scoring,
    compare_stored,
    is_exact,
    read_reference,
    reference_of,
    score_reference,
    store_reference,
    with_reference,
)
from llm_engineering.training.stage import early_stopping, seed_everything, train
from llm_engineering.training.upstream import require_upstream

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from llm_engineering.training.dpo_trainer import PreparedDPOTrainer

_log = logging.getLogger(__name__)
LOSS_TOLERANCE = 1e-4
HALF_LOSS_TOLERANCE = 0.05
"""In half precision the padding of a batch moves a long answer's log-probability by some tenths of a nat."""
LOGP_TOLERANCE = 1e-3
"""Nats; the policy is the reference plus an adapter that adds exactly nothing, so that fp32 gives 0."""
HALF_LOGP_TOLERANCE = 0.02
"""Nats a token; LoRA adds nothing in half precision either, but DoRA's magnitudes are rounded."""


def launch_dpo(config: DPOStageConfig, inputs: StageInputs) -> tuple[Checkpoint, TrainingReport]:
    """Train as :func:`train_dpo` does, in as many processes as are configured; one of them scores the reference."""
    return launch("dpo", train_dpo, config, inputs, before=_with_reference)


def _with_reference(config: DPOStageConfig, inputs: StageInputs) -> StageInputs:
    """Return the inputs with the reference's log-probabilities, where they are wanted."""
    if inputs.reference is not None or not stores_reference(config, inputs.rows.rows["train"]):
        return inputs
    scoring = Scoring(inputs.model, inputs.adapter, config.fast_path, config.ld_alpha)
    folder = inputs.work_dir / FOLDER / "reference"
    shutil.rmtree(folder, ignore_errors=True)
    return replace(inputs, reference=store_reference(inputs.base, inputs.rows, scoring, None, folder))


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
        ProofError: Before the first update the policy is not the reference, the loss is not what the configured formula
            gives for an untrained policy, or the reference is not the SFT model, before or after training.
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
    from accelerate.utils import convert_outputs_to_fp32
    from trl.trainer.utils import disable_dropout_in_model

    from llm_engineering.training.dpo_arguments import dpo_arguments
    from llm_engineering.training.dpo_trainer import PreparedDPOTrainer
    from llm_engineering.training.progress import Progress, TrackSeries, Watch

    own_loss, compared = load_loss(config), uses_reference(config)
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
            reference_free=not compared,
            own_loss=own_loss,
            peft_config=adapter_config(inputs.adapter, model),
            callbacks=[
                Progress("DPO", "pairs", config.effective_batch),
                TrackSeries(tracker),
                Watch("dpo", inputs.watch, judge_dpo),
                *early_stopping(config),
            ],
        )
        pick_backend(inputs.model.backend).speed_up(trainer.model, gradient_checkpointing=config.gradient_checkpointing)
        trainer.probes = dpo_probes(inputs, config, tokenizer, tracker)
        trainer.source_names = inputs.sources
        difference = compare_stored(trainer, config.ld_alpha) if logps else None
        proof = prove_reference(trainer, config, sft_sha256) if compared else None
        first_loss = prove_loss(trainer, config) if own_loss and not compared else None
        checkpoint, report = train(trainer, "dpo", config, inputs, tracker, lengths, judge_dpo)
        if proof and (reference := _kept_reference(trainer)) is not None:
            proof = proof.model_copy(update={"reference_sha256_after": hash_frozen(reference)})
            _require_frozen(proof)
    stored = {"stored_logps": bool(logps), "max_stored_difference": difference}
    proof = proof.model_copy(update=stored) if proof else None
    proven = {"reference": proof, "first_loss": first_loss}
    return checkpoint, report.model_copy(update={"tracker": tracker.link, **proven})


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
    """Return the loss of TRL's of a policy that equals its reference.

    All scores are zero then, under every f-divergence too, and docs/losses.md's formulas become the constants of
    :data:`~llm_engineering.config.losses.LOSSES`: label smoothing mixes two equal terms.

    Args:
        config: The stage's configuration.
        nll: Token mean of the chosen answers' cross-entropy under the reference, in nats.
    """
    at_zero = config.loss_row.at_zero
    assert at_zero is not None
    return at_zero(config.beta, config.label_smoothing) + config.nll_weight * nll


def untrained_loss(config: DPOStageConfig, scores: Sequence[ScoredTokens]) -> float:
    """Return the loss that the configured formula gives for a policy before its first update.

    Args:
        config: The stage's configuration.
        scores: Log-probabilities under that policy: of all chosen answers, then of all rejected ones.
    """
    import torch

    chosen = scores[: len(scores) // 2]
    nll = -sum(score.logp for score in chosen) / sum(score.tokens for score in chosen)
    own = load_loss(config)
    if own is None:
        return zero_ratio_loss(config, nll)
    logps = torch.tensor([score.logp for score in scores], dtype=torch.float64)
    tokens = torch.tensor([score.tokens for score in scores])
    reference = torch.zeros_like(logps) if config.reference_free else logps
    values = [side for both in (logps, tokens, reference) for side in both.chunk(2)]
    losses = own(dict(zip((*POLICY_LOGPS, *TOKENS, *REFERENCE_LOGPS), values, strict=True)))
    return float(losses.mean()) + config.nll_weight * nll


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
    pairs = _first_pairs(trainer, config)
    policy = _score(trainer.model, pairs)
    with reference_of(trainer) as frozen_model:
        reference = _score(frozen_model or trainer.model, pairs)
    step0_loss = _loss_of(trainer, pairs)
    frozen = hash_frozen(_kept_reference(trainer) or trainer.model)
    proof = ReferenceProof(
        step0_loss=step0_loss,
        expected_loss=untrained_loss(config, reference),
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


def prove_loss(trainer: "PreparedDPOTrainer", config: DPOStageConfig) -> LossProof:
    """Check on the first pairs that a loss without a reference is its formula's value on the untrained policy.

    Raises:
        ProofError: It is not.
        TrainingError: The loss is no number.
    """
    pairs = _first_pairs(trainer, config)
    expected = untrained_loss(config, _score(trainer.model, pairs))
    proof = LossProof(step0_loss=_loss_of(trainer, pairs), expected_loss=expected)
    if not _is_close(proof, LOSS_TOLERANCE if is_exact(trainer) else HALF_LOSS_TOLERANCE):
        raise ProofError(
            f"Before the first update DPO's loss is {proof.step0_loss:.6f}, and the formula of {config.loss} gives "
            f"{proof.expected_loss:.6f} for the untrained policy. Remove what changes the model or the loss between "
            "the two (a changed library, for example), and run again."
        )
    return proof


def _first_pairs(trainer: "PreparedDPOTrainer", config: DPOStageConfig) -> list[dict[str, Any]]:
    """Return the pairs that a proof is made on."""
    # what is to be shared out still lies in main memory, whole, and each process computes the same
    most = 1 if trainer.hardware.sharding != "none" else config.batch_size
    return [trainer.train_dataset[i] for i in range(min(most, len(trainer.train_dataset)))]


def _score(model: Any, pairs: Sequence[dict[str, Any]]) -> list[ScoredTokens]:
    """Return the log-probabilities of all chosen, then of all rejected answers, from full logits."""
    return score_rows(
        model, [labelled(pair["prompt_ids"], pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
    )


def _loss_of(trainer: "PreparedDPOTrainer", pairs: list[dict[str, Any]]) -> float:
    """Return the trainer's loss of the first training pairs, and let it forget that it was asked.

    Raises:
        TrainingError: It is no number.
    """
    import torch

    model: Any = trainer.model
    with torch.no_grad(), trainer.accelerator.autocast():
        batch = trainer.data_collator(pairs)
        loss = trainer.compute_loss(model, {name: value.to(model.device) for name, value in batch.items()})
    if not loss.isfinite():
        raise TrainingError(
            f"DPO: the loss is {loss.item()} before the first update, on {trainer.name_rows(range(len(pairs)))}. Mend "
            "what is in them, or train the SFT model anew."
        )
    trainer._metrics["eval"].clear()  # the probe is no evaluation
    model.train()
    return float(loss)


def _require_equal(proof: ReferenceProof, loss_tolerance: float, logp_tolerance: float) -> None:
    if not (_is_close(proof, loss_tolerance) and proof.max_logp_difference <= logp_tolerance):
        raise ProofError(
            f"Before the first update DPO's policy is not its reference: loss {proof.step0_loss:.6f}, expected "
            f"{proof.expected_loss:.6f}; log-probabilities differ by up to {proof.max_logp_difference:.2g} nats. "
            "Remove what changes the model between the two passes (a changed library, for example), and run again."
        )


def _is_close(proof: LossProof, tolerance: float) -> bool:
    return abs(proof.step0_loss - proof.expected_loss) <= tolerance * max(1.0, abs(proof.expected_loss))


def _require_frozen(proof: ReferenceProof) -> None:
    if not proof.sft_sha256 == proof.reference_sha256_before == proof.reference_sha256_after:
        raise ProofError(
            f"The reference is not the frozen SFT model: SFT {proof.sft_sha256[:12]}, reference "
            f"{proof.reference_sha256_before[:12]} before and {proof.reference_sha256_after[:12]} after training. "
            "Train again from the SFT model; the result is not kept."
        )
