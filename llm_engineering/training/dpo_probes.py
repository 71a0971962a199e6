"""What DPO measures at every evaluation beside what both stages measure: how far the policy is from its reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.scoring.answers import Question, ask
from llm_engineering.scoring.likelihood import divergences, labelled
from llm_engineering.training.losses import uses_reference
from llm_engineering.training.probes import asked_questions, how_to_ask, probes
from llm_engineering.training.reference import has_adapter, reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llm_engineering.tracking import Tracker
    from llm_engineering.training.inputs import StageInputs
    from llm_engineering.training.part import Probe


def dpo_probes(
    inputs: "StageInputs", config: DPOStageConfig, tokenizer: "PreTrainedTokenizerBase", tracker: "Tracker"
) -> "list[Probe]":
    """Return what DPO measures at each of its ``evaluation_steps``.

    Raises:
        ConfigError: See :func:`~llm_engineering.training.probes.probes`.
    """
    if not uses_reference(config):
        return probes(inputs, config, tokenizer, tracker)
    found = probes(inputs, config, tokenizer, tracker, reference_of)
    if questions := asked_questions(inputs, config)[: config.kl_answers]:
        found.append(kl_of_samples(questions, inputs.evaluation, tokenizer, inputs.seed))
    return found


def kl_of_samples(
    questions: Sequence[Question], evaluation: EvaluationConfig, tokenizer: "PreTrainedTokenizerBase", seed: int
) -> "Probe":
    """Return a probe that measures the KL from the reference on answers sampled from the policy at temperature 1.

    They are drawn with the same seed every time, so that two evaluations differ by their weights. Nothing is measured
    where no reference is in memory: with stored log-probabilities and a policy that is trained whole.
    """

    def measure(trainer: Any) -> dict[str, float]:
        reference = None if has_adapter(trainer.model) else trainer.ref_model
        if reference is None and not has_adapter(trainer.model):
            return {}
        answers = ask(
            trainer.model, tokenizer, questions, None, temperature=1.0, seed=seed, **how_to_ask(evaluation)
        ).answers
        rows = [labelled(q.prompt_ids, answer.token_ids) for q, answer in zip(questions, answers, strict=True)]
        found = divergences(trainer.model, reference, rows)
        nats, tokens = sum(row.nats for row in found), sum(row.tokens for row in found)
        unfinished = sum(not answer.finished for answer in answers) / len(answers)
        of_tokens = {"kl_per_token": nats / tokens} if tokens else {}
        return {**of_tokens, "kl_per_answer": nats / len(found), "sampled_unfinished": unfinished}

    return measure
