"""Wiring that comparisons and sweeps share: models made by recipes, every piece once, and measured alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from llm_engineering.config.measuring import Lineup
from llm_engineering.config.run import RunConfig
from llm_engineering.data.loading import Origins
from llm_engineering.planning.intent import intent_of_recipes
from llm_engineering.planning.recipes import Recipe, Training, clean_checker, imitation_settings
from llm_engineering.reports.evaluation import Variant
from llm_engineering.reports.folders import Checkpoint
from pipelines.pieces import PieceError, Pieces, identity
from pipelines.training import (
    Output,
    Rows,
    Trained,
    checked_rows,
    dpo_stage,
    evaluated,
    sampled_preferences,
    sft_stage,
)
from steps.compare_variants import Entry
from steps.imitation_rows import imitation_rows
from steps.preflight import preflight
from steps.runtime.caching import checker_hash


@dataclass
class Made:
    """What came of one recipe."""

    recipe: Recipe
    rows: Rows | None = None
    """What its trainings read, sampled pairs included."""
    models: list[Output] = field(default_factory=list)
    """The base and, one after the other, what was trained from it; the last one is the recipe's."""
    trainings: list[Output] = field(default_factory=list)
    merges: list[Output] = field(default_factory=list)
    error: str | None = None

    def add(self, trained: Trained) -> None:
        """Take in one more training."""
        self.models.append(trained.model)
        self.trainings.append(trained.training)
        self.merges.append(trained.merge)


@dataclass(frozen=True)
class Bench:
    """Makes models by recipes."""

    base: Checkpoint
    origins: Origins
    run: Pieces
    recipes: Sequence[Recipe] = ()
    """All that are going to be made."""

    def prepare(self) -> None:
        """Prepare the rows of all recipes, and refuse what cannot be trained on them before anything is trained.

        Rows that cannot be prepared end the recipes that need them, or all where there are no others.

        Raises:
            Exception: Whatever keeps all of them, or would keep one of them on rows that are there, from being trained.
        """
        failed: list[PieceError] = []
        for recipe in self.recipes:
            self.run.model = recipe.name if self._has_own_data(recipe) else ""
            try:
                self._prepared(recipe)
            except PieceError as error:
                failed.append(error)
        refused = [error for error in failed if error.piece.partition("-")[0] == preflight.name]
        if refused or len(failed) == len(self.recipes):
            raise (refused or failed)[0].error from None

    def _has_own_data(self, recipe: Recipe) -> bool:
        return any(key.startswith("data.") for key in recipe.changes)

    def _prepared(self, recipe: Recipe) -> Rows:
        """Return a recipe's rows, held against the trainings of all recipes that read the same data."""
        sharing = [one for one in self.recipes if one.config.data == recipe.config.data]
        return checked_rows(recipe.config, self.base, self.origins, intent_of_recipes(sharing), self.run)

    def make(self, recipe: Recipe) -> Made:
        """Return what a recipe gives; a piece that fails ends this one alone."""
        made = Made(recipe)
        self.run.model = recipe.name
        try:
            made.rows = self._rows(recipe)
            made.models.append(self.base)
            for training in recipe.path:
                _TRAININGS[training](self, made, made.rows)
        except PieceError as error:
            made.error = str(error)
        return made

    def _rows(self, recipe: Recipe) -> Rows:
        """Return the rows of a recipe, with pairs from its own SFT model where those are configured."""
        rows = replace(self._prepared(recipe))
        if recipe.samples_pairs:
            sft = Made(recipe, rows, [self.base])
            if recipe.config.data.sft:
                self.sft(sft, rows)
            sampled_preferences(recipe.config, sft.models[-1], rows, self.run)
        return rows

    def sft(self, made: Made, rows: Rows, config: RunConfig | None = None) -> None:
        """Add SFT on the SFT rows to what was made."""
        made.add(sft_stage(config or made.recipe.config, made.models[-1], rows, self.run))

    def dpo(self, made: Made, rows: Rows) -> None:
        """Add DPO on the pairs."""
        made.add(dpo_stage(made.recipe.config, made.models[-1], rows, self.run))

    def chosen(self, made: Made, rows: Rows) -> None:
        """Add SFT on the chosen answers of the pairs."""
        self._imitate(made, rows, None)

    def clean(self, made: Made, rows: Rows) -> None:
        """Add SFT on the chosen answers with which the checker finds nothing wrong."""
        self._imitate(made, rows, clean_checker(made.recipe.config))

    def _imitate(self, made: Made, rows: Rows, checker: str | None) -> None:
        config = made.recipe.config
        answers = self.run(imitation_rows)(
            rows.preference, rows.questions, self.base, config.model, checker, checker_hash(checker)
        )
        settings = config.model_copy(update={"sft": imitation_settings(config)})
        self.sft(made, replace(rows, sft=answers), settings)

    def measure(
        self, config: RunConfig, made: Sequence[Made], rows: Rows, first: Literal["test", "eval"]
    ) -> list[Output]:
        """Return evaluations of what was made; one that fails for all of them is tried for each alone."""
        done = [one for one in made if one.error is None]
        try:
            return [self._measure(config, done, rows, first)] if done else []
        except PieceError as error:
            if len(done) == 1:
                done[0].error = str(error)
                return []
            return [found for one in done for found in self.measure(config, [one], rows, first)]

    def _measure(self, config: RunConfig, made: Sequence[Made], rows: Rows, first: Literal["test", "eval"]) -> Output:
        """Return the evaluation of some models, together; parents that are none of them are loaded for the KL alone."""
        self.run.model = made[0].recipe.name if len(made) == 1 else ""
        models = {one.recipe.name: one.models[-1] for one in made if len(one.models) > 1}
        names = {_key(self.base): "base", **{_key(model): name for name, model in models.items()}}
        parents = {}
        for name, parent in [(one.recipe.name, one.models[-2]) for one in made if len(one.models) > 1]:
            parents[name] = names.setdefault(_key(parent), f"parent of {name}")
            models |= {parents[name]: parent} if parents[name] != "base" else {}
        lineup = Lineup(models=list(models), measured=[one.recipe.name for one in made], parents=parents)
        return evaluated(config, self.base, list(models.values()), rows, lineup, self.run, first)[0]


