import math
import re

import pytest
from comparisons import build_comparison, build_run, build_sweep, training
from pages import Outline, words

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.compared import ranked, titles_of
from llm_engineering.reporting.comparison_curves import MOST_LINES, lines, stage_curves, sweep_curves
from llm_engineering.reporting.comparison_page import render_comparison
from llm_engineering.reporting.drawings import look
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import ComparisonReport, Variant
from llm_engineering.reports.training import TrackerLink


@pytest.fixture(scope="module")
def comparison() -> str:
    return render_comparison(build_comparison(), build_run("comparison"), config_yaml="seed: 42\n")


@pytest.fixture(scope="module")
def sweep() -> str:
    return render_comparison(build_sweep(), build_run("sweep"))


def test_a_comparison_has_every_section(comparison: str) -> None:
    outline = Outline(comparison)
    assert outline.open == []
    assert outline.headings == [
        "SFT → DPO + NLL is the best of 6 models by preferred answers.",
        "What was done",
        "What was measured",
        "Model against model",
        "Answers side by side",
        "Training",
        "Proofs",
        "Where it comes from",
    ]
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe", "object", "form"}


def test_every_model_says_how_it_was_made_and_a_failed_one_why_it_is_missing(comparison: str) -> None:
    text = words(comparison)
    assert "SFT → DPO 95.5 % 92.3 to 98.7 SFT, 180 steps → DPO, 180 steps displaced, from step 40 1 min 26 s" in text
    assert "DPO + NLL - ✗ failed The loss is no number from step 12 on. Lower dpo.learning_rate." in text
    assert "2 of 8 failed; what they had in common with others is kept." in text


def test_all_metrics_of_all_models_stand_in_one_table_by_what_they_measure(comparison: str) -> None:
    assert comparison.count('<table class="scores') == 1
    assert re.findall(r'rowgroup" colspan="7">([^<]*)', comparison) == [
        "Greedy answers",
        "Sampled answers",
        "Length of answers",
        "Likelihood of held-out answers",
        "Preference on held-out pairs",
        "Distance from the parent",
        "Judge",
        "Tasks",
        "Other",
    ]
    text = words(comparison)
    assert "Judged better than Base higher is better, 201 units 40.0 %" in text
    assert "arc_easy/acc higher is better, 100 units 25.0 %" in text


def test_differences_are_told_in_words_with_their_p_values(comparison: str) -> None:
    text = words(comparison)
    assert "SFT → DPO against SFT Better in preferred answers (+93.5 points); no difference shown in 1 more." in text
    assert "Preferred answers +93.5 points +90.5 to +96.5 p &lt; 0.001 201 ✓ better" in text
    assert "Right answers -2.5 points -5.5 to +0.5 p = 0.410 201 no difference shown" in text


def test_a_training_that_models_share_is_drawn_once_and_looks_the_same_everywhere() -> None:
    variants = build_comparison().variants
    assert [(line.label, line.index) for line in lines(variants, "sft")] == [("SFT", 0), ("SFT on chosen", 4)]
    assert [(line.label, line.index) for line in lines(variants, "dpo")] == [
        ("DPO", 1),
        ("SFT → DPO", 2),
        ("SFT → DPO + NLL", 3),
    ]
    assert [line.label for line in lines(build_sweep().variants, "sft")] == ["shared by all"]


def test_each_stage_draws_what_was_logged() -> None:
    variants = build_comparison().variants
    assert [curve.title for curve in stage_curves(lines(variants, "sft"), "sft")] == ["SFT loss", "SFT token accuracy"]
    titles = [curve.title for curve in stage_curves(lines(variants, "dpo"), "dpo")]
    assert titles == [
        "DPO loss",
        "Reward of chosen answers",
        "Reward of rejected answers",
        "Reward margin: chosen minus rejected",
        "Log-ratio of chosen answers, nats an answer",
        "Log-ratio of rejected answers, nats an answer",
        "KL from the reference, nats a token",
        "Right answers to held-out prompts",
    ]


def test_the_first_thirty_two_lines_look_different() -> None:
    assert len({repr(look(index)) for index in range(32)}) == 32


def test_more_trainings_than_can_be_told_apart_are_counted_not_drawn() -> None:
    variants = [
        Variant(name=f"v{n}", title=f"v{n}", trainings=[training("dpo", seed=n)]) for n in range(MOST_LINES + 3)
    ]
    report = ComparisonReport(kind="comparison", variants=variants, seconds=1.0)
    assert "3 more trainings are not drawn" in words(render_comparison(report, build_run("comparison")))


def test_a_sweep_ranks_its_runs_with_their_values_and_the_failed_last(sweep: str) -> None:
    assert [variant.changes["dpo.beta"] for variant in ranked(build_sweep())] == [0.1, 0.1, 0.05, 0.05, 0.3, 0.3]
    text = words(sweep)
    assert "All runs start from the same configuration and differ in dpo.beta and dpo.nll_weight" in text
    assert "beta 0.1, nll_weight 0.2 best 0.1 0.2 97.5 %" in text
    assert "beta 0.3, nll_weight 0.2 0.3 0.2 - ✗ failed DPO: no space is left on the disk." in text


