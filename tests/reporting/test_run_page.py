import re
from html import unescape

from data_reports import part
from pages import ATTACK, Outline, words

from llm_engineering.reporting.bundle import RunFacts, RunReports
from llm_engineering.reporting.page import with_code
from llm_engineering.reporting.run_page import render_report, render_training
from llm_engineering.reports.data import DatasetReport, RenderedRow
from llm_engineering.reports.evaluation import JudgeCount, JudgeReport, ModelScores, SampleAnswers
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import LossProof, MergeReport, TrackerLink, TrainingSample


def test_a_whole_run_has_every_section(example_run: RunReports) -> None:
    outline = Outline(render_report(example_run))
    assert outline.open == []
    assert outline.headings == [
        "The DPO model is promoted to staging.",
        "What training changed",
        "How it was decided",
        "Answers side by side",
        "Training",
        "Data",
        "Preference pairs from the SFT model",
        "Proofs",
        "Where it comes from",
    ]


def test_the_page_is_static_and_loads_nothing(example_run: RunReports) -> None:
    outline = Outline(render_report(example_run))
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe", "object", "form"}
    for tag, attributes in outline.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "src" not in attributes
    links = [a["href"] for tag, a in outline.tags if tag == "a"]
    assert links == ["https://www.comet.com/me/llm-engineering/bb22"]


def test_the_best_value_of_a_metric_is_marked(example_run: RunReports) -> None:
    page = render_report(example_run)
    row = page[page.index("Preferred answers<small>") :]
    cells = re.findall(r"<td( class=\"best\")? data-model=\"(\w+)\"><span class=\"value\">([^<]*)", row)[:3]
    assert cells == [("", "Base", "0.0 %"), ("", "SFT", "4.4 %"), (' class="best"', "DPO", "95.6 %")]
    assert "92.1 to 97.9" in row


def test_a_metric_that_nobody_knows_is_shown_under_its_name(example_run: RunReports) -> None:
    assert "house_style 228 units - - 0.5000" in words(render_report(example_run))


def test_proofs_show_what_was_checked_and_its_numbers(example_run: RunReports) -> None:
    text = words(render_report(example_run))
    assert "6 of 6 proofs hold" in text
    assert "Loss before the first update 0.693147 Loss at zero log-ratios 0.693147" in text
    assert "Adapter against merged 6.7e-06" in text
    assert "None of the 577 held-out prompts stands in a train split" in text


