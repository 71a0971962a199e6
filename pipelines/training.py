"""The pipelines: the whole way from base to aligned model, and its halves.

Only wiring stands here. Every step is given its own part of the configuration, so that a changed value re-runs the
steps that depend on it and no others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from zenml import pipeline
from zenml.steps import BaseStep

from llm_engineering.config.measuring import Lineup, Measuring
from llm_engineering.config.run import RunConfig
from llm_engineering.config.training import TrainingSettings
from llm_engineering.data.loading import Origins
from llm_engineering.planning.intent import Intent
from llm_engineering.reports.folders import Checkpoint, StageName
from llm_engineering.training.dpo_arguments import pairs_seen, stores_reference
from pipelines.evidence import add_evidence
from steps.build_preferences import build_preferences
from steps.evaluate import evaluate
from steps.export import export
from steps.format_datasets import format_datasets
from steps.gather_measured import gather_measured
from steps.load_datasets import load_datasets
from steps.merge import merge_dpo, merge_sft
from steps.preflight import preflight
from steps.preview_data import preview_data
from steps.promote import promote
from steps.report import report
from steps.runtime.caching import checker_hash, with_code_dependencies
from steps.score_reference import score_reference
from steps.show_outcomes import show_outcomes
from steps.train_dpo import train_dpo
from steps.train_sft import train_sft

Output = Any
"""What a step hands on while a pipeline is wired: a ZenML artifact, or one to be."""
Run = Callable[[BaseStep], Callable[..., Output]]
"""Makes a step ready to be called: with its cache key and, where pieces are shared between models, only once."""


@dataclass
class Rows:
    """The outputs of the data steps."""

    sft: Output
    preference: Output
    questions: Output
    report: Output
    quarantine: Output
    preflight: Output = None
    """What trainings wait for; None where nothing is trained."""

    @property
    def held_out(self) -> list[Output]:
        """What models are measured on: conversations, pairs, questions."""
        return [self.sft, self.preference, self.questions]


@dataclass(frozen=True)
class Trained:
    """The outputs of one stage: what it was trained to, once merged, and both reports."""

    stage: StageName
    model: Output
    training: Output
    merge: Output


@pipeline
def training(config: RunConfig, base: Checkpoint, origins: Origins, intent: Intent) -> None:
    """Base → SFT → merge → DPO against the frozen SFT model → merge → evaluate → promote."""
    rows = checked_rows(config, base, origins, intent)
    sft = sft_stage(config, base, rows)
    preference_report = sampled_preferences(config, sft.model, rows)
    _conclude(config, base, rows, [sft, dpo_stage(config, sft.model, rows)], preference_report)


@pipeline
def sft(config: RunConfig, base: Checkpoint, origins: Origins, intent: Intent) -> None:
    """Base → SFT → merge → evaluate → promote."""
    rows = checked_rows(config, base, origins, intent)
    _conclude(config, base, rows, [sft_stage(config, base, rows)])


@pipeline
def dpo(config: RunConfig, base: Checkpoint, origins: Origins, intent: Intent) -> None:
    """A model that was fine-tuned already → DPO against it → merge → evaluate → promote."""
    rows = checked_rows(config, base, origins, intent)
    preference_report = sampled_preferences(config, base, rows)
    _conclude(config, base, rows, [dpo_stage(config, base, rows)], preference_report)


@pipeline
def evaluation(config: RunConfig, base: Checkpoint, origins: Origins, models: list[Checkpoint], lineup: Lineup) -> None:
    """Measure the models of an earlier run again, or any others, with the evaluation and the data configured now."""
    _measure(config, base, models, prepared_rows(config, base, origins), lineup)


def prepared_rows(config: RunConfig, base: Checkpoint, origins: Origins, run: Run = with_code_dependencies) -> Rows:
    """Read, format and show the rows."""
    raw_rows = run(load_datasets)(config.data, origins, config.seed)
    prepared = run(format_datasets)(raw_rows, base, config.model, config.data, config.seed)
    rows = Rows(*prepared)
    run(preview_data)(rows.report)
    return rows


def checked_rows(
    config: RunConfig, base: Checkpoint, origins: Origins, intent: Intent, run: Run = with_code_dependencies
) -> Rows:
    """Prepare the rows, and hold what is to be trained on them against them."""
    rows = prepared_rows(config, base, origins, run)
    rows.preflight = run(preflight)(rows.sft, rows.preference, rows.questions, intent)
    return rows


def training_settings(config: RunConfig, stage: StageName) -> TrainingSettings:
    """Return what shapes a training beside its stage's own settings."""
    evaluation = config.evaluation_while_training(config.sft if stage == "sft" else config.dpo)
    loss = checker_hash(config.dpo.loss, "loss") if stage == "dpo" else ""
    return TrainingSettings(
        model=config.model,
        adapter=config.adapter,
        evaluation=evaluation,
        acting=config.watch.acting(stage),
        checker_sha256=checker_hash(evaluation.checker) + loss,
        sharding=config.hardware.sharding,
        seed=config.seed,
    )


