"""What is measured of models beside the evaluation's own numbers: by a judge, and by the lm-evaluation-harness.

Each has its own step, so that another judge or another task generates and judges nothing else anew.
"""

from collections.abc import Callable
from typing import Any

from llm_engineering.config.measuring import Lineup
from llm_engineering.config.run import RunConfig
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.harness import tasks_hash
from steps.gather_evidence import gather_evidence
from steps.judge import judge
from steps.run_harness import run_harness
from steps.runtime.caching import with_code_dependencies


def add_evidence(
    config: RunConfig,
    base: Checkpoint,
    evaluation_report: Any,
    models: list[Any],
    lineup: Lineup,
    run: Callable[[Any], Any] = with_code_dependencies,
) -> Any:
    """Return the evaluation's report with what a judge and the harness say, where they are configured.

    Args:
        config: The run's.
        base: The base model.
        evaluation_report: What the step ``evaluate`` gave.
        models: Those that the line-up names.
        lineup: Which models are measured.
        run: Makes a step ready to be called.
    """
    wanted = config.evaluation
    if wanted.judge is None and wanted.harness is None:
        return evaluation_report
    judge_report = harness_report = None
    if wanted.judge is not None:
        judge_report, _ = run(judge)(evaluation_report, wanted.judge.deciding, config.seed)
    if wanted.harness is not None:
        tasks = tasks_hash(wanted.harness)
        harness_report = run(run_harness)(base, models, lineup, config.model, wanted.harness, tasks, config.seed)
    return run(gather_evidence)(evaluation_report, judge_report, harness_report)
