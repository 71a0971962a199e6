import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm_engineering.config.export import ExportConfig, HubExport, Likeness, ParityConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ConfigError, StoreError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import describe_checkpoint, locate_base
from llm_engineering.models.export import export_all, folder_of, repository_of, require_export
from llm_engineering.reports.folders import Checkpoint, hash_files
from llm_engineering.reports.promotion import Export, ExportParity

Checkpoints = Callable[[str], Checkpoint]
PROMPTS = [[40, 41, 42, 43], [50, 51], [60, 61, 62]]
IMPOSSIBLE = Likeness(agreement=1.0, kl=1e-12)


@pytest.fixture
def export(chats: Callable[[str], ChatTokenizer], tmp_path: Path) -> Callable[..., list[Export]]:
    def run(
        merged: Checkpoint, family: str = "llama", prompts: list[list[int]] | None = None, **config: object
    ) -> list[Export]:
        return export_all(
            merged,
            ExportConfig.model_validate({"dir": str(tmp_path / "new" / "export"), **config}),
            chats(family).tokenizer,
            PROMPTS if prompts is None else prompts,
            dtype=torch.float32,
            card=lambda each: f"card of {each.format}",
            scratch=tmp_path / "scratch",
        )

    return run


@pytest.fixture
def odd_model(model_checkpoints: Checkpoints, tmp_path: Path) -> Checkpoint:
    """Return a model with matrices of 15 * 15 weights: packed two to a byte, one is left over."""
    from transformers import LlamaConfig, LlamaForCausalLM

    like = model_checkpoints("llama")
    sizes = {"hidden_size": 15, "intermediate_size": 15, "num_attention_heads": 1, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig.from_pretrained(like.path, **sizes)).save_pretrained(tmp_path / "odd")
    return describe_checkpoint(tmp_path / "odd", "model", like)