def test_runs_whose_values_are_long_are_called_by_their_place() -> None:
    sweep = build_sweep()
    long = [v.model_copy(update={"changes": v.changes | {"data.sft": f"{v.name} of many"}}) for v in sweep.variants]
    titles = titles_of(sweep.model_copy(update={"variants": long}))
    assert titles[sweep.best or ""] == "run 1"
    assert sorted(titles.values()) == [f"run {place}" for place in range(1, 7)]


def test_a_key_that_all_runs_have_alike_is_not_in_their_names() -> None:
    sweep = build_sweep()
    alike = [v.model_copy(update={"changes": v.changes | {"sft.epochs": 2, "sft.beta": 1}}) for v in sweep.variants]
    assert titles_of(sweep.model_copy(update={"variants": alike}))[sweep.best or ""] == "beta 0.1, nll_weight 0.2"


def test_a_metric_for_which_less_is_better_ranks_upwards() -> None:
    sweep = build_sweep().model_copy(update={"metric": "flaws_per_answer"})
    # flaws = 1.1 * (1 - preferred): fewest where most are preferred
    assert [variant.changes["dpo.beta"] for variant in ranked(sweep)][:2] == [0.1, 0.1]


def test_the_metric_is_drawn_against_every_key_that_takes_several_values() -> None:
    titles = [curve.title for curve in sweep_curves(build_sweep())]
    assert titles == ["Preferred answers against dpo.beta", "Preferred answers against dpo.nll_weight"]
    alike = [v.model_copy(update={"changes": v.changes | {"dpo.beta": 0.1}}) for v in build_sweep().variants]
    (one,) = sweep_curves(build_sweep().model_copy(update={"variants": alike}))
    assert one.title == "Preferred answers against dpo.nll_weight"


@pytest.mark.parametrize("values", [[None, "ipo", True, 0.1, 2], [10.0**-n for n in range(12)], [1.0]])
def test_a_key_of_any_values_is_drawn(values: list[object]) -> None:
    sweep = build_sweep()
    runs = [v for v in sweep.variants if v.error is None]
    wild = [
        runs[n % len(runs)].model_copy(update={"changes": {"dpo.loss": value}}) for n, value in enumerate([*values, 7])
    ]
    (curve,) = sweep_curves(sweep.model_copy(update={"variants": wild}))
    assert curve.svg.startswith("<svg")


def test_values_that_are_no_numbers_are_neither_best_nor_drawn() -> None:
    sweep = build_sweep()
    assert sweep.evaluation is not None
    first = sweep.variants[0].name
    scores = sweep.evaluation.models[first]
    nan = scores.metrics["preferred_rate"].model_copy(update={"value": math.nan, "low": None, "high": None})
    models = sweep.evaluation.models | {
        first: scores.model_copy(update={"metrics": {**scores.metrics, "preferred_rate": nan}})
    }
    spoiled = sweep.model_copy(update={"evaluation": sweep.evaluation.model_copy(update={"models": models})})
    assert ranked(spoiled)[-2].name == first  # before the one that failed
    assert 'class="value">nan %' in render_comparison(spoiled, build_run("sweep"))


def test_what_failed_altogether_is_said() -> None:
    variants = [Variant(name="sft", title="SFT", error="There are no rows.")]
    report = ComparisonReport(kind="comparison", variants=variants, seconds=0.1)
    outline = Outline(render_comparison(report, build_run("comparison")))
    assert outline.headings == [
        "Nothing could be compared: every model failed.",
        "What was done",
        "Where it comes from",
    ]


def test_data_lineage_and_decision_stand_on_the_page(example_run: RunReports, rich_data: DatasetReport) -> None:
    text = words(
        render_comparison(
            build_sweep(),
            build_run("sweep"),
            dataset=rich_data,
            decision=example_run.decision,
            packages={"torch": "2.13.0"},
        )
    )
    assert "DPO is no worse than its SFT model and than version 6" in text
    assert f"Code commit {'0f3a' * 10}, with changes that are in no commit" in text
    assert "Started on CPU, 2 threads; Linux x86_64, 2 cores; Python 3.11.9 Seed 42" in text
    assert "Packages torch 2.13.0" in text
    assert "load_datasets - cached" in text
    assert rich_data.mask_proof in text


def test_proofs_of_a_shared_piece_count_once(comparison: str) -> None:
    # three DPO references; all merges of one stage have the same numbers here: one each
    assert "5 of 5 proofs hold" in words(comparison)


def test_trackers_are_linked_once() -> None:
    report = build_comparison()
    assert report.evaluation is not None
    link = TrackerLink(stage="evaluation", url="https://www.comet.com/me/p/1")
    report = report.model_copy(update={"evaluation": report.evaluation.model_copy(update={"tracker": link})})
    page = render_comparison(report, build_run("comparison"))
    assert [a["href"] for tag, a in Outline(page).tags if tag == "a"] == ["https://www.comet.com/me/p/1"]
    assert page.count("comet upload") == 2  # one archive a stage
