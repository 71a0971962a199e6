"""Which variant is the best, and which are tested against each other."""

import math

from llm_engineering.evaluation.variants import best_of, compare, together
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores, SampleAnswers, Variant


def scores(accuracy: list[float], loss: float = 1.0) -> ModelScores:
    value = sum(accuracy) / len(accuracy)
    return ModelScores(
        checkpoint_sha256=f"sha {value}",
        metrics={
            "answer_accuracy": Metric(value=value, units=len(accuracy)),
            "held_out_loss": Metric(value=loss, units=1),
        },
        outcomes={"answer_accuracy": accuracy},
    )


def report(models: dict[str, ModelScores], fingerprint: str = "f") -> EvaluationReport:
    samples = [SampleAnswers(prompt="Why?", reference=None, answers={name: name for name in models})]
    return EvaluationReport(
        fingerprint=fingerprint, split="eval", questions=2, pairs=0, models=models, samples=samples, seconds=1.0
    )


def test_the_best_is_the_highest_or_for_a_loss_the_lowest() -> None:
    found = report({"a": scores([1.0, 0.0], 2.0), "b": scores([1.0, 1.0], 3.0)})
    assert best_of(found, "answer_accuracy")[0] == "b"
    assert best_of(found, "held_out_loss")[0] == "a"


def test_of_equals_the_one_that_moved_least_is_taken_else_the_first() -> None:
    equal = {"a": scores([0.0]), "b": scores([1.0]), "c": scores([1.0])}
    assert best_of(report(equal), "answer_accuracy")[0] == "b"
    moved, little = (
        equal[name].model_copy(update={"metrics": equal[name].metrics | {"kl_per_token": Metric(value=kl, units=1)}})
        for name, kl in (("b", 2.0), ("c", 0.1))
    )
    best, notes = best_of(report({"a": equal["a"], "b": moved, "c": little}), "answer_accuracy")
    assert best == "c"
    assert notes[1] == "Equally good: b. The one that moved least from its parent (KL) is taken."


def test_a_metric_that_nobody_has_makes_no_best() -> None:
    found = report({"a": scores([1.0], math.nan)})
    assert best_of(found, "held_out_loss")[0] is None
    best, notes = best_of(found, "charm")
    assert best is None
    assert notes == [
        "No model has a value of charm, so that none is the best. There are: answer_accuracy, held_out_loss."
    ]


def test_each_is_tested_against_the_best_and_failures_are_kept_apart() -> None:
    variants = [Variant(name="a", title="A"), Variant(name="b", title="B"), Variant(name="c", title="C", error="no.")]
    found = compare(
        "sweep",
        variants,
        [report({"a": scores([0.0, 1.0]), "b": scores([1.0, 1.0])})],
        "answer_accuracy",
        ["answer_accuracy"],
        None,
        [],
        3.0,
    )
    assert found.best == "b"
    assert [(one.candidate, one.against, one.difference) for one in found.differences] == [("a", "b", -0.5)]
    assert [(one.name, one.error, one.model_sha256) for one in found.variants] == [
        ("a", None, "sha 0.5"),
        ("b", None, "sha 1.0"),
        ("c", "no.", None),
    ]


def test_models_that_were_measured_on_other_rows_are_ranked_but_not_tested() -> None:
    parts = [report({"a": scores([0.0, 1.0])}, "f"), report({"b": scores([1.0, 1.0])}, "g")]
    found = compare("sweep", [], parts, "answer_accuracy", ["answer_accuracy"], None, [], 3.0)
    assert (found.best, found.differences) == ("b", [])
    assert found.evaluation is not None
    assert found.evaluation.samples[0].answers == {"a": "a", "b": "b"}
    assert "not tested in pairs" in found.evaluation.notes[-1]
    assert together([]) is None
