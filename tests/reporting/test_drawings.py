import math
import re
from xml.etree import ElementTree

import pytest

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.drawings import training_curves
from llm_engineering.reports.training import TrainingReport
from llm_engineering.scoring.intervals import smoothed


def with_history(report: TrainingReport, history: list[dict[str, float]]) -> TrainingReport:
    return report.model_copy(update={"history": history})


def test_the_moving_average_starts_at_the_first_value() -> None:
    # span 3: weight 1/2. 4.0; (4/4 + 2/2) / (3/4) = 8/3; (4/8 + 2/4 + 0/2) / (7/8) = 8/7
    averages = smoothed([(1, 4.0), (2, 2.0), (3, 0.0)], span=3)
    assert averages == [(1, pytest.approx(4.0)), (2, pytest.approx(8 / 3)), (3, pytest.approx(8 / 7))]


def test_each_stage_draws_what_it_logged(example_run: RunReports) -> None:
    assert example_run.sft is not None
    assert example_run.dpo is not None
    assert [curve.title for curve in training_curves(example_run.sft)] == ["Loss", "Token accuracy"]
    assert [curve.title for curve in training_curves(example_run.dpo)] == [
        "Loss",
        "Rewards",
        "Reward margin: chosen minus rejected",
        "Reward accuracy: chosen above rejected",
        "Log-probability of the answers, nats",
        "Generated answers to held-out prompts",
        "Score of generated answers",
        "KL from the reference, nats a token",
    ]


def test_a_stage_without_a_log_has_no_curves(example_run: RunReports) -> None:
    assert example_run.sft is not None
    assert training_curves(with_history(example_run.sft, [])) == []


def test_the_same_history_gives_the_same_drawing(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    assert training_curves(example_run.dpo) == training_curves(example_run.dpo)


def test_drawings_are_well_formed_and_bring_nothing_of_their_own_into_the_page(example_run: RunReports) -> None:
    assert example_run.sft is not None
    assert example_run.dpo is not None
    ids: list[str] = []
    for curve in training_curves(example_run.sft) + training_curves(example_run.dpo):
        ElementTree.fromstring(curve.svg)
        assert not re.search(
            r"<style|<script|<metadata|<!--|http://(?!www\.w3\.org/2000/svg)|#01020|font-family", curve.svg
        )
        assert len(curve.svg) < 16_000
        ids += re.findall(r' id="([^"]+)"', curve.svg)
    assert len(ids) == len(set(ids))


def test_lines_take_the_pages_colours(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    rewards = next(curve for curve in training_curves(example_run.dpo) if curve.title == "Rewards")
    assert {"var(--curve-1, #0072b2)", "var(--curve-2, #d55e00)", "currentColor"} <= set(
        re.findall(r"var\([^)]*\)|currentColor", rewards.svg)
    )
    assert set(re.findall(r"#[0-9a-f]{6}\b", rewards.svg)) == {"#0072b2", "#d55e00"}


def test_a_single_entry_and_values_that_are_no_numbers_are_drawn(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    history = [
        {"step": 1, "loss": math.nan, "rewards/margins": math.inf},
        {"step": 2, "loss": 0.7, "rewards/margins": math.nan},
    ]
    assert [curve.title for curve in training_curves(with_history(example_run.dpo, history))] == ["Loss"]


def test_held_out_values_are_drawn_without_training_values(example_run: RunReports) -> None:
    assert example_run.sft is not None
    (curve,) = training_curves(with_history(example_run.sft, [{"step": 5, "eval_loss": 2.0}]))
    assert curve.title == "Loss"
