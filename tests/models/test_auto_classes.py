"""Code from a model folder never runs, and what would need it is refused by the name of the file and the key."""

import ast
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ModelError
from llm_engineering.models.auto_classes import read_config, read_tokenizer
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model, locate_base, locate_description, save_model
from llm_engineering.planning.shape import read_shape

ROOT = Path(__file__).parents[2]
ROOMS = ("llm_engineering", "steps", "pipelines", "tools", "benchmarks")
OWN_CODE = {"AutoConfig": "modeling_stranger.Config", "AutoModelForCausalLM": "modeling_stranger.Model"}
PART = {"model_type": "mllama_text_model", "auto_map": {"AutoModel": "modeling_stranger.Model"}}
PART_OF_ITS_OWN = {"model_type": "fuyu", "text_config": PART}
"""Fuyu builds its part by an auto class, to which nobody hands ``trust_remote_code=False``."""
OWN_TOKENIZER = {"AutoTokenizer": ["modeling_stranger.Tokenizer", None]}
HAS_NO_CODE = {"GenerationConfig", "PeftModel"}
"""Classes that take no code from a folder: numbers alone, and adapters that a run has written itself."""


@pytest.fixture
def planted(
    model_folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Return a function that gives a llama folder with a stranger's code; stdin says yes, and the code must not run."""
    marker, folder = tmp_path / "it-ran", Path(shutil.copytree(model_folders("llama"), tmp_path / "model"))
    code = f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    (folder / "modeling_stranger.py").write_text(code)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n" * 9))

    def plant(**changes: dict[str, Any]) -> Path:
        for name, values in changes.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return folder

    yield plant
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"config": {"model_type": "stranger", "auto_map": OWN_CODE}},
            r"auto_map in \S+/config\.json names it for the model type 'stranger'",
        ),
        (
            {"config": {"model_type": "t5", "auto_map": OWN_CODE}},
            r"auto_map in \S+/config\.json names it for the model type 't5'",
        ),
        (
            {"config": PART_OF_ITS_OWN},
            r"auto_map in text_config of \S+/config\.json names it",
        ),
        (
            {"tokenizer_config": {"tokenizer_class": "StrangerTokenizerFast", "auto_map": OWN_TOKENIZER}},
            r"auto_map in \S+/tokenizer_config\.json names the tokenizer_class 'StrangerTokenizerFast'",
        ),
        (
            {"tokenizer_config": {"tokenizer_class": "Stranger", "auto_map": OWN_TOKENIZER["AutoTokenizer"]}},
            r"auto_map in \S+/tokenizer_config\.json names the tokenizer_class 'Stranger'",
        ),
        (
            {
                "config": {"model_type": "stranger"},
                "tokenizer_config": {"tokenizer_class": None, "auto_map": OWN_TOKENIZER},
            },
            r"auto_map in \S+/tokenizer_config\.json names the tokenizer\b",
        ),
    ],
)
@pytest.mark.parametrize("locate", [locate_base, locate_description])
def test_a_folder_that_needs_its_own_code_is_refused(
    changes: dict[str, Any], reason: str, locate: Callable[[ModelConfig, str], object], planted: Callable[..., Path]
) -> None:
    folder = planted(**changes)
    with pytest.raises(
        ModelError, match=rf"^evaluation\.models\.x '{folder}' needs Python code of its own, .*{reason}"
    ):
        locate(ModelConfig(base=str(folder)), "evaluation.models.x")


def test_the_file_that_config_json_lists_for_this_version_is_the_one_that_counts(planted: Callable[..., Path]) -> None:
    folder = planted(config={"configuration_files": ["config.5.0.0.json"]})
    (folder / "config.5.0.0.json").write_text(json.dumps({"model_type": "stranger", "auto_map": OWN_CODE}))
    with pytest.raises(ModelError, match=r"auto_map in \S+/config\.5\.0\.0\.json names it"):
        locate_base(ModelConfig(base=str(folder)))


@pytest.mark.parametrize("listed", [["config.newest.json"], [5], 5])
def test_damaged_configuration_files_are_one_sentence(listed: object, planted: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"configuration_files in \S+/config\.json is damaged"):
        locate_base(ModelConfig(base=str(planted(config={"configuration_files": listed}))))


def test_generation_by_code_of_the_folder_is_refused(planted: Callable[..., Path]) -> None:
    folder = planted()
    (folder / "custom_generate").mkdir()
    shutil.copyfile(folder / "modeling_stranger.py", folder / "custom_generate" / "generate.py")
    with pytest.raises(ModelError, match=r"needs Python code of its own, .*: it has the folder \S+/custom_generate\."):
        locate_base(ModelConfig(base=str(folder)))


