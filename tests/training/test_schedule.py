"""Where fewer rows came than there could have been, the schedule keeps its parts of the training."""

from pathlib import Path

import pytest

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training.launcher import Trained, launch
from llm_engineering.training.schedule import shortened
from llm_engineering.training.stage import StageInputs


def came(train: int, most: int, eval: int = 4) -> RowSet:
    return RowSet(path=Path("rows"), sha256="a", rows={"train": train, "eval": eval}, most=most)


BASE = Checkpoint(path=Path("base"), sha256="a", kind="model", weights_sha256="b", base="embedded", base_sha256="b")
REPORT = TrainingReport(
    stage="dpo",
    steps=8,
    planned_steps=8,
    epochs=1.0,
    seconds=1.0,
    rows=32,
    effective_batch=4,
    trainable_parameters=1,
    parameters=2,
    history=[],
    metrics={},
    hardware="CPU",
    notes=["already noted"],
)
CONFIG = DPOStageConfig(batch_size=4, warmup=10, evaluation_steps=6, save_steps=7, best_metric="loss")


def test_warmup_evaluations_and_checkpoints_are_shortened_in_proportion() -> None:
    # 80 rows: 20 steps; 32 rows: 8 steps. 10 * 8 / 20 = 4, 6 * 8 / 20 = 2.4, 7 * 8 / 20 = 2.8
    fitted, notes = shortened("dpo", CONFIG, came(32, most=80))
    assert (fitted.warmup, fitted.evaluation_interval, fitted.save_steps) == (4, 2, 2)
    assert notes == [
        "32 of at most 80 rows came for dpo, which makes 8 steps of 20: shortened in proportion are save_steps 7 → 2, "
        "warmup 10 → 4, evaluation_steps 6 → 2."
    ]


def test_evaluations_by_examples_are_shortened_alike() -> None:
    config = CONFIG.model_copy(update={"evaluation_steps": None, "evaluation_examples": 24})
    assert shortened("dpo", config, came(32, most=80))[0].evaluation_interval == 2


def test_one_pair_leaves_a_schedule_that_runs() -> None:
    fitted, _ = shortened("dpo", CONFIG, came(1, most=80))
    assert (fitted.warmup, fitted.evaluation_interval, fitted.save_steps) == (0, 1, 1)


def test_nothing_is_shortened_where_all_rows_came_or_steps_are_counted() -> None:
    assert shortened("dpo", CONFIG, came(80, most=80)) == (CONFIG, [])
    assert shortened("dpo", CONFIG, came(80, most=0)) == (CONFIG, [])
    counted = CONFIG.model_copy(update={"max_steps": 20})
    assert shortened("dpo", counted, came(32, most=80)) == (counted, [])


def test_a_share_of_the_steps_stays_the_share() -> None:
    config = DPOStageConfig(batch_size=4, warmup=0.1, save_steps=1)
    assert shortened("dpo", config, came(32, most=80)) == (config, [])


def test_a_best_metric_without_held_out_pairs_is_given_up_and_said() -> None:
    fitted, notes = shortened("dpo", CONFIG.model_copy(update={"patience": 2}), came(32, most=80, eval=0))
    assert (fitted.best_metric, fitted.patience) == (None, None)
    assert notes[-1] == "dpo.best_metric loss chooses nothing: no held-out rows came."


def test_what_was_shortened_trains_and_stands_in_the_report_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    trained: list[DPOStageConfig] = []

    def train(config: DPOStageConfig, inputs: StageInputs) -> Trained:
        trained.append(config)
        return BASE, REPORT

    inputs = StageInputs(base=BASE, rows=came(32, most=80), questions=came(1, most=0), work_dir=Path("work"))
    _, report = launch("dpo", train, CONFIG, inputs)
    assert trained[0].warmup == 4
    assert report.notes[0].startswith("32 of at most 80 rows came for dpo")
    assert report.notes[-1] == "already noted"
    assert report.notes[0] in caplog.text
