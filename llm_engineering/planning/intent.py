"""What a run is about to do with its rows, held against the rows that there are, before anything is trained.

Pairs that are sampled from the SFT model are not there yet: the largest possible number counts. Where fewer come,
:func:`~llm_engineering.training.schedule.shortened` makes the schedule fit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pydantic import Field

from llm_engineering.config.block import Block
from llm_engineering.config.data import SampleSettings
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.config.stage import StageConfig
from llm_engineering.errors import ConfigError
from llm_engineering.planning.recipes import Recipe, Training, imitation_settings
from llm_engineering.reports.folders import RowKind, RowSet, StageName
from llm_engineering.scoring.answers import read_questions
from llm_engineering.scoring.checkers import load_checker, require_references
from llm_engineering.training.arguments import planned_steps, require_warmup
from llm_engineering.training.probes import GENERATED
from llm_engineering.training.upstream import require_upstream

PAIR_METRICS = ("ranking_accuracy",)
"""Metrics of promotion that are measured on held-out pairs; the others are measured on answers to questions."""


class PlannedTraining(Block):
    """One training, as far as the number of its rows decides about it."""

    training: Training
    model: str = ""
    """Which model of a comparison or a sweep it makes."""
    settings: StageConfig

    @property
    def kind(self) -> RowKind:
        """The rows that it reads."""
        return "sft" if self.training == "sft" else "preference"

    @property
    def stage(self) -> StageName:
        """The block of the configuration that it is set by."""
        return "dpo" if self.training == "dpo" else "sft"

    @property
    def name(self) -> str:
        """What sentences call it: ``dpo``, or ``dpo of sft_dpo``."""
        return f"{self.stage} of {self.model}" if self.model else self.stage


class Intent(Block):
    """What the rows of a run are wanted for; no cache key of a training holds it."""

    trainings: list[PlannedTraining]
    sample: SampleSettings | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig | None = None
    """None: nothing is promoted."""
    seed: int = 42
    extent: dict[RowKind, float] = Field(default={})
    """How many times as many rows of a kind the real run has, where these are rehearsed; 0: nobody knows."""


@dataclass(frozen=True)
class CountedRows:
    """The prepared rows of a run."""

    sft: RowSet
    preference: RowSet
    questions: RowSet

    def of(self, kind: RowKind, split: str, sample: SampleSettings | None) -> int:
        """Return how many rows of a split there are, with as many sampled pairs as there can be."""
        own = (self.sft if kind == "sft" else self.preference).rows.get(split, 0)
        sampled = sample.most_pairs(self.questions.rows.get(split, 0)) if sample and kind == "preference" else 0
        return own + sampled


Certainty = Literal["exact", "at most", "about"]
RowCheck = Callable[[Intent, CountedRows], Iterator[str]]
"""Raises a ConfigError where the run cannot do what it is told, and yields a sentence for what is seldom meant."""


def intent_of(path: Sequence[Training], config: RunConfig, *, promotes: bool = True) -> Intent:
    """Return the intent of a run that makes one model by some trainings."""
    promotion = config.promotion if promotes else None
    return _intent([_planned(training, config) for training in path], config, promotion)


def intent_of_recipes(recipes: Sequence[Recipe]) -> Intent:
    """Return the intent of a comparison or a sweep, as far as its models are trained on the same rows."""
    trainings = [_planned(training, recipe.config, recipe.name) for recipe in recipes for training in recipe.path]
    return _intent(trainings, recipes[0].config, None)


def _intent(trainings: list[PlannedTraining], config: RunConfig, promotion: PromotionConfig | None) -> Intent:
    return Intent(
        trainings=trainings,
        sample=config.data.sampling,
        evaluation=config.evaluation.of_answers,
        promotion=promotion,
        seed=config.seed,
    )


def _planned(training: Training, config: RunConfig, model: str = "") -> PlannedTraining:
    own: StageConfig = {"sft": config.sft, "dpo": config.dpo}.get(training) or imitation_settings(config)
    settings = StageConfig(**{name: getattr(own, name) for name in StageConfig.model_fields})
    return PlannedTraining(training=training, model=model, settings=settings)


def training_rows(training: PlannedTraining, intent: Intent, rows: CountedRows) -> tuple[int, Certainty]:
    """Return on how many rows a training is going to be, and how sure that is; 0 where nobody knows."""
    there = rows.of(training.kind, "train", intent.sample)
    extent = intent.extent.get(training.kind, 1.0)
    if extent != 1:
        return ceil(there * extent), "about"
    few = training.training == "clean" or (intent.sample is not None and training.kind == "preference")
    return there, "at most" if few else "exact"


def check_warmups(intent: Intent, rows: CountedRows) -> Iterator[str]:
    """Refuse a warm-up that would fill its training."""
    for training in intent.trainings:
        number, certainty = training_rows(training, intent, rows)
        if not number:
            continue
        try:
            require_warmup(training.stage, training.settings, planned_steps(training.settings, number))
        except ConfigError as error:
            if certainty != "about":
                raise ConfigError(_of_model(training, str(error))) from None
            yield _of_model(training, f"{str(error).removesuffix('.')}. The steps are estimated from rehearsed rows.")


def check_evaluations(intent: Intent, rows: CountedRows) -> Iterator[str]:
    """Refuse a best metric that is never measured, and say what an interval or a patience cannot do."""
    for training in intent.trainings:
        settings, (number, certainty) = training.settings, training_rows(training, intent, rows)
        interval = settings.evaluation_interval
        if interval is None or not number:
            continue
        steps = planned_steps(settings, number)
        if interval > steps:
            said = (
                f"{training.stage} is evaluated every {interval} steps and makes {steps}, so that it is never evaluated"
                f"{' and best_metric chooses nothing' if settings.best_metric else ''}. Lower "
                f"{training.stage}.evaluation_steps (or evaluation_examples)."
            )
            if settings.best_metric and certainty != "about":
                raise ConfigError(_of_model(training, said))
            yield _of_model(training, said)
        elif settings.patience and settings.patience >= steps // interval:
            yield _of_model(
                training,
                f"{training.stage}.patience {settings.patience} stops nothing: there are {steps // interval} "
                f"evaluations in {steps} steps.",
            )


def check_held_out(intent: Intent, rows: CountedRows) -> Iterator[str]:
    """Refuse a best metric for which nothing is held out."""
    for training in intent.trainings:
        metric, stage = training.settings.best_metric, training.stage
        if metric is None:
            continue
        if not rows.of(training.kind, "eval", intent.sample):
            raise ConfigError(
                f"{stage}.best_metric {metric} needs held-out {training.kind} rows, and there are none. Raise "
                "data.evaluation_share, or leave best_metric out."
            )
        if metric in GENERATED and not rows.questions.rows.get("eval"):
            raise ConfigError(
                f"{stage}.best_metric {metric} needs held-out questions, and there are none. Raise "
                "data.evaluation_share, or use the metric loss."
            )
    yield from ()


def check_references(intent: Intent, rows: CountedRows) -> Iterator[str]:
    """Refuse references of questions that a checker cannot work with."""
    sample, evaluation = intent.sample, intent.evaluation
    asked = [(sample.checker, split, sample.max_prompts) for split in ("train", "eval", "test")] if sample else []
    if evaluation.checker:
        asked += [(evaluation.checker, split, evaluation.max_questions) for split in ("eval", "test")]
    for checker, split, most in asked:
        require_references(load_checker(checker), _read_when_asked(rows.questions, split, most, intent.seed))
    yield from ()


def _read_when_asked(questions: RowSet, split: str, most: int | None, seed: int) -> Iterator[tuple[str, str]]:
    """Yield questions and references; most checkers take any text, and ask for none."""
    for question in read_questions(questions, split, most, seed):
        yield question.shown, question.reference


def check_units(intent: Intent, rows: CountedRows) -> Iterator[str]:
    """Say where so little is held out that promotion is all but ruled out; rehearsed rows say nothing of that."""
    rules = intent.promotion
    if rules is None or any(extent != 1 for extent in intent.extent.values()):
        return
    split = "test" if any(part.rows.get("test") for part in (rows.sft, rows.preference, rows.questions)) else "eval"
    questions, most = rows.questions.rows.get(split, 0), intent.evaluation.max_questions
    measured = {"questions": min(questions, most or questions), "pairs": rows.of("preference", split, intent.sample)}
    decided = {"pairs" if metric in PAIR_METRICS else "questions" for metric, t in rules.tolerances.items() if t < 1}
    few = {name: number for name, number in measured.items() if name in decided and 0 < number < rules.least_units}
    if not any(measured.values()):
        yield (
            "Nothing can be promoted: no rows are held out to measure models on. Raise data.evaluation_share or "
            "data.test_share."
        )
    elif few:
        yield (
            f"Promotion is all but ruled out: {' and '.join(f'{n} {name}' for name, n in few.items())} are held out "
            f"to measure on, fewer than promotion.least_units {rules.least_units}, so that a check which their "
            "interval leaves open fails. Raise data.test_share or data.evaluation_share, or lower "
            "promotion.least_units."
        )


OF_ROWS: dict[str, RowCheck] = {
    "warm-ups": check_warmups,
    "evaluations": check_evaluations,
    "held-out rows": check_held_out,
    "references": check_references,
    "units of promotion": check_units,
}
"""What is asked once rows are prepared, by name and in order."""


def check_rows(intent: Intent, rows: CountedRows) -> list[str]:
    """Go through all of :data:`OF_ROWS`, and return what can run and is seldom meant.

    Raises:
        ConfigError: Something that the run is told cannot work with these rows.
    """
    return list(dict.fromkeys(said for check in OF_ROWS.values() for said in check(intent, rows)))


def require_libraries(intent: Intent) -> None:
    """Ask, where its trainings will run, whether the libraries are as all of them need them, before the first begins.

    Raises:
        LibraryError: See :func:`~llm_engineering.training.upstream.require_upstream`.
    """
    for stage in dict.fromkeys(training.stage for training in intent.trainings):
        require_upstream(stage)


def _of_model(training: PlannedTraining, sentence: str) -> str:
    return f"{training.model}: {sentence}" if training.model else sentence
