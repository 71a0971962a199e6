"""Collect what came out of a run: its reports and its facts, as far as it came."""

from collections.abc import Mapping
from typing import Any

from zenml.models import PipelineRunResponse

from llm_engineering.reporting.bundle import Measured, RunFacts, RunReports
from llm_engineering.reporting.gathering import gather
from llm_engineering.reports.evaluation import ComparisonReport
from steps.runtime.facts import place_of, run_configuration, run_facts, run_reports


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


def collect(run: PipelineRunResponse, error: str | None = None) -> RunReports:
    """Return the reports of a run, as far as it came."""
    artifacts = [
        (name, versions[0])
        for step in run.steps.values()
        for name, versions in step.outputs.items()
        if versions and name.endswith(("_report", "decision", "measured"))
    ]
    artifacts.sort(key=lambda pair: pair[1].created)  # the evaluation report is made anew once a judge has judged
    loaded: dict[str, Any] = {name: artifact.load() for name, artifact in dict(artifacts).items()}
    measured = loaded.get("measured") or _measured_so_far(run, loaded)
    return run_reports(run, measured, loaded.get("promotion_decision"), loaded.get("export_report"), error)


def _measured_so_far(run: PipelineRunResponse, loaded: Mapping[str, Any]) -> Measured:
    """Return what a run measured that did not come to gather it, or does nothing but measure."""
    trainings, merges = (
        [loaded[name] for name in (f"sft_{kind}", f"dpo_{kind}") if name in loaded]
        for kind in ("report", "merge_report")
    )
    dataset, evaluation, preferences = (
        loaded.get(f"{kind}_report") for kind in ("dataset", "evaluation", "preference")
    )
    return gather(run_configuration(run).watch, dataset, trainings, merges, evaluation, preferences)
