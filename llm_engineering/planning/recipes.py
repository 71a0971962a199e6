"""How each model of a comparison or a sweep is made: which trainings, one after the other, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llm_engineering.config.run import RunConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.sweep import RecipeName, SweepValue
from llm_engineering.config.sweeping import sweep_runs
from llm_engineering.errors import ConfigError

Training = Literal["sft", "dpo", "chosen", "clean"]
"""``chosen`` is SFT on the chosen answers of the pairs, ``clean`` on those of them that the checker prefers."""

PATHS: dict[RecipeName, tuple[Training, ...]] = {
    "base": (),
    "sft": ("sft",),
    "dpo": ("dpo",),
    "dpo_nll": ("dpo",),
    "sft_dpo": ("sft", "dpo"),
    "sft_dpo_nll": ("sft", "dpo"),
    "sft_chosen": ("sft", "chosen"),
    "sft_clean": ("sft", "clean"),
}
TITLES: dict[RecipeName, str] = {
    "base": "base",
    "sft": "SFT",
    "dpo": "DPO from the base",
    "dpo_nll": "DPO + NLL from the base",
    "sft_dpo": "SFT → DPO",
    "sft_dpo_nll": "SFT → DPO + NLL",
    "sft_chosen": "SFT → SFT on chosen answers",
    "sft_clean": "SFT → SFT on clean samples",
}


PATHS_OF_JOBS: dict[str, tuple[Training, ...]] = {"training": ("sft", "dpo"), "sft": ("sft",), "dpo": ("dpo",)}
"""What the jobs train that make one model."""


@dataclass(frozen=True)
class Recipe:
    """How one model is made."""

    name: str
    title: str
    path: tuple[Training, ...]
    """From the base on."""
    config: RunConfig
    """Of this model alone."""
    changes: dict[str, SweepValue] = field(default_factory=dict)
    """Dotted keys in which ``config`` is another than the one that was given, and their values."""

    @property
    def samples_pairs(self) -> bool:
        """Whether it needs pairs that are sampled from the SFT model."""
        return self.config.data.sampling is not None and bool({"dpo", "chosen", "clean"} & set(self.path))


def require_sources(job: str, config: RunConfig) -> None:
    """Refuse to train one model on rows that no source gives.

    Raises:
        ConfigError: Says which block of the data is empty.
    """
    for stage in PATHS_OF_JOBS[job]:
        kind = "sft" if stage == "sft" else "preference"
        if not getattr(config.data, kind):
            raise ConfigError(
                f"data.{kind} names no source, which --run-{job} needs. Add one, such as `{kind}: [{{path: FILE}}]`."
            )
    if job == "dpo" and config.data.sampling and not config.data.sft:
        raise ConfigError("data.preference samples answers to the prompts of data.sft, which names no source. Add one.")


def comparison_recipes(config: RunConfig) -> tuple[list[Recipe], list[str]]:
    """Return the recipes that can run, in the configured order, and a sentence for those that cannot.

    Raises:
        ConfigError: Fewer than two can run.
    """
    left_out = {name: why for name in config.comparison.recipes if (why := _obstacle(name, config))}
    recipes = [_recipe(name, config) for name in config.comparison.recipes if name not in left_out]
    notes = [
        f"Left out: {', '.join(name for name in left_out if left_out[name] == why)}, since {why}."
        for why in dict.fromkeys(left_out.values())
    ]
    if len(recipes) < 2:
        raise ConfigError(
            " ".join([*notes, "Fewer than two recipes are left to compare. Add what is missing, or name others."])
        )
    if config.watch.on.displaced == "restart_with_nll":
        notes.append("watch.on.displaced only warns here: a DPO that is restarted with NLL would be another recipe.")
    return recipes, notes


def sweep_recipes(config: RunConfig) -> list[Recipe]:
    """Return the runs of the configured sweep.

    Raises:
        ConfigError: There is no sweep, or nothing to train on.
    """
    path: list[Training] = ["sft"] if config.data.sft else []
    path += ["dpo"] if config.data.preference else []
    if not path:
        raise ConfigError("data names no source, which --run-sweep needs. Add one, such as `sft: [{path: FILE}]`.")
    return [Recipe(run.name, run.name, tuple(path), run.config, run.changes) for run in sweep_runs(config)]


def parents(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Return the names of the models that others were trained from, as far as they are among them."""
    plain = {recipe.path: recipe.name for recipe in recipes if not recipe.changes}
    return {recipe.name: plain[recipe.path[:-1]] for recipe in recipes if recipe.path and recipe.path[:-1] in plain}


def imitation_settings(config: RunConfig) -> SFTStageConfig:
    """Return how SFT goes on from the SFT model in the controls: SFT's own way, for as many updates as DPO makes."""
    dpo = config.dpo
    budget = {name: getattr(dpo, name) for name in ("max_steps", "epochs", "batch_size", "accumulation")}
    if config.sft.warmup >= 1:  # a number of updates, of another total
        budget["warmup"] = dpo.warmup
    return SFTStageConfig.model_validate({**config.sft.model_dump(), **budget})


def clean_checker(config: RunConfig) -> str | None:
    """Return the checker that says which chosen answers are clean."""
    return config.data.sampling.checker if config.data.sampling else config.evaluation.checker


def _obstacle(name: RecipeName, config: RunConfig) -> str | None:
    """Return why a recipe cannot run."""
    path = PATHS[name]
    needs_pairs = bool({"dpo", "chosen", "clean"} & set(path))
    if needs_pairs and not config.data.preference:
        return "data.preference names no source"
    if ("sft" in path or (needs_pairs and config.data.sampling)) and not config.data.sft:
        return "data.sft names no source"
    if name.endswith("nll") and "nll_weight" not in config.dpo.loss_row.options:
        return f"dpo.loss {config.dpo.loss} has its NLL term in any case"
    if "clean" in path and clean_checker(config) is None:
        return "no evaluation.checker says which answers are clean"
    return None


def _recipe(name: RecipeName, config: RunConfig) -> Recipe:
    path = PATHS[name]
    if "dpo" not in path:
        return Recipe(name, TITLES[name], path, config)
    weight = nll_weight(config) if name.endswith("nll") else 0.0
    acting = config.watch.on
    if acting.displaced == "restart_with_nll":
        acting = acting.model_copy(update={"displaced": "warn"})
    own = config.model_copy(
        update={
            "dpo": config.dpo.model_copy(update={"nll_weight": weight}),
            "watch": config.watch.model_copy(update={"on": acting}),
        }
    )
    changes: dict[str, SweepValue] = {} if weight == config.dpo.nll_weight else {"dpo.nll_weight": weight}
    return Recipe(name, TITLES[name], path, own, changes)


def nll_weight(config: RunConfig) -> float:
    """Return the weight of the NLL term in the recipes that have one."""
    return config.comparison.nll_weight or config.dpo.nll_weight or 1.0
