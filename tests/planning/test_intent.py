"""What the number of rows decides, said before anything is trained."""

from pathlib import Path

import pytest

from llm_engineering.config.run import RunConfig
from llm_engineering.config.yaml.loader import load_config
from llm_engineering.data.rowsets import QUESTIONS, write_rows
from llm_engineering.errors import ConfigError, LibraryError
from llm_engineering.planning.intent import (
    CountedRows,
    Intent,
    check_rows,
    intent_of,
    intent_of_recipes,
    require_libraries,
)
from llm_engineering.planning.recipes import comparison_recipes
from llm_engineering.reports.folders import RowSet

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
SAMPLED = {"sft": [{"path": "a"}], "preference": [{"sample": {"checker": "exact", "num_samples": 4}}]}
GIVEN = {"sft": [{"path": "a"}], "preference": [{"path": "b"}]}


def rows(sft: int = 0, pairs: int = 0, questions: int = 0, held_out: int = 40) -> CountedRows:
    sets = (
        RowSet(path=Path("rows"), sha256="a", rows={"train": number, "eval": held_out, "test": held_out})
        for number in (sft, pairs, questions)
    )
    return CountedRows(*sets)


def intent(data: object = GIVEN, **blocks: object) -> Intent:
    return intent_of(("sft", "dpo"), RunConfig.model_validate({"data": data, **blocks}))


def test_a_warmup_that_fills_its_training_is_refused_by_the_name_of_its_stage() -> None:
    # 40 pairs, 8 at once: 5 steps
    with pytest.raises(ConfigError, match=r"dpo\.warmup \(100 steps\) is no shorter than the training \(5 steps\)"):
        check_rows(intent(dpo={"warmup": 100}), rows(sft=400, pairs=40))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("llama-orca-hh", r"sft\.warmup \(100 steps\) is no shorter than the training \(8 steps\)"),
        ("pythia-hh", r"sft\.warmup \(150 steps\) is no shorter than the training \(1 step\)"),
        ("twin-llama", r"dpo\.warmup \(10 steps\) is no shorter than the training \(4 steps\)"),
    ],
)
def test_a_shipped_recipe_is_refused_on_data_that_is_too_small_for_it(recipe: str, said: str) -> None:
    config = load_config([RECIPES / f"{recipe}.yaml"], [])
    with pytest.raises(ConfigError, match=said):
        check_rows(intent_of(("sft", "dpo"), config), rows(sft=60, pairs=60, questions=60))


def test_as_many_pairs_count_as_can_be_sampled() -> None:
    # 2 pairs a prompt of 100 prompts: 200 pairs, 25 steps of 8
    disjoint = {"checker": "exact", "num_samples": 4, "pairing": "disjoint"}
    wanted = intent({**SAMPLED, "preference": [{"sample": disjoint}]}, dpo={"warmup": 24})
    assert not check_rows(wanted, rows(sft=400, questions=100))
    with pytest.raises(ConfigError, match=r"dpo\.warmup \(24 steps\) .* \(24 steps\)"):
        check_rows(wanted, rows(sft=400, questions=96))


def test_a_best_metric_that_is_never_measured_is_refused() -> None:
    settings = {"evaluation_steps": 6, "best_metric": "loss"}
    with pytest.raises(ConfigError, match="dpo is evaluated every 6 steps and makes 5, so that it is never evaluated"):
        check_rows(intent(dpo=settings), rows(sft=400, pairs=40))
    with pytest.raises(ConfigError, match=r"sft\.best_metric loss needs held-out sft rows"):
        check_rows(intent(sft=settings), rows(sft=400, pairs=40, held_out=0))


def test_an_interval_without_a_metric_and_a_patience_that_ends_nothing_are_said() -> None:
    assert "never evaluated" in check_rows(intent(dpo={"evaluation_steps": 6}), rows(sft=400, pairs=40))[0]
    patient = {"evaluation_steps": 2, "best_metric": "loss", "patience": 2}
    found = check_rows(intent(dpo=patient), rows(sft=400, pairs=40))
    assert found == ["dpo.patience 2 stops nothing: there are 2 evaluations in 5 steps."]


def test_rehearsed_rows_refuse_no_warmup_and_warn_of_it() -> None:
    tenfold = intent(dpo={"warmup": 100}).model_copy(update={"extent": {"preference": 10.0}})
    found = check_rows(tenfold, rows(sft=400, pairs=40))  # 400 pairs: 50 steps
    assert found == [
        "dpo.warmup (100 steps) is no shorter than the training (50 steps). Lower it, or give it as a share below 1. "
        "The steps are estimated from rehearsed rows."
    ]
    unknown = tenfold.model_copy(update={"extent": {"preference": 0.0}})
    assert not check_rows(unknown, rows(sft=400, pairs=40))


def test_a_model_of_a_comparison_is_named() -> None:
    config = RunConfig.model_validate({"data": GIVEN, "dpo": {"warmup": 100}})
    with pytest.raises(ConfigError, match=r"dpo: dpo\.warmup \(100 steps\)"):
        check_rows(intent_of_recipes(comparison_recipes(config)[0]), rows(sft=400, pairs=40))


def test_too_little_to_promote_by_is_said_with_what_to_change() -> None:
    [said] = check_rows(intent(), rows(sft=400, pairs=400, questions=400, held_out=12))
    assert said.startswith("Promotion is all but ruled out: 12 questions and 12 pairs are held out")
    assert "data.test_share" in said
    assert "promotion.least_units" in said
    assert not check_rows(intent(promotion={"least_units": 12}), rows(sft=400, pairs=400, questions=400, held_out=12))
    [nothing] = check_rows(intent(), rows(sft=400, pairs=400, held_out=0))
    assert nothing.startswith("Nothing can be promoted: no rows are held out")


def test_a_reference_that_the_checker_cannot_read_is_refused(tmp_path: Path) -> None:
    question = {"unit": "a", "prompt": '[{"role": "user", "content": "Name a word."}]', "prompt_ids": [1]}
    asked = write_rows(tmp_path, {"eval": [{**question, "reference": "(unclosed"}]}, QUESTIONS)
    counted = CountedRows(*(RowSet(path=Path("rows"), sha256="a", rows={"train": 400}),) * 2, asked)
    with pytest.raises(ConfigError, match=r"'Name a word\.' does not fit the checker"):
        check_rows(intent(evaluation={"checker": "regex"}), counted)


def test_libraries_that_dpo_alone_cannot_use_are_refused_before_sft(monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    require_libraries(intent())
    monkeypatch.delattr(trl.DPOTrainer, "compute_ref_log_probs")
    with pytest.raises(LibraryError, match=r"DPO cannot train: trl .* has no DPOTrainer\.compute_ref_log_probs"):
        require_libraries(intent())
