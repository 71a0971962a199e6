from comparisons import build_comparison, build_sweep
from rich.console import Console

from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.run_text import closing, comparison_closing, places
from llm_engineering.reports.evaluation import ComparisonReport, SampleAnswers


def shown(reports: RunReports, width: int = 110) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(closing(reports))
    return capture.get()


def test_scores_stand_side_by_side_with_intervals_and_the_best_marked(example_run: RunReports) -> None:
    lines = [" ".join(line.split()) for line in shown(example_run).splitlines()]
    assert "Preferred answers, % 0.0 [0.0, 1.6] 4.4 [2.1, 7.9] 95.6 [92.1, 97.9] *" in lines
    assert "KL from reference, nats/token - 0.0000 0.0213" in lines
    assert "house_style - - 0.5000" in lines


def test_a_narrow_terminal_gets_the_scores_without_intervals(example_run: RunReports) -> None:
    text = shown(example_run, width=80)
    assert "Preferred answers, % 0.0 4.4 95.6 *" in [" ".join(line.split()) for line in text.splitlines()]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_on_forty_columns_no_name_and_no_score_is_cut(example_run: RunReports) -> None:
    text = shown(example_run, width=40)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 40
    assert "…" not in text
    assert {"Preferred", "Base", "SFT", "DPO", "0.0", "4.4", "95.6"} <= set(text.split())


def test_answers_the_decision_and_the_places_follow(example_run: RunReports) -> None:
    text = shown(example_run) + "\n".join(line.plain for line in places(example_run))
    for words in (
        "What colour is the zebra?",
        "SFT   The zebra is striped. It won six medals last year.",
        "The DPO model is promoted to staging.",
        "DPO is no worse than its SFT model",
        "/store/merge_dpo/model/4c2",
        "embedded-default, version 7, staging",
        "comet upload /runs/comet/aa11.zip",
        "https://www.comet.com/me/llm-engineering/bb22",
        "failed calls to Comet: 1; the run does not depend on them",
    ):
        assert words in text


def test_text_from_data_and_models_is_neither_markup_nor_control(example_run: RunReports) -> None:
    assert example_run.evaluation is not None
    sample = SampleAnswers(
        prompt="[bold]Q[/bold] [/]", reference=None, answers={"sft": "[red]A\x1b[2J\x07é\N{NO-BREAK SPACE}b"}
    )
    evaluation = example_run.evaluation.model_copy(update={"samples": [sample]})
    text = shown(example_run.model_copy(update={"evaluation": evaluation}))
    assert "[bold]Q[/bold] [/]" in text
    assert "[red]A\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}é\N{NO-BREAK SPACE}b" in text
    assert "\x1b" not in text


def test_only_three_answers_are_shown_and_long_ones_are_cut(example_run: RunReports) -> None:
    assert example_run.evaluation is not None
    samples = [SampleAnswers(prompt=f"Q{n}?", reference=None, answers={"sft": "x" * 1000}) for n in range(5)]
    evaluation = example_run.evaluation.model_copy(update={"samples": samples})
    text = shown(example_run.model_copy(update={"evaluation": evaluation}))
    assert "Q2?" in text
    assert "Q3?" not in text
    assert text.count("x") < 3 * 300


def test_a_failed_run_says_so() -> None:
    facts = RunFacts(
        name="n", id="i", pipeline="training", status="failed", seconds=0.2, error="rows.jsonl is missing."
    )
    text = shown(RunReports(run=facts))
    assert "The run failed.\nrows.jsonl is missing." in "\n".join(line.rstrip() for line in text.splitlines())


def test_verdicts_of_the_watch_close_the_run_one_line_each(watched_run: RunReports) -> None:
    lines = shown(watched_run, width=400).splitlines()
    assert "SFT is healthy." in [line.rstrip() for line in lines]
    told = [line.rstrip() for line in lines if line.startswith("DPO:")]
    assert told == [
        "DPO: A first attempt was displaced; this one was trained anew from the SFT model with an NLL term of weight "
        "1.",
        "DPO: The watch stopped it at step 180: no signal. The margin is 0.",
        "DPO: no signal, from step 30. The margin is 0. Check the labels.",
        "DPO: KL high. A KL of 11 nats. Raise beta.",
    ]


def closed(report: ComparisonReport, width: int = 120) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison_closing(report))
    return "\n".join(" ".join(line.split()) for line in capture.get().splitlines())


def test_a_comparison_closes_with_scores_answers_differences_and_failures() -> None:
    text = closed(build_comparison())
    assert "Preferred answers, % 0.0 2.0 0.0 95.5 97.5 * 3.0" in text
    assert "SFT → DPO The zebra is black and white." in text
    assert "SFT → DPO + NLL is the best of 6 models by preferred answers." in text
    assert "SFT → DPO against SFT: Better in preferred answers (+93.5 points)" in text
    assert "DPO + NLL failed: The loss is no number from step 12 on. Lower dpo.learning_rate." in text
    assert "Pairs were sampled from the SFT model" in text


def test_models_that_do_not_fit_beside_each_other_stand_in_further_tables() -> None:
    text = closed(build_comparison(), width=60)
    assert text.count("test split, 603 questions") == 3  # two models a table
    assert "Preferred answers, % 97.5 * 3.0" in text


def test_a_sweep_closes_with_its_runs_from_the_best_on() -> None:
    text = closed(build_sweep())
    assert "dpo.beta dpo.nll_weight Preferred answers, %" in text
    assert "1 0.1 0.2 97.5 [94.9, 100.0] *" in text
    assert text.index("2 0.1 0 95.5") < text.index("5 0.3 0 62.0")
    assert "dpo.beta=0.3, dpo.nll_weight=0.2 failed: DPO: no space is left on the disk." in text
