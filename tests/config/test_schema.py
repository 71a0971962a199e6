"""What the configuration's blocks promise apart from how they are loaded."""

from typing import Any

import pytest
from pydantic import ValidationError

from llm_engineering.config.block import Block
from llm_engineering.config.data import DataConfig, EmbeddedSource, FileSource, HubSource, SampledSource, SampleSettings
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import DoraAdapter, LoraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import CometTracking, NoTracking


def subclasses(block: type[Block]) -> list[type[Block]]:
    return [block, *(below for child in block.__subclasses__() for below in subclasses(child))]


def test_a_validated_configuration_cannot_be_changed() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.dpo.beta = 0.2  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize("block", subclasses(Block), ids=lambda block: block.__name__)
def test_every_block_refuses_unknown_keys_and_infinite_numbers(block: type[Block]) -> None:
    assert block.model_config["extra"] == "forbid"
    assert block.model_config["frozen"] is True
    assert block.model_config["allow_inf_nan"] is False


@pytest.mark.parametrize("block", [RunConfig, DoraAdapter, NoTracking], ids=lambda block: block.__name__)
def test_defaults_are_written_as_the_same_values_given(block: type[Block]) -> None:
    # 32 for 32.0 would pass as a default and give another cache key than the same setting in a file.
    defaults = block()
    assert block.model_validate(defaults.model_dump()).model_dump_json() == defaults.model_dump_json()


def test_the_defaults_of_the_two_stages_differ_in_their_learning_rate() -> None:
    assert (SFTStageConfig().learning_rate, DPOStageConfig().learning_rate) == (0.0002, 0.000005)


@pytest.mark.parametrize(
    ("block", "kind"), [({}, LoraAdapter), ({"type": "lora"}, LoraAdapter), ({"type": "dora"}, DoraAdapter)]
)
def test_the_type_of_an_adapter_chooses_its_block(block: dict[str, str], kind: type[Block]) -> None:
    config = RunConfig.model_validate({"adapter": block} if block else {})
    assert type(config.adapter) is kind


def test_the_type_of_a_tracker_chooses_its_block() -> None:
    assert RunConfig.model_validate({"tracking": {"type": "none"}}).tracking == NoTracking()
    assert RunConfig().tracking == CometTracking()


def test_the_key_of_a_source_chooses_its_kind() -> None:
    data = DataConfig.model_validate(
        {
            "sft": [{"path": "dir/rows.jsonl"}, {"hub": "org/set", "hub_split": "dev"}, {"embedded": True}],
            "preference": [{"path": "pairs.jsonl"}, {"sample": {"checker": "exact"}}],
        }
    )
    assert [type(source) for source in data.sft] == [FileSource, HubSource, EmbeddedSource]
    assert [type(source) for source in data.preference] == [FileSource, SampledSource]


def test_sources_may_be_given_as_blocks() -> None:
    data = DataConfig(sft=[FileSource(path="a")], preference=[SampledSource(sample=SampleSettings(checker="exact"))])
    assert data.row_sources == [("sft", FileSource(path="a"))]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (FileSource(path="dir/rows.jsonl"), "rows.jsonl"),
        (HubSource(hub="org/set", hub_split="dev"), "org/set:dev"),
        (EmbeddedSource(embedded=True), "embedded"),
    ],
)
def test_a_source_has_a_name_for_messages(source: FileSource | HubSource | EmbeddedSource, name: str) -> None:
    assert source.name == name


