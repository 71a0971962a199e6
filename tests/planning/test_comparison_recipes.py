"""Which trainings make which recipe, and which recipes can run."""

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.errors import ConfigError
from llm_engineering.planning.recipes import comparison_recipes, imitation_settings, nll_weight, parents, sweep_recipes

SFT = {"sft": [{"path": "rows.jsonl"}]}
PAIRS = {"preference": [{"path": "pairs.jsonl"}]}
SAMPLED = {"preference": [{"sample": {"checker": "exact"}}]}


def config(data: dict[str, object], **blocks: object) -> RunConfig:
    return RunConfig.model_validate({"data": data, **blocks})


def names(found: RunConfig) -> list[str]:
    return [recipe.name for recipe in comparison_recipes(found)[0]]


def test_sampled_pairs_allow_every_recipe() -> None:
    recipes, notes = comparison_recipes(config(SFT | SAMPLED))
    assert {recipe.name: recipe.path for recipe in recipes} == {
        "base": (),
        "sft": ("sft",),
        "dpo": ("dpo",),
        "dpo_nll": ("dpo",),
        "sft_dpo": ("sft", "dpo"),
        "sft_dpo_nll": ("sft", "dpo"),
        "sft_chosen": ("sft", "chosen"),
        "sft_clean": ("sft", "clean"),
    }
    assert notes == []
    assert [recipe.name for recipe in recipes if not recipe.samples_pairs] == ["base", "sft"]


def test_dpo_and_dpo_with_nll_differ_in_the_weight_alone() -> None:
    recipes = {one.name: one for one in comparison_recipes(config(SFT | PAIRS, dpo={"nll_weight": 0.2}))[0]}
    plain, nll = recipes["sft_dpo"].config, recipes["sft_dpo_nll"].config
    assert (plain.dpo.nll_weight, nll.dpo.nll_weight) == (0.0, 0.2)
    assert plain.model_copy(update={"dpo": nll.dpo}) == nll
    assert recipes["sft_dpo"].changes == {"dpo.nll_weight": 0.0}
    assert recipes["sft_dpo_nll"].changes == {}


@pytest.mark.parametrize(
    ("blocks", "weight"),
    [
        ({}, 1.0),
        ({"dpo": {"nll_weight": 0.2}}, 0.2),
        ({"dpo": {"nll_weight": 0.2}, "comparison": {"nll_weight": 3.0}}, 3.0),
    ],
)
def test_the_weight_of_nll_is_the_comparisons_else_dpos_else_1(blocks: dict[str, object], weight: float) -> None:
    assert nll_weight(config(SFT | PAIRS, **blocks)) == weight


def test_recipes_without_a_checker_or_a_source_are_left_out_with_a_reason() -> None:
    recipes, notes = comparison_recipes(config(SFT | PAIRS))
    assert [recipe.name for recipe in recipes][-1] == "sft_chosen"
    assert notes == ["Left out: sft_clean, since no evaluation.checker says which answers are clean."]

    assert names(config(PAIRS)) == ["base", "dpo", "dpo_nll"]
    assert names(config(SFT)) == ["base", "sft"]
    assert comparison_recipes(config(SFT))[1] == [
        "Left out: dpo, dpo_nll, sft_dpo, sft_dpo_nll, sft_chosen, sft_clean, since data.preference names no source."
    ]


def test_a_loss_that_has_its_nll_term_leaves_the_recipes_with_nll_out() -> None:
    own = config(SFT | PAIRS, dpo={"loss": "orpo"})
    left_out = "Left out: dpo_nll, sft_dpo_nll, since dpo.loss orpo has its NLL term in any case."
    assert left_out in comparison_recipes(own)[1]
    assert "dpo_nll" in names(config(SFT | PAIRS, dpo={"loss": "simpo"}))


def test_a_single_recipe_is_no_comparison() -> None:
    with pytest.raises(ConfigError, match=r"Left out: dpo, since data.preference names no source\. Fewer than two"):
        comparison_recipes(config(SFT, comparison={"recipes": ["sft", "dpo"]}))


def test_a_restart_with_nll_is_off_where_dpo_is_compared_with_it() -> None:
    recipes, notes = comparison_recipes(config(SFT | PAIRS, watch={"on": {"displaced": "restart_with_nll"}}))
    assert {recipe.config.watch.on.displaced for recipe in recipes if "dpo" in recipe.path} == {"warn"}
    assert "watch.on.displaced only warns here" in notes[-1]


def test_a_parent_is_what_a_model_was_trained_from() -> None:
    assert parents(comparison_recipes(config(SFT | SAMPLED))[0]) == {
        "sft": "base",
        "dpo": "base",
        "dpo_nll": "base",
        "sft_dpo": "sft",
        "sft_dpo_nll": "sft",
        "sft_chosen": "sft",
        "sft_clean": "sft",
    }


def test_the_controls_make_as_many_updates_as_dpo_at_the_rate_of_sft() -> None:
    found = config(
        SFT | PAIRS,
        sft={"learning_rate": 4e-3, "max_steps": 400, "warmup": 40},
        dpo={"max_steps": 20, "batch_size": 16, "learning_rate": 1e-5},
    )
    settings = imitation_settings(found)
    assert (settings.max_steps, settings.batch_size, settings.learning_rate) == (20, 16, 4e-3)
    assert settings.warmup == 0.05  # 40 updates are more than there are


def test_runs_of_a_sweep_make_the_whole_way_that_there_is_data_for() -> None:
    sweep = {"dpo.beta": [0.1, 0.2]}
    assert [recipe.path for recipe in sweep_recipes(config(SFT | PAIRS, sweep=sweep))] == [("sft", "dpo")] * 2
    assert sweep_recipes(config(PAIRS, sweep=sweep))[0].path == ("dpo",)
    assert sweep_recipes(config(SFT, sweep={"sft.max_steps": [1]}))[0].path == ("sft",)
    with pytest.raises(ConfigError, match="data names no source"):
        sweep_recipes(config({}, sweep=sweep))
