"""The block ``sweep``: its forms, its runs, and what is refused before anything runs."""

from pathlib import Path

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.config.sweep import GridSweep, RandomSweep, SweepRange
from llm_engineering.config.sweeping import sweep_runs
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config([path], overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text, *overrides)
    return str(refused.value).replace(f"{tmp_path}/", "")


def test_the_short_form_is_a_grid_of_all_combinations(tmp_path: Path) -> None:
    config = load(tmp_path, "sweep: {dpo.beta: [0.05, 0.3], dpo.nll_weight: [0, 0.2]}")
    assert config.sweep == GridSweep(values={"dpo.beta": [0.05, 0.3], "dpo.nll_weight": [0, 0.2]})
    runs = sweep_runs(config)
    assert [run.name for run in runs] == [
        "dpo.beta=0.05, dpo.nll_weight=0",
        "dpo.beta=0.05, dpo.nll_weight=0.2",
        "dpo.beta=0.3, dpo.nll_weight=0",
        "dpo.beta=0.3, dpo.nll_weight=0.2",
    ]
    assert [(run.config.dpo.beta, run.config.dpo.nll_weight) for run in runs] == [
        (0.05, 0),
        (0.05, 0.2),
        (0.3, 0),
        (0.3, 0.2),
    ]
    assert all(run.config.sweep is None for run in runs)
    assert runs[0].config.sft == config.sft


def test_set_adds_values_to_a_sweep(tmp_path: Path) -> None:
    config = load(
        tmp_path, "sweep: {dpo.beta: [0.05, 0.3]}", "sweep.dpo.learning_rate=[1e-5]", "sweep.metric=perplexity"
    )
    assert config.sweep is not None
    assert config.sweep.metric == "perplexity"
    assert [run.name for run in sweep_runs(config)] == [
        "dpo.beta=0.05, dpo.learning_rate=1e-05",
        "dpo.beta=0.3, dpo.learning_rate=1e-05",
    ]


def test_the_long_form_says_the_same(tmp_path: Path) -> None:
    short = load(tmp_path, "sweep: {dpo.beta: [0.05], metric: perplexity}")
    assert load(tmp_path, "sweep: {type: grid, values: {dpo.beta: [0.05]}, metric: perplexity}") == short


def test_a_random_sweep_draws_the_same_distinct_runs_every_time(tmp_path: Path) -> None:
    text = """
sweep:
  type: random
  runs: 6
  seed: 1
  values: {dpo.beta: {low: 0.01, high: 1.0, scale: log}, sft.max_steps: {low: 2, high: 4}, dpo.loss: [sigmoid, ipo]}
"""
    config = load(tmp_path, text)
    assert isinstance(config.sweep, RandomSweep)
    assert config.sweep.values["sft.max_steps"] == SweepRange(low=2, high=4)
    runs = sweep_runs(config)
    assert [run.name for run in runs] == [run.name for run in sweep_runs(load(tmp_path, text))]
    assert len({run.name for run in runs}) == 6
    assert all(0.01 <= run.config.dpo.beta <= 1 and run.config.sft.max_steps in (2, 3, 4) for run in runs)
    assert runs != sweep_runs(load(tmp_path, text, "sweep.seed=2"))


def test_a_drawn_number_is_rounded_to_none_beyond_the_range(tmp_path: Path) -> None:
    # Three digits of any number in here are 0.1.
    text = "sweep: {type: random, runs: 1, values: {dpo.beta: {low: 0.10001, high: 0.10002}}}"
    (run,) = sweep_runs(load(tmp_path, text))
    assert run.config.dpo.beta == 0.10001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep:\n  dpo.bta: [0.1]", "run.yaml, line 2: dpo.bta is not a known key; did you mean beta?"),
        ("sweep:\n  dpo.beta: [0.1,\n    -3]", "run.yaml, line 3: dpo.beta must be greater than 0, got -3."),
        ("sweep:\n  dpo.beta: [0.1, x]", "run.yaml, line 2: dpo.beta must be a number, got 'x'."),
        ("sweep:\n  tracking.type: [none]", "line 2: tracking.type cannot be swept; a sweep changes keys of"),
        ("sweep:\n  seed: [1, 2]", "run.yaml, line 2: sweep.seed is not a known key"),
        ("sweep:\n  data.test_share: [0.1]", "line 2: data.test_share cannot be swept: all runs read the same rows"),
        ("sweep: {dpo.beta: 0.1}", "run.yaml, line 1: sweep.values.dpo.beta must be a list, got 0.1."),
        ("sweep: {dpo.beta: []}", "run.yaml, line 1: sweep.values.dpo.beta"),
        ("sweep: {dpo.beta: [0.1, 0.1]}", "line 1: the sweep has the run dpo.beta=0.1 twice; name each value once."),
        ("sweep: {type: best}", "run.yaml, line 1: sweep.type must be grid or random, got 'best'."),
        ("sweep: {}", "sweep.values"),
        ("sweep: {type: random, runs: 9, values: {dpo.loss: [ipo, hinge]}}", "runs is 9, but there are hardly 2"),
        ("sweep: {type: random, runs: 2, values: {dpo.beta: {low: 2, high: 1}}}", "low (2) must be below high (1)"),
        ("sweep: {data.sft.3.first: [1]}", "run.yaml, line 1: data.sft is an empty list"),
        ("sweep: {dpo.loss: [ipo, sigmoid], dpo.label_smoothing: [0.1]}", "label_smoothing does nothing for the loss"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, text)


def test_a_sweep_of_hundreds_of_runs_is_refused(tmp_path: Path) -> None:
    values = ", ".join(str(number / 100) for number in range(1, 301))
    assert "the sweep has 300 runs; try fewer values, at most 256 runs" in refusal(
        tmp_path, f"sweep: {{dpo.beta: [{values}]}}"
    )


def test_no_sweep_in_the_configuration_says_how_to_add_one() -> None:
    with pytest.raises(ConfigError, match=r"Add one, such as `sweep: \{dpo.beta: \[0.05, 0.1\]\}`"):
        sweep_runs(RunConfig())
