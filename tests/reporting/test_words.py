import math

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.words import best_models, duration, evaluated, headline, quantity
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores
from llm_engineering.reports.promotion import PromotionDecision


def evaluation(metric: str, values: dict[str, float]) -> EvaluationReport:
    models = {
        name: ModelScores(checkpoint_sha256="", metrics={metric: Metric(value=value, units=1)})
        for name, value in values.items()
    }
    return EvaluationReport(fingerprint="", split="test", questions=1, pairs=0, models=models, samples=[], seconds=1.0)


def test_the_best_value_follows_the_direction_of_the_metric() -> None:
    values = {"base": 0.1, "sft": 0.9, "dpo": 0.5}
    assert best_models(evaluation("answer_accuracy", values), "answer_accuracy") == {"sft"}
    assert best_models(evaluation("perplexity", values), "perplexity") == {"base"}
    assert best_models(evaluation("kl_per_token", values), "kl_per_token") == set()
    assert best_models(evaluation("unheard_of", values), "unheard_of") == set()


def test_values_that_are_written_alike_are_equally_good() -> None:
    assert best_models(
        evaluation("answer_accuracy", {"base": 0.2, "sft": 0.9501, "dpo": 0.9502}), "answer_accuracy"
    ) == {
        "sft",
        "dpo",
    }
    assert best_models(evaluation("answer_accuracy", {"sft": 0.5, "dpo": 0.5}), "answer_accuracy") == set()


def test_a_value_that_is_no_number_is_never_best() -> None:
    values = {"base": math.nan, "sft": 3.0, "dpo": 2.0}
    assert best_models(evaluation("perplexity", values), "perplexity") == {"dpo"}


def test_models_and_metrics_stand_in_the_known_order_and_unknown_ones_last(example_run: RunReports) -> None:
    assert example_run.evaluation is not None
    models, metrics = evaluated(example_run.evaluation)
    assert models == ["base", "sft", "dpo"]
    assert metrics[0] == "answer_accuracy"
    assert metrics[-1] == "house_style"


def test_quantities_carry_their_units() -> None:
    assert quantity("answer_accuracy", 0.953) == "95.3 %"
    assert quantity("kl_per_token", 0.0213) == "0.0213 nats/token"
    assert quantity("house_style", 0.5) == "0.5000"


def test_times_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (0.04, 9.9, 9.96, 59.4, 59.6, 185, 7830)]
    assert said == ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "3 min 5 s", "2 h 10 min"]


def test_the_headline_says_what_was_decided(example_run: RunReports) -> None:
    def decided(promoted: str | None) -> str:
        decision = PromotionDecision.model_validate({"promoted": promoted, "stage": "staging", "reason": "why"})
        return headline(example_run.model_copy(update={"decision": decision}))

    assert decided("dpo") == "The DPO model is promoted to staging."
    assert decided("sft") == "The SFT model goes to staging; DPO is not promoted."
    assert decided(None) == "No model of this run is promoted to staging."
    assert headline(example_run.model_copy(update={"decision": None})) == (
        "The run is complete; it decides on no promotion."
    )
