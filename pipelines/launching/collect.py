"""Collect what came out of a run: its reports and its facts, as far as it came."""

from typing import Any

from zenml.models import PipelineRunResponse

from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import dump_config
from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import TrackerLink
from llm_engineering.training.watch import judged_anew
from steps.runtime.caching import packages
from steps.runtime.facts import place_of, run_facts


def compared(run: PipelineRunResponse) -> tuple[ComparisonReport, RunFacts]:
    """Return the report of a comparison or a sweep, and its facts: its artifacts are the page and every model."""
    outputs = [(name, versions[0]) for step in run.steps.values() for name, versions in step.outputs.items()]
    report: ComparisonReport = next(found for name, found in outputs if name == "comparison_report").load()
    facts = run_facts(run)
    models = {
        str(found.run_metadata["weights_sha256"]): place_of(found)
        for name, found in outputs
        if name in ("sft_model", "dpo_model")
    }
    made = {one.name: models[one.model_sha256] for one in report.variants if one.model_sha256 in models}
    return report, facts.model_copy(update={"artifacts": {"report": facts.artifacts["comparison_page"], **made}})


def collect(config: RunConfig, run: PipelineRunResponse, error: str | None = None) -> RunReports:
    """Return the reports of a run, as far as it came."""
    artifacts = [
        (name, versions[0])
        for step in run.steps.values()
        for name, versions in step.outputs.items()
        if versions and name.endswith(("_report", "decision"))
    ]
    artifacts.sort(key=lambda pair: pair[1].created)  # the evaluation report is made anew once a judge has judged
    loaded: dict[str, Any] = {name: artifact.load() for name, artifact in dict(artifacts).items()}
    decision: PromotionDecision | None = loaded.get("promotion_decision")
    merges = {stage: loaded.get(f"{stage}_merge_report") for stage in ("sft", "dpo")}
    evaluation: EvaluationReport | None = loaded.get("evaluation_report")
    return RunReports(
        run=run_facts(run, error, decision.stage if decision and decision.promoted else None),
        dataset=loaded.get("dataset_report"),
        preferences=loaded.get("preference_report"),
        sft=judged_anew(loaded.get("sft_report"), config.watch, evaluation),
        dpo=judged_anew(loaded.get("dpo_report"), config.watch, evaluation),
        merges={stage: report for stage, report in merges.items() if report is not None},
        evaluation=evaluation,
        decision=decision,
        exports=loaded.get("export_report"),
        config_yaml=dump_config(config),
        published=_published(run),
        packages=packages(),
    )


def _published(run: PipelineRunResponse) -> TrackerLink | None:
    """Return where the report was logged, from its step's metadata: nothing comes after the report."""
    step = run.steps.get("report")
    facts = step.run_metadata if step else {}
    url, archive = facts.get("comet"), facts.get("comet_offline_archive")
    if not url and not archive:
        return None
    key = facts.get("comet_experiment")
    return TrackerLink(
        stage="report",
        url=str(url) if url else None,
        offline_archive=str(archive) if archive else None,
        key=str(key) if key else None,
    )