def test_rows_are_read_from_all_sources_but_the_sampled_one() -> None:
    settings = SampleSettings(checker="exact")
    rows, pairs = FileSource(path="rows.jsonl"), FileSource(path="pairs.jsonl")
    data = DataConfig(sft=[rows], preference=[pairs, SampledSource(sample=settings)])
    assert data.row_sources == [("sft", rows), ("preference", pairs)]
    assert data.sampling == settings
    assert DataConfig(preference=[pairs]).sampling is None


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        ({"data": {"evaluation_share": 0.4, "test_share": 0.6}}, "together leave no rows to train on"),
        ({"data": {"preference": [{"sample": {"checker": "a"}}] * 2}}, "one sample block at most"),
        ({"sft": {"patience": 2}}, "patience needs best_metric"),
        ({"dpo": {"best_metric": "loss"}}, "best_metric needs evaluation_steps"),
        ({"dpo": {"loss": "hinge", "label_smoothing": 0.1}}, "label_smoothing does nothing for the loss hinge"),
        (
            {"sft": {"best_metric": "answer_score", "evaluation_steps": 5}},
            "sft.best_metric answer_score needs evaluation.checker",
        ),
        ({"dpo": {"label_smoothing": 0.5}}, "less than 0.5"),
        ({"dpo": {"loss": "exo_pair"}}, "exo_pair needs label_smoothing above 0"),
        (
            {"dpo": {"loss": "apo_zero", "f_divergence": "forward_kl"}},
            "f_divergence does nothing for the loss",
        ),
        ({"dpo": {"alpha_divergence": 0.3}}, "alpha_divergence does nothing unless f_divergence is alpha_divergence"),
        ({"dpo": {"discopop_tau": 0.3}}, "discopop_tau does nothing for the loss sigmoid"),
        ({"dpo": {"loss": "simpo", "ld_alpha": 0.5}}, "ld_alpha does nothing for the loss simpo"),
        ({"dpo": {"loss": "ipo", "simpo_gamma": 1}}, "simpo_gamma does nothing for the loss ipo; leave it out, or use"),
        ({"dpo": {"loss": "orpo", "nll_weight": 1}}, "nll_weight does nothing for the loss orpo"),
        ({"dpo": {"loss": "orpo", "reference": "stored"}}, "does nothing where the loss orpo has none"),
        ({"dpo": {"reference_free": True, "reference": "stored"}}, "does nothing where reference_free is true"),
        ({"dpo": {"loss": "own:f", "f_divergence": "forward_kl"}}, "f_divergence does nothing for the loss own:f"),
        ({"dpo": {"loss": "sigmoyd"}}, r"or module:function of your own \(did you mean sigmoid\?\)"),
        (
            {"dpo": {"loss": "simpo"}, "watch": {"on": {"displaced": "restart_with_nll"}}},
            "restart_with_nll does nothing for dpo.loss simpo",
        ),
        ({"dpo": {"beta": 0}}, "greater than 0"),
        ({"dpo": {"beta": 101}}, "less than or equal to 100"),
        ({"sft": {"learning_rate": 2}}, "less than or equal to 1"),
        ({"sft": {"max_steps": 0}}, "greater than 0"),
        ({"sft": {"max_steps": 10, "warmup": 10}}, "no shorter than the training"),
        ({"sft": {"schedule": "linear", "min_rate": 0.1}}, "min_rate does nothing for the schedule linear"),
        ({"sft": {"optimizer": "sgd", "adam_beta2": 0.95}}, "adam_beta2 does nothing for the optimizer sgd"),
        ({"sft": {"evaluation_steps": 5, "evaluation_examples": 50}}, "say the same"),
        ({"sft": {"save_total_limit": 1}}, "greater than or equal to 2"),
        ({"export": {"formats": ["int8"]}}, "formats does nothing without dir or hub"),
        ({"export": {"dir": "out", "formats": ["int8", "int8"]}}, "formats names one twice"),
        ({"export": {"dir": "out", "formats": []}}, "at least 1 item"),
        ({"export": {"hub": {"repository": "my-model"}}}, "must be an owner and a name"),
        ({"data": {"max_length": 7}}, "greater than or equal to 8"),
        ({"seed": 2**32}, "less than 4294967296"),
        ({"name": "-x"}, "must consist of letters"),
        ({"name": "x\n"}, "must consist of letters"),
        ({"name": ""}, "must consist of letters"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(block: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        RunConfig.model_validate(block)


@pytest.mark.parametrize("name", ["a", "7", "embedded-default", "A.b_c-1", "x" * 80])
def test_ordinary_names_pass(name: str) -> None:
    assert RunConfig(name=name).name == name


@pytest.mark.parametrize(("sft", "dpo", "warned"), [(2e-4, 5e-6, False), (1e-5, 1e-5, True), (1e-5, 2e-5, True)])
def test_a_dpo_rate_that_is_not_below_the_sft_rate_is_warned_of(sft: float, dpo: float, warned: bool) -> None:
    source = {"path": "rows.jsonl"}
    block = {"data": {"sft": [source], "preference": [source]}}
    config = RunConfig.model_validate({**block, "sft": {"learning_rate": sft}, "dpo": {"learning_rate": dpo}})
    assert bool(config.warnings) == warned


@pytest.mark.parametrize(
    ("adapter", "kept"),
    [
        ({"type": "dora", "r": 4}, {"type": "lora"}),
        ({"type": "qlora", "r": 4, "bits": 8}, {"type": "qlora", "bits": 8}),
        ({"type": "full"}, {"type": "full"}),
    ],
)
def test_what_scores_the_reference_holds_nothing_of_an_adapter_but_how_the_model_is_loaded(adapter, kept):
    config = RunConfig.model_validate({"adapter": adapter, "model": {"base": "x", "dtype": "float32"}})
    model, found = config.policy_while_scoring()
    assert found.model_dump(exclude_unset=True) == kept  # ZenML hands on what is set
    assert (model.base, model.dtype) == ("embedded", "float32")