@pytest.mark.parametrize("mapped", [OWN_TOKENIZER, ["modeling_stranger.Tokenizer"], {"AutoTokenizer": "stranger.T"}])
def test_a_left_over_auto_map_does_no_harm_and_is_not_passed_on(
    mapped: object, planted: Callable[..., Path], tmp_path: Path
) -> None:
    folder = planted(config={"auto_map": OWN_CODE}, tokenizer_config={"auto_map": mapped})
    base = locate_base(ModelConfig(base=str(folder)))
    if isinstance(mapped, list):  # shorter than any that transformers has written
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_chat_tokenizer(base, ModelConfig())
        return
    tokenizer, model = load_chat_tokenizer(base, ModelConfig()).tokenizer, load_model(folder, torch.float32)
    assert (type(model).__name__, read_shape(folder).model_type) == ("LlamaForCausalLM", "llama")
    save_model(model, tokenizer, tmp_path / "saved")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" in (folder / name).read_text()
        assert "auto_map" not in (tmp_path / "saved" / name).read_text()


def test_loaders_ask_nobody_even_where_no_one_has_looked_before(planted: Callable[..., Path]) -> None:
    folder = planted(
        config={"model_type": "stranger", "auto_map": OWN_CODE},
        tokenizer_config={"tokenizer_class": "Stranger", "auto_map": OWN_TOKENIZER},
    )
    with pytest.raises(ModelError, match=rf"^{folder} needs Python code of its own"):
        read_config(folder)
    with pytest.raises(ModelError, match=r"The tokenizer in .* cannot be loaded"):
        read_tokenizer(folder)
    with pytest.raises(ModelError, match=rf"^{folder} needs Python code of its own"):
        load_model(folder, torch.float32)


def test_code_of_a_part_never_runs(planted: Callable[..., Path], tmp_path: Path) -> None:
    own = {**PART_OF_ITS_OWN, "text_config": {**PART, "_name_or_path": str(tmp_path / "model")}}
    with pytest.raises(ModelError, match=r"auto_map in text_config of \S+/config\.json names it"):
        read_shape(planted(config=own))


def test_a_model_of_the_hub_is_refused_before_its_weights_are_fetched(
    planted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder = planted(config={"model_type": "stranger", "auto_map": OWN_CODE})
    asked: list[list[str]] = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, revision, allow_patterns: asked.append(allow_patterns) or str(folder),
    )
    with pytest.raises(ModelError, match=r"model\.base 'a/stranger' needs Python code of its own"):
        locate_base(ModelConfig(base="a/stranger"))
    assert ["*.safetensors" in patterns for patterns in asked] == [False]


def test_a_data_set_with_a_script_is_not_run(tmp_path: Path, planted: Callable[..., Path]) -> None:
    from datasets import load_dataset

    folder = tmp_path / "rows"
    folder.mkdir()
    shutil.copyfile(planted() / "modeling_stranger.py", folder / "rows.py")
    (folder / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(RuntimeError, match=r"scripts are no longer supported, but found rows\.py"):
        load_dataset(str(folder))


def calls_that_load() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Yield place, class and literal arguments of all calls that load or build a model, tokenizer or configuration."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                *owner, called = ast.unparse(node.func).split(".")
                if called in ("from_pretrained", "from_config", "HFLM"):
                    said = {key.arg: key.value.value for key in node.keywords if isinstance(key.value, ast.Constant)}
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", owner[-1] if owner else called, said


def test_every_call_that_loads_says_that_no_code_is_trusted_and_weights_are_safetensors() -> None:
    found = list(calls_that_load())
    assert {"AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "FastLanguageModel", "HFLM"} <= {
        name for _, name, _ in found
    }
    for place, name, said in found:
        if name in HAS_NO_CODE:
            continue
        assert said.get("trust_remote_code") is False, place
        if name in ("AutoModelForCausalLM", "FastLanguageModel") and "local_files_only" in said:  # not `from_config`
            assert said.get("use_safetensors") is True, place


def test_auto_classes_are_named_in_one_place() -> None:
    rooms = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in rooms
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in [getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)]
        if isinstance(name, str) and re.match(r"Auto(Config|Tokenizer|Processor|\w*Model)", name)
    }
    assert {place.partition(":")[0] for place in found} == {"llm_engineering/models/auto_classes.py"}
