"""How recipes become steps: what models have in common is one step, told on static twins of the pipelines."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.measuring import Lineup
from llm_engineering.config.run import RunConfig
from llm_engineering.reports.folders import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what ZenML imports
DATA = {"sft": [{"embedded": True}], "preference": [{"sample": {"checker": "llm_engineering.embedded.zoo:judge"}}]}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zenml.utils import source_utils

    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path))
    source_utils.set_custom_source_root(str(Path(__file__).parents[2]))


def planned(job: str, **blocks: object) -> list[str]:
    """Return the names of all steps of a comparison or a sweep."""
    from zenml import pipeline

    from llm_engineering.data.loading import Origins
    from pipelines.comparison import wire_comparison
    from pipelines.pieces import Pieces
    from pipelines.sweep import wire_sweep
    from pipelines.variants import Bench

    config = RunConfig.model_validate({"data": DATA, "dpo": {"epochs": 2}, **blocks})
    base = Checkpoint(path=Path("base"), sha256="a", kind="model", weights_sha256="b", base="embedded", base_sha256="b")
    wire = wire_comparison if job == "comparison" else wire_sweep

    @pipeline
    def twin() -> None:
        wire(config, Bench(base, Origins(), Pieces()))

    twin.prepare()
    return list(twin.invocations)


def counted(names: list[str]) -> Counter[str]:
    return Counter(name.partition("-")[0] for name in names)


def test_every_shared_piece_of_a_comparison_is_one_step() -> None:
    names = planned("comparison")
    assert counted(names) == {
        "load_datasets": 1,
        "format_datasets": 1,
        "preview_data": 1,
        "preflight": 1,
        "train_sft": 3,  # SFT itself, and the two controls that go on from it
        "merge_sft": 3,
        "build_preferences": 1,
        "score_reference": 2,  # the base and the SFT model
        "train_dpo": 4,
        "merge_dpo": 4,
        "imitation_rows": 2,
        "evaluate": 1,
    }
    assert {"train_sft-sft", "train_sft-sft_clean", "train_dpo-dpo_nll", "train_dpo-sft_dpo"} <= set(names)


def test_a_judge_sees_all_models_of_a_comparison_at_once() -> None:
    judge = {"type": "openai", "base_url": "http://localhost:1/v1", "model": "judge"}
    found = counted(planned("comparison", evaluation={"judge": judge}))
    assert (found["judge"], found["gather_evidence"]) == (1, 1)


def test_tasks_see_all_models_of_a_comparison_at_once() -> None:
    pytest.importorskip("lm_eval")
    found = counted(planned("comparison", evaluation={"harness": {"tasks": ["mine"]}}))
    assert (found["run_harness"], found["gather_evidence"]) == (1, 1)


def test_a_sweep_of_dpo_trains_sft_and_scores_the_reference_once() -> None:
    found = counted(planned("sweep", sweep={"dpo.beta": [0.1, 0.2, 0.3]}))
    assert (found["train_sft"], found["build_preferences"], found["score_reference"]) == (1, 1, 1)
    assert (found["train_dpo"], found["merge_dpo"], found["evaluate"]) == (3, 3, 1)


def test_runs_with_sft_models_of_their_own_are_measured_on_their_own_pairs() -> None:
    found = counted(planned("sweep", sweep={"sft.learning_rate": [1e-4, 2e-4], "dpo.beta": [0.1, 0.2]}))
    assert (found["train_sft"], found["build_preferences"], found["score_reference"]) == (2, 2, 2)
    assert (found["train_dpo"], found["evaluate"]) == (4, 2)


def test_a_sweep_of_the_data_prepares_it_for_every_value() -> None:
    found = counted(planned("sweep", sweep={"data.max_length": [64, 128]}))
    assert (found["format_datasets"], found["train_sft"], found["evaluate"]) == (2, 2, 2)


def test_where_measuring_all_fails_each_is_measured_alone() -> None:
    from llm_engineering.data.loading import Origins
    from llm_engineering.planning.recipes import Recipe
    from pipelines.pieces import PieceError, Pieces
    from pipelines.training import Rows
    from pipelines.variants import Bench, Made

    class Alone(Pieces):
        """Measures models only where the broken one is not among them."""

        def __call__(self, step: Any) -> Callable[..., Any]:
            def measured(*, lineup: Lineup, **others: Any) -> tuple[list[str], str]:
                if "broken" in lineup.measured:
                    raise PieceError(step.name, ValueError("no numbers"))
                return lineup.measured, "outcomes"

            return measured

    config = RunConfig.model_validate({"data": DATA})
    base = Checkpoint(path=Path("base"), sha256="a", kind="model", weights_sha256="b", base="embedded", base_sha256="b")
    rows = Rows("sft", "preference", "questions", "report", "quarantine")
    made = [Made(Recipe(name, name, ("sft",), config), rows, [base, name]) for name in ("a", "broken", "c")]
    assert Bench(base, Origins(), Alone()).measure(config, made, rows, "test") == [["a"], ["c"]]
    assert [one.error for one in made] == [None, "evaluate: ValueError: no numbers", None]


def test_an_edited_loss_of_the_users_is_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import Rows, dpo_stage

    def arguments(loss: str) -> tuple[object, ...]:
        seen: list[tuple[object, ...]] = []

        def keep(*given: object, **named: object) -> tuple[None, None]:
            seen.append((*given, *named.values()))
            return None, None

        dpo_stage(
            RunConfig.model_validate({"dpo": {"loss": loss}}),
            None,
            Rows(*[None] * len(fields(Rows))),
            lambda step: keep,
        )
        return tuple(seen)

    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "loss_that_changes.py"
    module.write_text("def margin(chosen_logps, rejected_logps): return rejected_logps - chosen_logps\n")
    before = arguments("loss_that_changes:margin")
    assert arguments("loss_that_changes:margin") == before
    module.write_text("def margin(chosen_logps, rejected_logps): return rejected_logps - 2 * chosen_logps\n")
    assert arguments("loss_that_changes:margin") != before
