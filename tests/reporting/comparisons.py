"""A comparison and a sweep to show: hand-made, with a failed model each."""

import math
import random

from llm_engineering.reporting.bundle import ModelVersion, RunFacts
from llm_engineering.reports.evaluation import (
    ComparisonReport,
    EvaluationReport,
    Metric,
    ModelScores,
    PairedDifference,
    SampleAnswers,
    Variant,
)
from llm_engineering.reports.training import MergeReport, ReferenceProof, TrackerLink, TrainingReport, Verdict

TITLES = {
    "base": "Base",
    "sft": "SFT",
    "dpo": "DPO",
    "dpo_nll": "DPO + NLL",
    "sft_dpo": "SFT → DPO",
    "sft_dpo_nll": "SFT → DPO + NLL",
    "sft_chosen": "SFT on chosen",
    "sft_clean": "SFT on clean samples",
}
PREFERRED = {"base": 0.0, "sft": 0.02, "dpo": 0.0, "sft_dpo": 0.955, "sft_dpo_nll": 0.975, "sft_chosen": 0.03}
ACCURACY = {"base": 0.0, "sft": 0.99, "dpo": 0.01, "sft_dpo": 0.965, "sft_dpo_nll": 0.985, "sft_chosen": 0.99}
QUESTIONS = ("What colour is the zebra?", "Where does the otter live?")
UNITS = 201


def build_run(pipeline: str) -> RunFacts:
    return RunFacts(
        name=f"embedded-default-{pipeline}",
        id="5c1f6f0e-8a55-4d5e-9a43-2c7f40d1f0a9",
        pipeline=pipeline,
        seconds=421.3,
        step_seconds={"train_sft": 61.8, "train_dpo": 44.7, "evaluate": 60.2},
        cached_steps=["load_datasets"],
        model=ModelVersion(name="embedded-default", version="8"),
        seed=42,
        code_commit="0f3a" * 10,
        code_dirty=True,
        hardware="CPU, 2 threads; Linux x86_64, 2 cores; Python 3.11.9",
        artifacts={"comparison": "/store/compare/page"},
    )


def build_comparison() -> ComparisonReport:
    sft = training("sft", seed=1)
    trained = {
        "base": [],
        "sft": [sft],
        "dpo": [training("dpo", seed=2, falls=True)],
        "sft_dpo": [sft, training("dpo", seed=3, falls=True)],
        "sft_dpo_nll": [sft, training("dpo", seed=4)],
        "sft_chosen": [training("sft", seed=5)],
    }
    failed = {
        "dpo_nll": "The loss is no number from step 12 on. Lower dpo.learning_rate.",
        "sft_clean": "No SFT sample is preferred by the checker, so that there is nothing to train on.",
    }
    variants = [
        Variant(
            name=name,
            title=title,
            trainings=trained.get(name, []),
            merges=[merge(stage.stage) for stage in trained.get(name, [])],
            model_sha256=None if name in failed else name[:4].ljust(4, "0") * 16,
            error=failed.get(name),
        )
        for name, title in TITLES.items()
    ]
    pairs = [("sft", "base"), ("dpo", "base"), ("sft_dpo", "sft"), ("sft_dpo_nll", "sft"), ("sft_chosen", "sft")]
    return ComparisonReport(
        kind="comparison",
        variants=variants,
        evaluation=evaluation({name: (ACCURACY[name], PREFERRED[name]) for name in ACCURACY}),
        differences=[found for pair in pairs for found in differences(*pair)],
        metric="preferred_rate",
        best="sft_dpo_nll",
        notes=["Pairs were sampled from the SFT model; DPO from the base is trained on them, too."],
        seconds=421.3,
    )


def build_sweep() -> ComparisonReport:
    sft = training("sft", seed=1)
    values = {(0.05, 0.0): 0.91, (0.05, 0.2): 0.93, (0.1, 0.0): 0.955, (0.1, 0.2): 0.975, (0.3, 0.0): 0.62}
    names = {each: f"dpo.beta={each[0]:g}, dpo.nll_weight={each[1]:g}" for each in [*values, (0.3, 0.2)]}
    variants = [
        Variant(
            name=name,
            title=name,
            changes={"dpo.beta": beta, "dpo.nll_weight": weight},
            trainings=[] if (beta, weight) not in values else [sft, training("dpo", seed=round(1000 * beta + weight))],
            error=None if (beta, weight) in values else "DPO: no space is left on the disk.",
        )
        for (beta, weight), name in names.items()
    ]
    return ComparisonReport(
        kind="sweep",
        variants=variants,
        evaluation=evaluation({names[each]: (0.97, value) for each, value in values.items()}),
        metric="preferred_rate",
        best=names[0.1, 0.2],
        notes=["Runs are ranked on the eval split; the best is measured on the test split as well."],
        seconds=380.0,
    )


def evaluation(values: dict[str, tuple[float, float]]) -> EvaluationReport:
    return EvaluationReport(
        fingerprint="c0de" * 16,
        split="test",
        questions=603,
        pairs=40,
        models={
            name: ModelScores(checkpoint_sha256="5f7e" * 16, metrics=metrics(*both)) for name, both in values.items()
        },
        samples=[
            SampleAnswers(prompt=prompt, reference="As the book says.", answers={name: answer(name) for name in values})
            for prompt in QUESTIONS
        ],
        notes=["Measured on the test split."],
        seconds=60.2,
    )