def test_a_loss_without_a_reference_shows_its_formulas_value(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    first = LossProof(step0_loss=1.25, expected_loss=1.25)
    dpo = example_run.dpo.model_copy(update={"reference": None, "first_loss": first})
    text = words(render_report(example_run.model_copy(update={"dpo": dpo})))
    assert "Loss before the first update 1.250000 Loss by its formula 1.250000" in text


def test_a_proof_whose_numbers_disagree_is_shown_as_failing(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    assert example_run.dpo.reference is not None
    moved = example_run.dpo.reference.model_copy(update={"reference_sha256_after": "0bad" * 16})
    apart = example_run.merges["sft"].model_copy(update={"reload_logit_difference": 0.5})
    assert isinstance(apart, MergeReport)
    run = example_run.model_copy(
        update={
            "dpo": example_run.dpo.model_copy(update={"reference": moved}),
            "merges": {"sft": apart},
        }
    )
    text = words(render_report(run))
    assert "Reference ✗ fails" in text
    assert "Merge, SFT ✗ fails" in text
    assert "3 of 5 proofs hold" in text


def test_rows_are_shown_token_by_token_as_in_the_preview(example_run: RunReports) -> None:
    page = render_report(example_run)
    assert "<mark><b>&lt;|im_end|&gt;</b></mark>" in page
    assert "<b>&lt;|im_start|&gt;</b><i>user</i><i>↵</i><br><i>What</i><i>·colour</i>" in page
    assert "Row 7 of embedded · SFT · train" in words(page)


def test_of_many_rows_one_of_each_kind_is_shown(example_run: RunReports, rich_data: DatasetReport) -> None:
    text = words(render_report(example_run.model_copy(update={"dataset": rich_data})))
    assert "Row 12 of extra.jsonl · SFT" in text
    assert "Row 3 of org/ultra-pairs · preference pair" in text
    assert "Row 40 of" not in text


def test_what_is_kept_cut_and_mixed_stands_in_the_ledger(example_run: RunReports, rich_data: DatasetReport) -> None:
    text = words(render_report(example_run.model_copy(update={"dataset": rich_data})))
    assert "extra.jsonl alpaca 250 238 5 0 0 7 Dropped: 5 empty answer; 2 leaked into evaluation" in text
    assert "Found and kept: 7 exact duplicate Mix: count 250 asked, 0.1 % of training" in text
    assert "Lost: 1,310,220 tokens, 88,017 trained; 31 answers cut 3,310 kept examples repeat a prompt" in text


def test_the_audit_is_told_in_sentences(example_run: RunReports, rich_data: DatasetReport) -> None:
    page = render_report(example_run.model_copy(update={"dataset": rich_data}))
    assert '<li class="warn">Preferring the longer answer is right for 75.2 % of 24,877 pairs' in page
    assert "What the audit found" not in render_report(example_run)


def test_the_ledger_names_every_reason(example_run: RunReports) -> None:
    text = words(render_report(example_run))
    assert "40 exact duplicate; 8 too long" in text
    assert "Together 2,284 1,648 197 384 12 55" in text


def test_the_forward_pass_of_every_stage_is_named_with_its_reason(example_run: RunReports) -> None:
    assert "Forward pass fast TRL's own: attention dropout" in unescape(words(render_report(example_run)))


def test_offline_archives_come_with_the_command_that_sends_them(example_run: RunReports) -> None:
    assert example_run.sft is not None
    link = TrackerLink(stage="sft", offline_archive="/my runs/a.zip")
    run = example_run.model_copy(update={"sft": example_run.sft.model_copy(update={"tracker": link})})
    assert "comet upload &#39;/my runs/a.zip&#39;" in render_report(run)


def test_an_address_that_is_not_the_webs_is_no_link(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    link = TrackerLink(stage="dpo", url="javascript:alert(1)")
    run = example_run.model_copy(update={"dpo": example_run.dpo.model_copy(update={"tracker": link})})
    page = render_report(run)
    assert [a for tag, a in Outline(page).tags if tag == "a"] == []
    assert "<code>javascript:alert(1)</code>" in page


def test_text_from_data_models_and_configuration_is_never_markup(example_run: RunReports) -> None:
    assert example_run.evaluation is not None
    assert example_run.dataset is not None
    evaluation = example_run.evaluation.model_copy(
        update={
            "models": {
                ATTACK: ModelScores(checkpoint_sha256=ATTACK, metrics=example_run.evaluation.models["sft"].metrics)
            },
            "samples": [SampleAnswers(prompt=ATTACK, reference=ATTACK, answers={ATTACK: ATTACK})],
            "notes": [ATTACK],
            "split": ATTACK,
        }
    )
    dataset = example_run.dataset.model_copy(
        update={
            "sources": [s.model_copy(update={"source": ATTACK, "format": ATTACK}) for s in example_run.dataset.sources],
            "template": ATTACK,
            "eos_token": ATTACK,
            "notes": [ATTACK],
            "tokens": {ATTACK: 10},
            "fingerprints": {ATTACK: ATTACK},
            "mask_proof": ATTACK,
            "examples": [
                RenderedRow(kind="sft", source=ATTACK, row=1, split="train", parts=[part("prompt", ATTACK, ATTACK)])
            ],
        }
    )
    run = example_run.model_copy(
        update={
            "run": example_run.run.model_copy(
                update={"name": ATTACK, "error": ATTACK, "artifacts": {ATTACK: ATTACK}, "step_seconds": {ATTACK: 1.0}}
            ),
            "evaluation": evaluation,
            "dataset": dataset,
            "decision": PromotionDecision(promoted="dpo", stage=ATTACK, reason=ATTACK),
            "dpo": example_run.dpo.model_copy(
                update={"samples": [TrainingSample(step=1, prompt=ATTACK, policy=ATTACK, reference=ATTACK)]}
            ),
            "config_yaml": ATTACK,
            "packages": {ATTACK: ATTACK},
        }
    )
    page = render_report(run)
    outline = Outline(page)
    assert outline.open == []
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert not [attributes for _, attributes in outline.tags if "onload" in attributes]
    assert "49" not in page[page.index("Configuration, with") :]  # {{ 7 * 7 }} is text, too
    assert page.count("&lt;script&gt;") > 20


def test_a_run_of_sft_alone_has_no_sections_about_dpo(example_run: RunReports) -> None:
    run = RunReports(run=example_run.run, dataset=example_run.dataset, sft=example_run.sft)
    assert Outline(render_report(run)).headings == [
        "The run is complete; it decides on no promotion.",
        "Training",
        "Data",
        "Proofs",
        "Where it comes from",
    ]


def test_a_run_that_failed_at_once_says_why() -> None:
    facts = RunFacts(
        name="n", id="i", pipeline="training", status="failed", seconds=0.2, error="rows.jsonl is missing."
    )
    page = render_report(RunReports(run=facts))
    assert Outline(page).headings == ["The run failed.", "Where it comes from"]
    assert "rows.jsonl is missing." in page


def test_the_same_run_gives_the_same_page(example_run: RunReports) -> None:
    assert render_report(example_run) == render_report(example_run)


def test_verdicts_stand_above_the_curves_of_every_attempt(watched_run: RunReports) -> None:
    page = render_report(watched_run)
    assert Outline(page).open == []
    text = words(page)
    assert "healthy The loss fell. Raise" not in text
    assert "trained anew from the SFT model with an NLL term of weight 1." in text
    assert "no signal, from step 30 The margin is 0. Check the labels." in text
    assert "DPO, first attempt displaced, from step 20 Both fell. Add the NLL term." in text
    assert "by the watch: no signal" in text


def test_answers_while_training_are_shown_by_question_and_equal_ones_once(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    assert "Greedy answers to held-out questions" not in words(render_report(example_run))
    answers = {10: ("red", "one"), 20: ("red", "two"), 30: ("blue", "two")}
    samples = [
        TrainingSample(step=step, prompt=prompt, policy=policy, reference=f"{prompt} before")
        for step, both in answers.items()
        for prompt, policy in zip(("Colour?", "Number?"), both, strict=True)
    ]
    run = example_run.model_copy(update={"dpo": example_run.dpo.model_copy(update={"samples": samples})})
    text = words(render_report(run))
    assert "Greedy answers to held-out questions while it trained" in text
    assert "Colour? Reference Colour? before Steps 10 to 20 red Step 30 blue" in text
    assert "Number? Reference Number? before Step 10 one Steps 20 to 30 two" in text


def test_many_different_answers_are_thinned_out_to_the_first_and_last_and_some_between(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    samples = [TrainingSample(step=step, prompt="Count.", policy=f"<{step}>") for step in range(1, 51)]
    run = example_run.model_copy(update={"dpo": example_run.dpo.model_copy(update={"samples": samples})})
    shown = re.findall(r"<h4>Step (\d+)</h4><p>&lt;\1&gt;", render_report(run))
    assert [int(step) for step in shown] == [1, 8, 15, 22, 29, 36, 43, 50]


def test_the_proof_says_whether_log_probabilities_were_scored_before_training(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    assert example_run.dpo.reference is not None
    assert "Its log-probabilities computed with every batch" in words(render_report(example_run))
    proof = example_run.dpo.reference.model_copy(update={"stored_logps": True, "max_stored_difference": 3.14e-6})
    run = example_run.model_copy(update={"dpo": example_run.dpo.model_copy(update={"reference": proof})})
    assert "scored before training, up to 3.1e-06 nats from fresh ones" in words(render_report(run))


def test_what_stands_between_backticks_is_code_and_never_markup() -> None:
    assert with_code("`data.x: <b>` and a ` or <b>") == "<code>data.x: &lt;b&gt;</code> and a ` or &lt;b&gt;"


def test_the_lineage_says_which_code_ran_on_which_machine_from_which_seed(example_run: RunReports) -> None:
    assert "Code no commit is known" in words(render_report(example_run))
    facts = {"code_commit": "ab12" * 10, "code_dirty": False, "hardware": "NVIDIA H200; Linux", "seed": 42}
    run = example_run.model_copy(update={"run": example_run.run.model_copy(update=facts)})
    assert f"Code commit {'ab12' * 10}, unchanged Started on NVIDIA H200; Linux Seed 42" in words(render_report(run))


def test_the_judge_has_a_table_of_what_it_said_and_what_it_did_not(example_run: RunReports) -> None:
    count = JudgeCount(
        mode="pairwise",
        model="dpo",
        against="sft",
        questions=10,
        judged=8,
        invalid=1,
        failed=1,
        wins=5,
        losses=1,
        ties=2,
        disagreements=2,
    )
    judge = JudgeReport(
        judge="<judge>",
        endpoint="http://localhost",
        settings_sha256="",
        questions=10,
        counts=[count],
        disagreement=0.25,
        requests=20,
        input_tokens=4000,
        output_tokens=100,
        cost=0.0123,
    )
    assert example_run.evaluation is not None
    page = render_report(
        example_run.model_copy(update={"evaluation": example_run.evaluation.model_copy(update={"judge": judge})})
    )
    assert "&lt;judge&gt; judged 10 questions: 20 requests, 4,000 tokens read and 100 written" in page
    assert "cost 0.0123" in page
    assert "<td>8 of 10</td><td>5</td><td>1</td><td>2</td><td>2</td><td>1</td><td>1</td>" in page


def test_a_training_has_a_page_of_its_own_with_its_curves(example_run: RunReports) -> None:
    assert example_run.dpo is not None
    page = render_training(example_run.dpo)
    assert "<title>DPO: curves</title>" in page
    assert "<svg" in page
    assert "<script" not in page
