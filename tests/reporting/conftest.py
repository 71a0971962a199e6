import math
import random

import pytest
from data_reports import build_empty_data, build_rich_data, part

from llm_engineering.reporting.bundle import ModelVersion, RunFacts, RunReports
from llm_engineering.reports.data import DatasetReport, PreferenceReport, RenderedRow, SourceLedger
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores, SampleAnswers
from llm_engineering.reports.promotion import PromotionCheck, PromotionDecision
from llm_engineering.reports.training import MergeReport, ReferenceProof, TrackerLink, TrainingReport, Verdict


@pytest.fixture
def example_run() -> RunReports:
    return build_example_run()


@pytest.fixture
def watched_run(example_run: RunReports) -> RunReports:
    """The example with a healthy SFT, and a DPO that was displaced, trained anew, and stopped by the watch."""
    assert example_run.sft is not None
    assert example_run.dpo is not None
    healthy = Verdict(name="healthy", evidence="The loss fell.", remedy="Nothing needs to change.")
    displaced = Verdict(name="displaced", evidence="Both fell.", remedy="Add the NLL term.", first_seen=20)
    silent = Verdict(name="no_signal", evidence="The margin is 0.", remedy="Check the labels.", first_seen=30)
    far = Verdict(name="kl_high", evidence="A KL of 11 nats.", remedy="Raise beta.")
    dpo = {
        "verdicts": [silent, far],
        "stopped_by": silent,
        "restarted_with_nll": 1.0,
        "first_attempt": example_run.dpo.model_copy(update={"verdicts": [displaced]}),
    }
    stages = {
        "sft": example_run.sft.model_copy(update={"verdicts": [healthy]}),
        "dpo": example_run.dpo.model_copy(update=dpo),
    }
    return example_run.model_copy(update=stages)


def build_example_run() -> RunReports:
    return RunReports(
        run=RunFacts(
            name="embedded-default-2026_11_20-09_14",
            id="5c1f6f0e-8a55-4d5e-9a43-2c7f40d1f0a9",
            pipeline="training",
            seconds=171.3,
            step_seconds={
                "load_datasets": 1.2,
                "format_datasets": 3.9,
                "train_sft": 61.8,
                "merge_sft": 2.1,
                "build_preferences": 21.4,
                "train_dpo": 44.7,
                "merge_dpo": 2.0,
                "evaluate": 24.9,
                "promote": 0.4,
            },
            cached_steps=["load_datasets", "format_datasets"],
            model=ModelVersion(name="embedded-default", version="7", stage="staging"),
            artifacts={
                "sft_model": "/store/merge_sft/model/9a1",
                "dpo_model": "/store/merge_dpo/model/4c2",
                "report": "/store/promote/report/html",
            },
        ),
        dataset=_dataset(),
        preferences=PreferenceReport(
            checker="llm_engineering.embedded.judge:judge",
            prompts=600,
            samples=2400,
            pairs={"train": 512, "eval": 40},
            without_pair=48,
            unfinished=17,
            chosen_correct=0.974,
            rejected_correct=0.411,
            seconds=21.4,
        ),
        sft=_sft(),
        dpo=_dpo(),
        merges={
            "sft": MergeReport(
                stage="sft",
                max_logit_difference=6.7e-6,
                reload_logit_difference=0.0,
                tolerance=1e-3,
                greedy_tokens=192,
                dtype="float32",
                parameters=881_664,
            ),
            "dpo": MergeReport(
                stage="dpo",
                max_logit_difference=8.1e-6,
                reload_logit_difference=0.0,
                tolerance=1e-3,
                greedy_tokens=192,
                dtype="float32",
                parameters=881_664,
            ),
        },
        evaluation=_evaluation(),
        decision=PromotionDecision(
            promoted="dpo",
            stage="staging",
            reason="DPO is no worse than its SFT model and than version 6 on every metric that decides.",
            checks=[
                PromotionCheck(
                    candidate="dpo",
                    against="sft",
                    metric="preferred_rate",
                    candidate_value=0.956,
                    against_value=0.044,
                    tolerance=0.0,
                    passed=True,
                ),
                PromotionCheck(
                    candidate="dpo",
                    against="sft",
                    metric="answer_accuracy",
                    candidate_value=0.965,
                    against_value=0.987,
                    tolerance=0.03,
                    passed=True,
                ),
            ],
            incumbent="6",
            version="7",
        ),
        config_yaml="name: embedded-default\nseed: 42\nmodel:\n  base: embedded\n  dtype: auto\ndpo:\n  beta: 0.1\n",
        packages={"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2", "zenml": "0.98.0"},
    )


