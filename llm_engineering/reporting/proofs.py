"""What was checked while a run ran, with the numbers that show it."""

from dataclasses import dataclass

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.wording import model_label
from llm_engineering.reports.training import MergeReport, ReferenceProof


@dataclass(frozen=True)
class Proof:
    """One thing that was checked, and what came out."""

    title: str
    passed: bool
    claim: str
    numbers: list[tuple[str, str]]


def proofs_of(reports: RunReports) -> list[Proof]:
    """Return every proof of a run, in the order in which they were made."""
    proofs = []
    if dataset := reports.dataset:
        rows = sum(source.rows for source in dataset.sources)
        numbers = [("Rows read", f"{rows:,}"), ("Sources", str(len(dataset.sources)))]
        claim = "Every row ends once: in train, eval or test, or dropped with a reason."
        proofs.append(Proof("Row ledger", True, claim, numbers))
        proofs.append(Proof("Mask", True, dataset.mask_proof, []))
        proofs.append(Proof("Splits", True, dataset.split_proof, []))
    if reports.dpo and reports.dpo.reference:
        proofs.append(reference_proof(reports.dpo.reference))
    proofs += [merge_proof(merge) for merge in reports.merges.values()]
    return proofs


def reference_proof(proof: ReferenceProof) -> Proof:
    """Return what was checked of the frozen reference."""
    hashes = {proof.reference_sha256_before, proof.reference_sha256_after, proof.sft_sha256}
    return Proof(
        "Reference",
        len(hashes) == 1,
        "DPO starts at its reference, and the reference is the SFT model before and after training.",
        [
            ("Loss before the first update", f"{proof.step0_loss:.6f}"),
            ("Loss at zero log-ratios", f"{proof.expected_loss:.6f}"),
            ("Largest log-probability difference", f"{proof.max_logp_difference:.2g} nats"),
            ("Reference, before", _short(proof.reference_sha256_before)),
            ("Reference, after", _short(proof.reference_sha256_after)),
            ("SFT model", _short(proof.sft_sha256)),
            *_stored(proof),
        ],
    )


def _stored(proof: ReferenceProof) -> list[tuple[str, str]]:
    if not proof.stored_logps:
        return [("Its log-probabilities", "computed with every batch")]
    difference = proof.max_stored_difference or 0.0
    return [("Its log-probabilities", f"scored before training, up to {difference:.2g} nats from fresh ones")]


def merge_proof(merge: MergeReport) -> Proof:
    """Return what was checked of a merged model."""
    return Proof(
        f"Merge, {model_label(merge.stage)}",
        max(merge.max_logit_difference, merge.reload_logit_difference) <= merge.tolerance,
        "The merged model is the adapted one, and the saved folder is the merged model.",
        [
            ("Adapter against merged", f"{merge.max_logit_difference:.2g}"),
            ("Merged against reloaded", f"{merge.reload_logit_difference:.2g}"),
            ("Logit difference allowed", f"{merge.tolerance:.2g}"),
            ("Greedy tokens that agree", f"{merge.greedy_tokens:,}"),
            ("Saved as", merge.dtype),
            ("Parameters", f"{merge.parameters:,}"),
        ],
    )


def _short(sha256: str) -> str:
    return sha256[:12]