def sft_stage(config: RunConfig, base: Output, rows: Rows, run: Run = with_code_dependencies) -> Trained:
    """Train on the SFT rows, and merge."""
    settings = training_settings(config, "sft")
    adapter, training_report = run(train_sft)(rows.sft, rows.questions, base, config.sft, settings, rows.preflight)
    model, merge_report = run(merge_sft)(base, adapter, rows.questions, config.model)
    return Trained("sft", model, training_report, merge_report)


def sampled_preferences(
    config: RunConfig, sft_model: Output, rows: Rows, run: Run = with_code_dependencies
) -> Output | None:
    """Add pairs from the model's own answers to ``rows``, where they are configured."""
    sample = config.data.sampling
    if sample is None:
        return None
    rows.preference, preference_report = run(build_preferences)(
        sft_model,
        rows.questions,
        rows.preference,
        sample,
        config.model,
        config.data.max_length,
        checker_hash(sample.checker),
        config.seed,
    )
    return preference_report


def scored_reference(config: RunConfig, policy: Output, rows: Rows, run: Run = with_code_dependencies) -> Output | None:
    """Score the pairs with the reference, where that pays or may pay; the step knows how many pairs there are."""
    dpo = config.dpo
    if not stores_reference(dpo, rows=0):  # not even for the fewest pairs
        return None
    seen = pairs_seen(dpo) if dpo.reference == "auto" else None
    model, adapter = config.policy_while_scoring()
    return run(score_reference)(rows.preference, policy, model, adapter, dpo.fast_path, dpo.ld_alpha, seen)


def dpo_stage(config: RunConfig, policy: Output, rows: Rows, run: Run = with_code_dependencies) -> Trained:
    """Train on the pairs against ``policy`` itself, and merge."""
    settings, reference = training_settings(config, "dpo"), scored_reference(config, policy, rows, run)
    adapter, training_report = run(train_dpo)(
        rows.preference, rows.questions, policy, config.dpo, settings, rows.preflight, reference
    )
    model, merge_report = run(merge_dpo)(policy, adapter, rows.questions, config.model)
    return Trained("dpo", model, training_report, merge_report)


def measuring(config: RunConfig, first: Literal["test", "eval"] = "test") -> Measuring:
    """Return what measures models, beside models and rows."""
    return Measuring(
        model=config.model,
        evaluation=config.evaluation.of_answers,
        beta=config.dpo.beta,
        seed=config.seed,
        checker_sha256=checker_hash(config.evaluation.checker),
        first=first,
    )


def evaluated(
    config: RunConfig,
    base: Checkpoint,
    models: list[Output],
    rows: Rows,
    lineup: Lineup,
    run: Run = with_code_dependencies,
    first: Literal["test", "eval"] = "test",
) -> tuple[Output, Output]:
    """Measure a line-up; return the evaluation with what a judge and the harness say, and the folder of outcomes."""
    report, outcomes = run(evaluate)(
        base=base, models=models, held_out=rows.held_out, measuring=measuring(config, first), lineup=lineup
    )
    return add_evidence(config, base, report, models, lineup, run), outcomes


def _measure(config: RunConfig, base: Checkpoint, models: list[Output], rows: Rows, lineup: Lineup) -> Output:
    evaluation_report, outcomes = evaluated(config, base, models, rows, lineup)
    with_code_dependencies(show_outcomes)(outcomes)
    return evaluation_report


def _conclude(
    config: RunConfig, base: Checkpoint, rows: Rows, trained: list[Trained], preference_report: Output | None = None
) -> None:
    """Evaluate, promote, export and report; all but the first run every time, since every run makes a model version."""
    models = [one.model for one in trained]
    evaluation_report = _measure(config, base, models, rows, Lineup.of_run([one.stage for one in trained]))
    trainings, merges = [one.training for one in trained], [one.merge for one in trained]
    measured = gather_measured(rows.report, trainings, merges, evaluation_report, preference_report)
    decision = promote(measured, base, models, rows.held_out, measuring(config), config.promotion)
    _, export_report = export(measured, decision, base, models, rows.questions)
    report(measured, decision, export_report)
