import json
import math

import pytest
from comparisons import build_comparison, build_run, build_sweep

from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.summary import build_comparison_summary, build_summary
from llm_engineering.reports.data import DatasetReport, PreferenceReport


def test_the_summary_of_a_whole_run_has_every_documented_key(example_run: RunReports) -> None:
    summary = build_summary(example_run)
    assert list(summary) == [
        "run",
        "model",
        "data",
        "promotion",
        "exports",
        "training",
        "models",
        "proofs",
        "tracker",
        "artifacts",
    ]
    run = summary["run"]
    assert isinstance(run, dict)
    assert (run["name"], run["status"], run["error"]) == (example_run.run.name, "completed", None)
    assert run["step_seconds"]["train_dpo"] == 44.7
    assert run["cached_steps"] == ["load_datasets", "format_datasets"]
    assert summary["model"] == {"name": "embedded-default", "version": "7", "stage": "staging"}
    assert summary["promotion"] == {
        "promoted": "dpo",
        "stage": "staging",
        "reason": "DPO is no worse than its SFT model and than version 6 on every metric that decides.",
    }
    assert summary["artifacts"] == {
        "sft_model": "/store/merge_sft/model/9a1",
        "dpo_model": "/store/merge_dpo/model/4c2",
        "report": "/store/promote/report/html",
    }


def test_rows_are_summed_over_the_sources_of_a_kind(example_run: RunReports) -> None:
    data = build_summary(example_run)["data"]
    assert isinstance(data, dict)
    # embedded + extra.jsonl: 2184 + 100 rows; 1560 + 88 train; 192 + 5 eval; 384 + 0 test; 12 + 0 truncated
    assert data["sft"] == {
        "rows": 2284,
        "train": 1648,
        "eval": 197,
        "test": 384,
        "examples": 0,
        "truncated": 12,
        "tokens_lost": 310,
        "trained_tokens_lost": 0,
        "answers_cut": 0,
        "dropped": {"exact duplicate": 40, "too long": 8, "empty answer": 5, "leaked into evaluation": 2},
        "found": {},
    }
    assert 1648 + 197 + 384 + (40 + 8 + 5 + 2) == 2284


def test_sampled_pairs_count_as_preference_rows(example_run: RunReports) -> None:
    data = build_summary(example_run)["data"]
    assert isinstance(data, dict)
    # 512 train + 40 eval
    assert data["preference"] == {
        "rows": 552,
        "train": 512,
        "eval": 40,
        "test": 0,
        "examples": 552,
        "truncated": 0,
        "tokens_lost": 0,
        "trained_tokens_lost": 0,
        "answers_cut": 0,
        "dropped": {},
        "found": {},
    }


def test_examples_cuts_and_rows_that_were_kept_are_summed(example_run: RunReports, rich_data: DatasetReport) -> None:
    data = build_summary(example_run.model_copy(update={"dataset": rich_data}))["data"]
    assert isinstance(data, dict)
    # 207,940 + 243 examples; pairs: 24,934 from the source + 552 sampled
    assert (data["sft"]["examples"], data["preference"]["examples"]) == (208_183, 25_486)
    assert (data["sft"]["tokens_lost"], data["sft"]["trained_tokens_lost"]) == (1_310_220, 88_017)
    assert (data["sft"]["answers_cut"], data["sft"]["found"]) == (31, {"exact duplicate": 7})


def test_models_are_reduced_to_their_values(example_run: RunReports) -> None:
    models = build_summary(example_run)["models"]
    assert isinstance(models, dict)
    assert set(models) == {"base", "sft", "dpo"}
    assert models["dpo"]["preferred_rate"] == 0.956
    assert models["base"]["perplexity"] == 38.7


def test_training_holds_speed_and_final_metrics(example_run: RunReports) -> None:
    training = build_summary(example_run)["training"]
    assert isinstance(training, dict)
    assert training["sft"]["tokens_per_second"] == 8421.0
    assert "pairs_per_second" not in training["sft"]
    assert training["sft"]["resumed_from"] == 200
    assert (training["sft"]["path"], training["dpo"]["path"]) == ("fast", "TRL's own: attention dropout")
    assert training["dpo"]["pairs_per_second"] == 67.1
    assert (training["dpo"]["steps"], training["dpo"]["planned_steps"]) == (180, 240)
    assert training["dpo"]["metrics"] == {"loss": 0.21, "rewards/accuracies": 0.94}


def test_proofs_come_with_their_numbers(example_run: RunReports) -> None:
    proofs = build_summary(example_run)["proofs"]
    assert isinstance(proofs, dict)
    assert (proofs["step0_loss"], proofs["expected_step0_loss"]) == (0.6931472, 0.6931472)
    assert proofs["reference_hash"] == proofs["reference_hash_after"] == proofs["sft_hash"] == "5f7e" * 16
    assert proofs["merge"]["dpo"] == {
        "max_logit_difference": 8.1e-6,
        "reload_logit_difference": 0.0,
        "greedy_tokens": 192,
    }
    assert "trained EOS" in proofs["mask"]
    assert "held-out prompts" in proofs["splits"]