_TRAININGS: Mapping[Training, Callable[[Bench, Made, Rows], None]] = {
    "sft": Bench.sft,
    "dpo": Bench.dpo,
    "chosen": Bench.chosen,
    "clean": Bench.clean,
}


def _key(model: Output) -> str:
    return json.dumps(identity(model))


def by_rows(made: Sequence[Made]) -> list[list[Made]]:
    """Return what was made, those together that read the same held-out rows."""
    groups: dict[str, list[Made]] = {}
    for one in made:
        if one.rows is not None and one.error is None:
            rows = one.rows
            groups.setdefault(json.dumps(identity([rows.sft, rows.preference, rows.questions])), []).append(one)
    return list(groups.values())


def shared_data(made: Sequence[Made]) -> Output | None:
    """Return the ledger of the rows, where all that was made has the same."""
    ledgers = {_key(one.rows.report): one.rows.report for one in made if one.rows is not None}
    return next(iter(ledgers.values())) if len(ledgers) == 1 else None


def entries(made: Sequence[Made]) -> tuple[list[Entry], list[Output], list[Output]]:
    """Return how variants are described, and the reports of trainings and merges that they point to."""
    trainings: list[Output] = []
    merges: list[Output] = []
    described = [
        Entry(
            variant=_variant(one),
            trainings=[_index(report, trainings) for report in one.trainings],
            merges=[_index(report, merges) for report in one.merges],
        )
        for one in made
    ]
    return described, trainings, merges


def _index(report: Output, reports: list[Output]) -> int:
    keys = [_key(one) for one in reports]
    if _key(report) not in keys:
        reports.append(report)
        return len(reports) - 1
    return keys.index(_key(report))


def _variant(made: Made) -> Variant:
    recipe = made.recipe
    changes = {key: ", ".join(value) if isinstance(value, list) else value for key, value in recipe.changes.items()}
    return Variant(name=recipe.name, title=recipe.title, changes=changes, error=made.error)