def _dataset() -> DatasetReport:
    return DatasetReport(
        sources=[
            SourceLedger(
                kind="sft",
                source="embedded",
                format="messages",
                rows=2184,
                train=1560,
                eval=192,
                test=384,
                dropped={"exact duplicate": 40, "too long": 8},
                truncated=12,
                tokens_lost=310,
                trained_tokens_lost=0,
                repeated_prompts=3,
            ),
            SourceLedger(
                kind="sft",
                source="extra.jsonl",
                format="alpaca",
                rows=100,
                train=88,
                eval=5,
                test=0,
                dropped={"empty answer": 5, "leaked into evaluation": 2},
            ),
        ],
        template="chatml: the model has no template of its own, and all ChatML tokens are in its vocabulary",
        eos_token="<|im_end|>",
        tokens={"sft/train": 98_310, "sft/eval": 11_900, "preference/train": 61_440},
        trained_tokens={"sft/train": 33_020, "sft/eval": 3_990, "preference/train": 24_100},
        longest={"sft/train": 128, "sft/eval": 96, "preference/train": 110},
        fingerprints={"sft": "b0f1" * 16, "preference": "77ac" * 16},
        mask_proof="Every row has a trained token; all 1,845 trained turns end in a trained EOS; one BOS at most.",
        split_proof="None of the 577 held-out prompts stands in a train split, across SFT and DPO.",
        examples=[
            RenderedRow(
                kind="sft",
                source="embedded",
                row=7,
                split="train",
                parts=[
                    part("conversation", "<|im_start|>", "user", "\n", "What", " colour", "?", "<|im_end|>", trained=1)
                ],
            )
        ],
        notes=["40 rows repeat an earlier row's prompt and answer; `data.exact_duplicate: drop` leaves them out."],
    )


def _sft() -> TrainingReport:
    noise = random.Random(0)
    history = [
        {
            "step": step,
            "loss": 2.6 * math.exp(-step / 90) + 0.35 + noise.gauss(0, 0.06),
            "mean_token_accuracy": 0.93 - 0.5 * math.exp(-step / 80) + noise.gauss(0, 0.01),
            "learning_rate": 4e-3,
        }
        for step in range(10, 501, 10)
    ]
    history += [{"step": step, "eval_loss": 2.7 * math.exp(-step / 90) + 0.42} for step in range(100, 501, 100)]
    history.sort(key=lambda entry: entry["step"])
    return TrainingReport(
        stage="sft",
        steps=500,
        planned_steps=500,
        epochs=4.85,
        seconds=58.2,
        rows=1648,
        effective_batch=16,
        tokens_per_second=8421.0,
        trainable_parameters=98_304,
        parameters=979_968,
        history=history,
        metrics={"loss": 0.36, "eval_loss": 0.43},
        resumed_from=200,
        path="fast",
        hardware="2 CPU cores, float32",
        tracker=TrackerLink(stage="sft", offline_archive="/runs/comet/aa11.zip"),
    )


def _dpo() -> TrainingReport:
    noise = random.Random(1)
    history: list[dict[str, float]] = []
    for step in range(5, 181, 5):
        progress = 1 - math.exp(-step / 60)
        history.append(
            {
                "step": step,
                "loss": 0.693 - 0.5 * progress + noise.gauss(0, 0.02),
                "rewards/chosen": 0.9 * progress + noise.gauss(0, 0.05),
                "rewards/rejected": -2.1 * progress + noise.gauss(0, 0.08),
                "rewards/margins": 3.0 * progress + noise.gauss(0, 0.1),
                "rewards/accuracies": min(1.0, 0.2 + 0.75 * progress + noise.gauss(0, 0.03)),
                "logps/chosen": -12 + 5 * progress + noise.gauss(0, 0.5),
                "logps/rejected": -14 - 16 * progress + noise.gauss(0, 0.6),
                "eval_kl_per_token": 0.02 * progress + noise.gauss(0, 0.001),
            }
        )
        if step % 30 == 0:
            history[-1] |= {
                "eval_loss": 0.7 - 0.45 * progress,
                "eval_answer_accuracy": 0.985 - 0.02 * progress,
                "eval_preferred_rate": 0.95 * progress,
                "eval_answer_score": 2.0 + progress,
            }
    return TrainingReport(
        stage="dpo",
        steps=180,
        planned_steps=240,
        epochs=5.6,
        seconds=42.9,
        rows=512,
        effective_batch=16,
        pairs_per_second=67.1,
        trainable_parameters=98_304,
        parameters=979_968,
        history=history,
        metrics={"loss": 0.21, "rewards/accuracies": 0.94},
        best_step=150,
        best_metric="preferred_rate",
        stopped_early=True,
        reference=ReferenceProof(
            step0_loss=0.6931472,
            expected_loss=0.6931472,
            max_logp_difference=0.0,
            reference_sha256_before="5f7e" * 16,
            reference_sha256_after="5f7e" * 16,
            sft_sha256="5f7e" * 16,
        ),
        path="TRL's own: attention dropout",
        hardware="2 CPU cores, float32",
        tracker=TrackerLink(stage="dpo", url="https://www.comet.com/me/llm-engineering/bb22", failures=1),
    )