def test_every_tracker_is_listed_with_what_it_has(example_run: RunReports) -> None:
    assert build_summary(example_run)["tracker"] == [
        {"stage": "sft", "offline_archive": "/runs/comet/aa11.zip", "failures": 0},
        {"stage": "dpo", "url": "https://www.comet.com/me/llm-engineering/bb22", "failures": 1},
    ]


def test_a_failed_run_reports_its_error_and_what_there_is(example_run: RunReports) -> None:
    facts = RunFacts(name="n", id="i", pipeline="training", status="failed", seconds=3.0, error="No space is left.")
    summary = build_summary(RunReports(run=facts, dataset=example_run.dataset))
    assert isinstance(summary["run"], dict)
    assert (summary["run"]["status"], summary["run"]["error"]) == ("failed", "No space is left.")
    assert isinstance(summary["data"], dict)
    assert list(summary["data"]) == ["sft"]
    assert (summary["model"], summary["promotion"]) == (None, None)
    assert (summary["training"], summary["models"], summary["tracker"]) == ({}, {}, [])
    assert isinstance(summary["proofs"], dict)
    assert summary["proofs"]["step0_loss"] is None


def test_the_summary_is_json_even_with_numbers_that_json_has_not(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    metrics = {"loss": math.nan, "grad_norm": math.inf, "rewards/margins": 1.5}
    run = example_run.model_copy(update={"dpo": example_run.dpo.model_copy(update={"metrics": metrics})})
    read = json.loads(json.dumps(build_summary(run), allow_nan=False))
    assert read["training"]["dpo"]["metrics"] == {"loss": None, "grad_norm": None, "rewards/margins": 1.5}


def test_pairs_from_files_and_from_samples_add_up(example_run: RunReports) -> None:
    assert example_run.dataset is not None
    assert isinstance(example_run.preferences, PreferenceReport)
    as_pairs = [source.model_copy(update={"kind": "preference"}) for source in example_run.dataset.sources]
    run = example_run.model_copy(update={"dataset": example_run.dataset.model_copy(update={"sources": as_pairs})})
    data = build_summary(run)["data"]
    assert isinstance(data, dict)
    # 2284 from files + 552 sampled
    assert data["preference"]["rows"] == 2836
    assert "sft" not in data


def test_training_holds_the_verdicts_and_the_first_attempt(watched_run: RunReports) -> None:
    training = build_summary(watched_run)["training"]
    assert isinstance(training, dict)
    sft, dpo = training["sft"], training["dpo"]
    assert [verdict["name"] for verdict in sft["verdicts"]] == ["healthy"]
    assert (sft["stopped_by"], sft["restarted_with_nll"], sft["first_attempt"]) == (None, None, None)
    assert dpo["verdicts"][0] == {
        "name": "no_signal",
        "evidence": "The margin is 0.",
        "remedy": "Check the labels.",
        "first_seen": 30,
    }
    assert (dpo["stopped_by"]["name"], dpo["restarted_with_nll"]) == ("no_signal", 1.0)
    assert [verdict["name"] for verdict in dpo["first_attempt"]["verdicts"]] == ["displaced"]


def test_the_summary_of_a_comparison_has_every_model_and_why_others_are_missing() -> None:
    summary = build_comparison_summary(build_comparison(), build_run("comparison"))
    json.dumps(summary, allow_nan=False)
    assert (summary["kind"], summary["metric"], summary["best"]) == ("comparison", "preferred_rate", "sft_dpo_nll")
    variants, models, intervals = summary["variants"], summary["models"], summary["intervals"]
    assert isinstance(variants, dict)
    assert isinstance(models, dict)
    assert isinstance(intervals, dict)
    assert variants["dpo_nll"]["error"].startswith("The loss is no number")
    assert list(variants["sft_dpo"]["training"]) == ["sft", "dpo"]
    assert models["sft_dpo"]["preferred_rate"] == 0.955
    assert "dpo_nll" not in models
    assert intervals["sft"]["answer_tokens"] == pytest.approx([19.0, 20.6])
    assert "house_style" not in intervals["sft"]
    assert isinstance(summary["differences"], list)
    assert summary["differences"][0]["candidate"] == "sft"


def test_the_summary_of_a_sweep_says_what_became_of_the_best_run(example_run: RunReports) -> None:
    summary = build_comparison_summary(build_sweep(), build_run("sweep"), example_run.decision)
    assert isinstance(summary["promotion"], dict)
    assert summary["promotion"]["promoted"] == "dpo"
    assert isinstance(summary["variants"], dict)
    assert summary["variants"]["dpo.beta=0.1, dpo.nll_weight=0"]["changes"] == {"dpo.beta": 0.1, "dpo.nll_weight": 0.0}


def test_the_code_and_the_machine_stand_with_the_run() -> None:
    run = build_comparison_summary(build_comparison(), build_run("comparison"))["run"]
    assert isinstance(run, dict)
    assert (run["code_commit"], run["code_dirty"], run["seed"]) == ("0f3a" * 10, True, 42)
