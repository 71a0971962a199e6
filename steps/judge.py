"""Step: let a language model judge the answers."""

import logging
from datetime import UTC, datetime
from typing import Annotated

from zenml import get_step_context, step
from zenml.client import Client

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.reports.evaluation import EvaluationReport, JudgeReport
from llm_engineering.reports.folders import Folder
from llm_engineering.scoring.judge.judging import judge_answers, write_verdicts
from steps.runtime.context import judge_key, judge_settings, log_facts
from steps.runtime.resumable import training_folder
from steps.runtime.traits import traits
from steps.runtime.work import keep_work_folder

_log = logging.getLogger(__name__)


@traits(resumable=True)
@step
def judge(
    evaluation_report: EvaluationReport,
    judge: OpenAIJudge,  # what shapes verdicts; time-outs, prices and keys travel in the run's settings
    seed: int,
) -> tuple[Annotated[JudgeReport, "judge_report"], Annotated[Folder, "judge_verdicts"]]:
    """Ask the judge; where it failed, the evaluation goes on without it, and the next run asks for what is missing."""
    with training_folder() as (folder, finished):
        if finished:
            return finished["judge_report"], finished["judge_verdicts"]
        config = judge_settings(judge)
        report, verdicts = judge_answers(evaluation_report, config, seed, folder, judge_key(config))
        written = write_verdicts(verdicts, folder)
        facts = {"judge", "endpoint", "disagreement", "requests", "input_tokens", "output_tokens", "cost", "error"}
        log_facts(report.model_dump(include=facts))
        for note in report.notes:
            (_log.info if report.complete else _log.warning)(note)
        if not report.complete:
            keep_work_folder(folder)
            Client().update_step_run(get_step_context().step_run.id, cache_expires_at=datetime.now(UTC))
    return report, written