def _evaluation() -> EvaluationReport:
    def share(value: float, low: float, high: float) -> Metric:
        return Metric(value=value, low=low, high=high, units=228)

    def plain(value: float) -> Metric:
        return Metric(value=value, units=228)

    return EvaluationReport(
        fingerprint="c0de" * 16,
        split="test",
        questions=684,
        pairs=40,
        models={
            "sft": ModelScores(
                checkpoint_sha256="5f7e" * 16,
                metrics={
                    "answer_accuracy": share(0.987, 0.962, 0.997),
                    "preferred_rate": share(0.044, 0.021, 0.079),
                    "flaws_per_answer": Metric(value=1.12, low=1.05, high=1.19, units=228),
                    "sampled_answer_accuracy": share(0.83, 0.775, 0.876),
                    "perplexity": plain(1.42),
                    "preference_accuracy": share(0.525, 0.361, 0.685),
                    "preference_margin": plain(0.0),
                    "kl_per_token": plain(0.0),
                    "repetition": plain(0.003),
                    "answer_tokens": plain(19.4),
                },
            ),
            "base": ModelScores(
                checkpoint_sha256="ba5e" * 16,
                metrics={
                    "answer_accuracy": share(0.0, 0.0, 0.016),
                    "preferred_rate": share(0.0, 0.0, 0.016),
                    "flaws_per_answer": Metric(value=0.02, low=0.0, high=0.05, units=228),
                    "sampled_answer_accuracy": share(0.0, 0.0, 0.016),
                    "perplexity": plain(38.7),
                    "repetition": plain(0.31),
                    "answer_tokens": plain(61.0),
                },
            ),
            "dpo": ModelScores(
                checkpoint_sha256="d0d0" * 16,
                metrics={
                    "answer_accuracy": share(0.965, 0.932, 0.985),
                    "preferred_rate": share(0.956, 0.921, 0.979),
                    "flaws_per_answer": Metric(value=0.03, low=0.01, high=0.06, units=228),
                    "sampled_answer_accuracy": share(0.811, 0.754, 0.86),
                    "perplexity": plain(1.61),
                    "preference_accuracy": share(0.925, 0.796, 0.984),
                    "preference_margin": plain(2.81),
                    "kl_per_token": plain(0.0213),
                    "repetition": plain(0.004),
                    "answer_tokens": plain(9.1),
                    "house_style": plain(0.5),
                },
            ),
        },
        samples=[
            SampleAnswers(
                prompt="What colour is the zebra?",
                reference="The zebra is striped.",
                answers={
                    "base": "zebra zebra the meadow, and the zebra",
                    "sft": "The zebra is striped. It won six medals last year.",
                    "dpo": "The zebra is striped.",
                },
            ),
            SampleAnswers(
                prompt="Where does the otter live?",
                reference="The otter lives by the river.",
                answers={
                    "base": "the otter the",
                    "sft": "The otter lives by the river. It can play chess. It once met a king.",
                    "dpo": "The otter lives by the river.",
                },
            ),
        ],
        notes=["Intervals are exact (Clopper and Pearson); the unit is the fact, not the phrasing."],
        seconds=24.9,
    )


@pytest.fixture
def rich_data() -> DatasetReport:
    return build_rich_data()


@pytest.fixture
def empty_data() -> DatasetReport:
    return build_empty_data()