def test_a_merged_export_is_a_full_copy_that_can_be_written_to_with_a_card(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    source, target = model_checkpoints("llama"), tmp_path / "new" / "export"
    [made] = export(source)
    assert (made.path, made.problem, made.parity) == (str(target), None, None)
    assert hash_files(target, leave_out="README.md") == source.sha256
    assert (target / "README.md").read_text() == "card of merged"
    (target / "config.json").write_text("{}")
    assert [path.name for path in target.parent.iterdir()] == ["export"]


def test_an_export_replaces_an_earlier_one_whole(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    export(model_checkpoints("llama"))
    (tmp_path / "new" / "export" / "notes.txt").write_text("of the earlier model")
    export(model_checkpoints("gpt2"), "gpt2")
    assert hash_files(tmp_path / "new" / "export", leave_out="README.md") == model_checkpoints("gpt2").sha256


def test_an_export_that_fails_leaves_the_earlier_one_and_no_half_one(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    export(model_checkpoints("gpt2"), "gpt2")
    lacking = tmp_path / "model"
    lacking.mkdir()
    for path in model_checkpoints("llama").path.iterdir():
        (lacking / path.name).write_bytes(path.read_bytes())
    source = describe_checkpoint(lacking, "model", model_checkpoints("llama"))
    (lacking / "lost.json").symlink_to(tmp_path / "nowhere")  # cannot be copied
    [made] = export(source)
    assert made.path is None
    assert "lost.json" in str(made.problem)
    assert hash_files(tmp_path / "new" / "export", leave_out="README.md") == model_checkpoints("gpt2").sha256
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["export"]


def test_a_copy_with_other_weights_is_not_published(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    [made] = export(model_checkpoints("llama").model_copy(update={"weights_sha256": "0" * 64}))
    assert made.problem == "merged is not published: the copy has other weights than the model. Check both disks."
    assert not (tmp_path / "new" / "export").exists()


@pytest.mark.filterwarnings("ignore:_check_is_size", "ignore:MatMul8bitLt")
def test_every_format_is_reloaded_and_compared_before_it_is_moved_into_place(
    export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    base = locate_base(ModelConfig())  # the tiny models are too narrow for blocks of 4 bits
    made = export(base, formats=["merged", "bfloat16", "int8", "int4"])
    assert [each.problem for each in made] == [None] * 4
    places = ["export", "export-bfloat16", "export-int4", "export-int8"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == places
    for each in made[1:]:
        assert each.parity is not None
        assert each.parity.prompts == 3
        assert 0 < each.parity.kl_per_token < 0.1
        assert 0 < each.parity.mean_logit_difference < each.parity.max_logit_difference
    sizes = [each.megabytes for each in made]
    assert sizes == sorted(sizes, reverse=True)
    saved = json.loads((tmp_path / "new" / "export-int4" / "config.json").read_text())["quantization_config"]
    assert (saved["load_in_4bit"], saved["bnb_4bit_quant_type"]) == (True, "nf4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="bitsandbytes converts it on a GPU")
@pytest.mark.filterwarnings("ignore:_check_is_size")
def test_a_model_that_the_tool_cannot_convert_is_said_to_be_one(
    odd_model: Checkpoint, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    merged, few_bits = export(odd_model, formats=["merged", "int4"])
    assert merged.problem is None
    assert few_bits.path is None
    assert str(few_bits.problem).startswith(f"int4 cannot be made of this model: {odd_model.path} is no ")
    assert "that transformers can load in few bits: " in str(few_bits.problem)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["export"]


def test_an_export_that_is_unlike_the_merged_model_is_not_published_and_the_others_are(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], tmp_path: Path
) -> None:
    made = export(
        model_checkpoints("llama"),
        formats=["bfloat16", "merged"],
        parity=ParityConfig(bfloat16=IMPOSSIBLE).model_dump(),
    )
    assert made[0].path is None
    assert str(made[0].problem).startswith("bfloat16 is not published: it agrees with the merged model at ")
    assert "Loosen export.parity.bfloat16" in str(made[0].problem)
    assert made[0].parity is not None
    assert made[1].problem is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["export"]


def test_without_questions_to_compare_on_only_the_merged_model_is_published(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]]
) -> None:
    merged, half = export(model_checkpoints("llama"), prompts=[], formats=["merged", "bfloat16"])
    assert merged.problem is None
    assert half.problem == "bfloat16 is not published: there are no held-out questions to compare it on."


def test_what_cannot_be_compared_keeps_no_other_format_from_being_exported(
    model_checkpoints: Checkpoints, export: Callable[..., list[Export]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_engineering.models.parity.NEW_TOKENS", 0)  # no answer has a token
    merged, half = export(model_checkpoints("llama"), formats=["merged", "bfloat16"])
    assert (merged.problem, half.path) == (None, None)
    assert "nothing can be compared" in str(half.problem)


@pytest.mark.parametrize(
    ("agreement", "kl", "passed"), [(0.9, 0.1, True), (0.89, 0.1, False), (0.9, 0.11, False), (1.0, math.nan, False)]
)
def test_both_thresholds_have_to_hold(agreement: float, kl: float, passed: bool) -> None:
    parity = ExportParity(
        prompts=1,
        positions=10,
        agreement=agreement,
        kl_per_token=kl,
        max_logit_difference=0.0,
        mean_logit_difference=0.0,
        least_agreement=0.9,
        most_kl=0.1,
    )
    assert parity.passed is passed


def test_formats_lie_beside_the_merged_model() -> None:
    hub = HubExport(repository="me/zoo")
    assert (folder_of("/a/zoo", "merged"), folder_of("/a/zoo", "int8")) == (Path("/a/zoo"), Path("/a/zoo-int8"))
    assert (repository_of(hub, "merged"), repository_of(hub, "int8")) == ("me/zoo", "me/zoo-int8")


@pytest.mark.parametrize("held", ["thesis.txt", "config.json"])
def test_a_folder_that_holds_something_else_is_refused_before_training(held: str, tmp_path: Path) -> None:
    (tmp_path / held).write_text("{}")
    with pytest.raises(StoreError, match="holds something that is no model"):
        require_export(ExportConfig(dir=str(tmp_path)))
    assert (tmp_path / held).read_text() == "{}"


def test_a_file_or_a_folder_below_one_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a file\. Name a folder"):
        require_export(ExportConfig(dir=str(tmp_path / "file")))
    with pytest.raises(StoreError, match=r"cannot be written: (Not a directory|File exists)"):
        require_export(ExportConfig(dir=str(tmp_path / "file" / "export")))


def test_a_format_whose_tool_is_missing_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"gguf needs llama\.cpp's convert_hf_to_gguf\.py on the PATH"):
        require_export(ExportConfig(dir=str(tmp_path / "out"), formats=["gguf"]))


def test_a_converter_that_fails_is_quoted_and_nothing_is_published(
    model_checkpoints: Checkpoints,
    export: Callable[..., list[Export]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("#!/bin/sh\necho 'unknown pre-tokenizer' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    [made] = export(model_checkpoints("llama"), formats=["gguf"])
    assert made.problem == (
        "gguf cannot be made of this model: convert_hf_to_gguf.py ended with 'unknown pre-tokenizer'."
    )
    assert not any((tmp_path / "new").iterdir())