def answer(model: str) -> str:
    if model == "base":
        return "zebra zebra the meadow, and the zebra by the river of the zebra and the meadow of the river"
    return "The zebra is black and white." + (" It won six medals last year." if model == "sft" else "")


def metrics(accuracy: float, preferred: float) -> dict[str, Metric]:
    def share(value: float, units: int = UNITS) -> Metric:
        spread = 1.96 * math.sqrt((value * (1 - value) + 0.01) / units)
        return Metric(value=value, low=max(0.0, value - spread), high=min(1.0, value + spread), units=units)

    def number(value: float, spread: float) -> Metric:
        return Metric(value=value, low=value - spread, high=value + spread, units=UNITS)

    return {
        "answer_accuracy": share(accuracy),
        "preferred_rate": share(preferred),
        "flaws_per_answer": number(1.1 * (1 - preferred), 0.06),
        "sampled_answer_accuracy": share(0.85 * accuracy),
        "perplexity": number(1.4 + 30 * (1 - accuracy), 0.2),
        "preference_accuracy": share(0.5 + 0.45 * preferred, 40),
        "kl_per_token": number(0.002 + 0.05 * preferred, 0.004),
        "answer_tokens": number(20 - 10 * preferred, 0.8),
        "judge_win_rate/base": share(0.4 + 0.5 * preferred),
        "harness/arc_easy/acc": share(0.25, 100),
        "house_style": Metric(value=0.5, units=UNITS),
    }


def differences(candidate: str, against: str) -> list[PairedDifference]:
    gained = PREFERRED[candidate] - PREFERRED[against]
    lost = ACCURACY[candidate] - ACCURACY[against]

    def share(metric: str, difference: float) -> PairedDifference:
        return PairedDifference(
            candidate=candidate,
            against=against,
            metric=metric,
            difference=difference,
            low=difference - 0.03,
            high=difference + 0.03,
            p_value=0.00001 if abs(difference) > 0.03 else 0.41,
            units=UNITS,
        )

    return [share("answer_accuracy", lost), share("preferred_rate", gained)]


def merge(stage: str) -> MergeReport:
    return MergeReport.model_validate(
        {
            "stage": stage,
            "max_logit_difference": 6.7e-6,
            "reload_logit_difference": 0.0,
            "tolerance": 1e-3,
            "greedy_tokens": 192,
            "dtype": "float32",
            "parameters": 881_664,
        }
    )


def training(stage: str, *, seed: int, falls: bool = False) -> TrainingReport:
    noise = random.Random(seed)
    displaced = Verdict(
        name="displaced",
        evidence="Rewards of chosen answers fell to -1.2.",
        remedy="Set dpo.nll_weight.",
        first_seen=40,
    )
    return TrainingReport.model_validate(
        {
            "stage": stage,
            "steps": 180,
            "planned_steps": 180,
            "epochs": 3.0,
            "seconds": 42.9,
            "rows": 512,
            "effective_batch": 16,
            "trainable_parameters": 98_304,
            "parameters": 979_968,
            "history": [_logged(stage, step, noise, falls) for step in range(5, 181, 5)],
            "metrics": {"loss": 0.2},
            "verdicts": [displaced] if falls else [Verdict(name="healthy", evidence="It fell.", remedy="Nothing.")],
            "reference": reference() if stage == "dpo" else None,
            "hardware": "CPU, 2 threads",
            "tracker": TrackerLink(stage=stage, offline_archive="/runs/comet/aa11.zip"),
        }
    )


def reference() -> ReferenceProof:
    return ReferenceProof(
        step0_loss=0.6931472,
        expected_loss=0.6931472,
        max_logp_difference=0.0,
        reference_sha256_before="5f7e" * 16,
        reference_sha256_after="5f7e" * 16,
        sft_sha256="5f7e" * 16,
    )


def _logged(stage: str, step: int, noise: random.Random, falls: bool) -> dict[str, float]:
    progress = 1 - math.exp(-step / 60)
    if stage == "sft":
        return {
            "step": step,
            "loss": 2.5 - 2.1 * progress + noise.gauss(0, 0.06),
            "mean_token_accuracy": 0.9 * progress,
        }
    chosen, rejected = (-1.2 if falls else 0.9) * progress, (-4.0 if falls else -2.1) * progress
    entry = {
        "step": step,
        "loss": 0.693 - 0.5 * progress + noise.gauss(0, 0.02),
        "rewards/chosen": chosen + noise.gauss(0, 0.05),
        "rewards/rejected": rejected + noise.gauss(0, 0.08),
        "rewards/margins": chosen - rejected + noise.gauss(0, 0.1),
        "log_ratio/chosen": 10 * chosen + noise.gauss(0, 0.5),
        "log_ratio/rejected": 10 * rejected + noise.gauss(0, 0.5),
    }
    if step % 30 == 0:
        entry |= {"eval_kl_per_token": 0.02 * progress, "eval_answer_accuracy": 1 - 0.02 * progress}
    return entry
