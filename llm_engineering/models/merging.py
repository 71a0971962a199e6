"""Merge what was trained into its base, in fp32, and prove that nothing changed on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.errors import ModelError, ProofError
from llm_engineering.models.checkpoints import describe_checkpoint, load_model, save_model
from llm_engineering.models.generation import generate_answers
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.reports.training import MergeReport

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOGIT_TOLERANCE = 1e-3
"""Largest accepted difference of a logit between adapter and merged model, in fp32, where rounding gives about 1e-5."""
GREEDY_TOKENS = 24


def merge_adapter(
    base: Checkpoint,
    adapter: Checkpoint,
    tokenizer: "PreTrainedTokenizerBase",
    probes: Sequence[Sequence[int]],
    *,
    stage: StageName,
    dtype: "torch.dtype",
    folder: Path,
) -> tuple[Checkpoint, MergeReport]:
    """Merge ``adapter`` into ``base``, save the full model, and compare adapter, merged and reloaded model.

    A base that was trained on in 4 or 8 bits is read as it was before. Where all weights were trained there is nothing
    to merge; they are cast, saved and compared with what was saved.

    Args:
        base: The model that the adapter was trained on.
        adapter: The adapter, or the model where all weights were trained.
        tokenizer: Saved beside the weights, chat template included.
        probes: Prompts as token ids on which the three models are compared.
        stage: The training stage that made the adapter.
        dtype: Precision of the saved weights; merging itself is done in fp32 and cast last.
        folder: Where the merged model is written.

    Raises:
        ModelError: The adapter belongs to another base.
        ProofError: The models disagree.
    """
    import torch
    from peft import PeftModel

    if adapter.base_sha256 != base.weights_sha256:
        raise ModelError(
            f"The {stage} adapter was trained on weights {adapter.base_sha256[:12]}, the base at hand is "
            f"{base.weights_sha256[:12]}. Merge it into the base it was trained on."
        )
    assert probes, "no probes: nothing would be proven"
    if adapter.kind == "model":
        attached = load_model(adapter.path, torch.float32)
    else:
        attached = PeftModel.from_pretrained(load_model(base.path, torch.float32), adapter.path)
    attached.eval()
    logits, tokens = _probe(attached, tokenizer, probes)
    try:
        merged = attached.merge_and_unload(safe_merge=True) if adapter.kind == "adapter" else attached
    except ValueError as error:
        raise ProofError(
            f"The {stage} adapter cannot be merged ({error}). Lower the learning rate and train again; nothing was "
            "published."
        ) from error
    merged_logits, merged_tokens = _probe(merged, tokenizer, probes)

    for parameter in merged.parameters():  # not the buffers: rotary frequencies stay in fp32 in a loaded model too
        parameter.data = parameter.data.to(dtype)
    save_model(merged, tokenizer, folder)
    cast_logits, _ = _probe(merged, tokenizer, probes)
    reloaded_logits, _ = _probe(load_model(folder, dtype), tokenizer, probes)
    report = MergeReport(
        stage=stage,
        max_logit_difference=_largest_difference(logits, merged_logits),
        reload_logit_difference=_largest_difference(cast_logits, reloaded_logits),
        tolerance=LOGIT_TOLERANCE,
        greedy_tokens=sum(len(ids) for ids in tokens),
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in merged.parameters()),
    )
    _require_parity(report, tokens == merged_tokens)
    return describe_checkpoint(folder, "model", base), report


def _require_parity(report: MergeReport, same_tokens: bool) -> None:
    if not report.max_logit_difference <= LOGIT_TOLERANCE or not same_tokens:  # NaN is no agreement
        raise ProofError(
            f"The merged {report.stage} model is not the adapted one: logits differ by "
            f"{report.max_logit_difference:.2g} (allowed {LOGIT_TOLERANCE:g}), greedy tokens "
            f"{'agree' if same_tokens else 'differ'}. Lower adapter.alpha or the learning rate; nothing was published."
        )
    if not report.reload_logit_difference <= LOGIT_TOLERANCE:
        raise ProofError(
            f"The saved {report.stage} model does not reload to the same logits (difference "
            f"{report.reload_logit_difference:.2g}). Check the disk and that no weights are tied to missing ones."
        )


def _probe(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", probes: Sequence[Sequence[int]]
) -> tuple[list["torch.Tensor"], list[list[int]]]:
    """Return the logits of every probe, without padding, and greedy continuations."""
    import torch

    with torch.no_grad():
        logits = [model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu() for ids in probes]
    answers = generate_answers(model, tokenizer, probes, max_new_tokens=GREEDY_TOKENS, batch_size=len(probes))
    return logits, [answer.token_ids for answer in answers]


def _largest_difference(left: list["torch.Tensor"], right: list["torch.Tensor"]) -> float:
    """Return the largest difference of two logits, NaN if there is one."""
    import torch

    return float(torch.stack([(a - b).abs().max() for a, b in zip(left, right, strict=True)]).max())
