"""What a configuration may say, what wins, and how mistakes are named."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llm_engineering.config.data import FileSource
from llm_engineering.config.model import DoraAdapter, LoraAdapter
from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import CometTracking, NoTracking
from llm_engineering.config.yaml import loader
from llm_engineering.config.yaml.layers import MAX_NODES
from llm_engineering.config.yaml.loader import CONFIGS_DIR, DEFAULT_CONFIG, dump_config, load_config
from llm_engineering.config.yaml.problems import nearest, one_of
from llm_engineering.errors import ConfigError

TOP_LEVEL = ", ".join(RunConfig.model_fields)


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | bytes, name: str = "mine.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(text: str | bytes, *overrides: str) -> RunConfig:
    return load_config([write(text)], overrides)


def message(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return str(caught.value)


# What loads

RUNS = sorted(path for path in CONFIGS_DIR.rglob("*.yaml") if path.parent.name != "stacks")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load_config([path]) == load_config([path.stem])


def test_the_default_configuration_is_the_embedded_model() -> None:
    config = load_config([DEFAULT_CONFIG])
    assert (config.name, config.model.base, config.dpo.beta) == ("embedded-default", "embedded", 0.3)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_holds_no_settings(text: str) -> None:
    assert load(text) == RunConfig()


def test_no_file_at_all_gives_the_defaults() -> None:
    assert load_config([]) == RunConfig()


def test_a_number_without_a_dot_before_its_exponent_is_a_number() -> None:
    assert load("sft: {learning_rate: 2e-5}").sft.learning_rate == 0.00002


def test_a_whole_number_does_for_a_fraction() -> None:
    assert load("dpo: {beta: 1}").dpo.beta == 1.0


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert load("\ufeffseed: 7").seed == 7


def test_an_anchor_may_be_used_again() -> None:
    config = load("sft: &both {epochs: 2}\ndpo:\n  <<: *both\n  beta: 0.2\n")
    assert (config.sft.epochs, config.dpo.epochs, config.dpo.beta) == (2, 2, 0.2)


def test_notes_of_the_yaml_reader_do_not_reach_the_log() -> None:
    assert load("%YAML 1.1\n---\nname: &a x\nsft: {learning_rate: 1e-3, epochs: &a 2}").sft.learning_rate == 0.001


# Which layer wins


def test_later_files_win_key_by_key() -> None:
    write("seed: 1\nsft: {epochs: 2, batch_size: 4}\n", "first.yaml")
    write("seed: 2\nsft: {batch_size: 16}\n", "second.yaml")
    config = load_config(["first.yaml", Path("second.yaml")])
    assert (config.seed, config.sft.epochs, config.sft.batch_size, config.sft.accumulation) == (2, 2, 16, 1)


def test_overrides_win_over_files_and_the_last_one_over_the_others() -> None:
    assert load("dpo: {beta: 0.3}", "dpo.beta=0.4", "dpo.beta=0.5").dpo.beta == 0.5


def test_lists_are_replaced_whole() -> None:
    write("evaluation: {prompts: [a, b, c]}", "first.yaml")
    write("evaluation: {prompts: [d]}", "second.yaml")
    assert load_config(["first.yaml", "second.yaml"]).evaluation.prompts == ["d"]


def test_tolerances_are_laid_over_the_defaults() -> None:
    tolerances = load("promotion: {tolerances: {answer_accuracy: 0.1}}").promotion.tolerances
    assert tolerances == {**RunConfig().promotion.tolerances, "answer_accuracy": 0.1}


def test_a_block_of_the_default_type_needs_no_type() -> None:
    assert load("adapter: {r: 4}").adapter == LoraAdapter(r=4)


def test_a_block_of_the_same_type_merges() -> None:
    write("adapter: {type: dora, r: 4}", "first.yaml")
    write("adapter: {type: dora, alpha: 8}", "second.yaml")
    assert load_config(["first.yaml", "second.yaml"]).adapter == DoraAdapter(r=4, alpha=8)


def test_a_block_of_another_type_replaces_the_earlier_one() -> None:
    write("tracking: {type: comet, project: theirs}\nadapter: {r: 4}", "first.yaml")
    write("tracking: {type: none}\nadapter: {type: dora}", "second.yaml")
    config = load_config(["first.yaml", "second.yaml"])
    assert config.tracking == NoTracking()
    assert config.adapter == DoraAdapter(r=16)


@pytest.mark.parametrize("overrides", [("adapter.type=dora", "adapter.r=4"), ("adapter.r=4", "adapter.type=dora")])
def test_an_override_of_a_type_keeps_its_blocks_other_overrides(overrides: tuple[str, str]) -> None:
    assert load("adapter: {r: 8}", *overrides).adapter == DoraAdapter(r=4)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("dpo.learning_rate=2e-5", lambda config: config.dpo.learning_rate == 0.00002),
        ("adapter.targets=[q_proj, v_proj]", lambda config: config.adapter.targets == ["q_proj", "v_proj"]),
        ("evaluation.checker=null", lambda config: config.evaluation.checker is None),
        ("evaluation.prompts=['a=b: c']", lambda config: config.evaluation.prompts == ["a=b: c"]),
        ("model.revision='12'", lambda config: config.model.revision == "12"),
        ("sft.gradient_checkpointing=true", lambda config: config.sft.gradient_checkpointing is True),
        ("adapter={r: 2}", lambda config: config.adapter == LoraAdapter(r=2)),
        (" tracking.project = mine", lambda config: config.tracking == CometTracking(project="mine")),
        ("promotion.tolerances.looping=0.5", lambda config: config.promotion.tolerances["looping"] == 0.5),
    ],
)
def test_an_override_is_read_as_yaml(override: str, found: Any) -> None:
    assert found(load("", override))


def test_an_override_reaches_into_a_list_by_number() -> None:
    config = load("data: {sft: [{path: /a}, {path: /b, first: 2}]}", "data.sft.1.path=/c", "data.sft.0.first=3")
    assert config.data.sft == [FileSource(path="/a", first=3), FileSource(path="/c", first=2)]


# Where relative paths start


def test_data_files_are_looked_for_beside_the_file_that_names_them(workdir: Path) -> None:
    write("data: {sft: [{path: rows.jsonl}, {path: ../up.csv}, {path: /abs/x.json}]}", "deep/first.yaml")
    write("data: {preference: [{path: pairs.jsonl}]}", "other/second.yaml")
    data = load_config(["deep/first.yaml", "other/second.yaml"]).data
    assert [source.path for source in data.sft if isinstance(source, FileSource)] == [
        f"{workdir}/deep/rows.jsonl",
        f"{workdir}/up.csv",
        "/abs/x.json",
    ]
    assert data.preference == [FileSource(path=f"{workdir}/other/pairs.jsonl")]


def test_addresses_of_data_files_are_left_and_patterns_start_beside_the_file(workdir: Path) -> None:
    addresses = ["s3://bucket/rows/*.jsonl", "https://host/a.csv?x=1", "zip://a.csv::s3://b/c.zip", "file:///a.json"]
    sources = ", ".join(f"{{path: '{path}'}}" for path in [*addresses, "rows/**/*.jsonl.gz", "[ab]/?.csv", "rows/"])
    write(f"data: {{sft: [{sources}]}}", "deep/mine.yaml")
    assert [source.path for source in load_config(["deep/mine.yaml"]).data.sft if isinstance(source, FileSource)] == [
        *addresses,
        f"{workdir}/deep/rows/**/*.jsonl.gz",
        f"{workdir}/deep/[ab]/?.csv",
        f"{workdir}/deep/rows",
    ]


def test_data_files_in_an_override_start_at_the_working_directory(workdir: Path) -> None:
    write("data: {sft: [{path: a}, {path: b}]}", "deep/mine.yaml")
    data = load_config(["deep/mine.yaml"], ["data.sft.0.path=x.jsonl", "data.preference=[{path: y.jsonl}]"]).data
    assert data.sft == [FileSource(path=f"{workdir}/x.jsonl"), FileSource(path=f"{workdir}/deep/b")]
    assert data.preference == [FileSource(path=f"{workdir}/y.jsonl")]


def test_a_linked_data_file_keeps_its_own_name(workdir: Path) -> None:
    write("{}\n", "blobs/3f2a")
    Path("rows.jsonl").symlink_to("blobs/3f2a")
    assert load("data: {sft: [{path: rows.jsonl}]}").data.sft == [FileSource(path=f"{workdir}/rows.jsonl")]


def test_a_model_folder_beside_the_file_is_taken_and_a_hub_id_left(workdir: Path) -> None:
    Path("deep/org/model").mkdir(parents=True)
    Path("embedded").mkdir()
    write("model: {base: org/model}", "deep/mine.yaml")
    assert load_config(["deep/mine.yaml"]).model.base == f"{workdir}/deep/org/model"
    assert load_config(["deep/mine.yaml"], ["model.base=org/model"]).model.base == "org/model"
    assert load("model: {base: embedded}").model.base == "embedded"


def test_a_chat_template_beside_the_file_is_taken_and_a_named_one_left(workdir: Path) -> None:
    write("{{ messages }}", "deep/mine.jinja")
    write("{{ messages }}", "deep/chatml")
    write("model: {chat_template: mine.jinja}", "deep/mine.yaml")
    assert load_config(["deep/mine.yaml"]).model.chat_template == f"{workdir}/deep/mine.jinja"
    assert load("model: {chat_template: chatml}").model.chat_template == "chatml"
    assert load("model: {chat_template: absent.jinja}").model.chat_template == "absent.jinja"


def test_a_chat_template_that_is_no_path_is_left_for_the_models_room() -> None:
    template = "{% for message in messages %}" * 500
    assert load(f'model: {{chat_template: "{template}"}}').model.chat_template == template


def test_the_export_folder_is_left_as_it_is() -> None:
    write("export: {dir: out}", "deep/mine.yaml")
    assert load_config(["deep/mine.yaml"]).export.dir == "out"


# Names


def test_a_name_is_looked_up_in_the_shipped_configurations(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CONFIGS_DIR", workdir / "configs")
    write("name: top", "configs/quick.yaml")
    write("name: recipe", "configs/recipes/low-memory.yaml")
    write("name: model\nsed: 1", "configs/models/qwen.yaml")
    assert [load_config([name]).name for name in ("quick", "low-memory")] == ["top", "recipe"]
    with pytest.raises(ConfigError) as caught:
        load_config(["qwen"])
    assert str(caught.value) == "configs/models/qwen.yaml, line 2: sed is not a known key; did you mean seed?"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            "lowmemory",
            "lowmemory does not exist; configurations with a name: low-memory, quick; did you mean low-memory?",
        ),
        ("a/b.yaml", "a/b.yaml does not exist; configurations with a name: low-memory, quick."),
    ],
)
def test_a_missing_file_is_answered_with_the_names_there_are(
    asked: str, said: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CONFIGS_DIR", workdir / "configs")
    write("", "configs/quick.yaml")
    write("", "configs/recipes/low-memory.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config([asked])
    assert str(caught.value) == said


# Files that cannot be read


def test_a_folder_is_no_file() -> None:
    Path("deep").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(["deep"])
    assert str(caught.value) == "deep is a folder; name a YAML file in it."


def test_a_file_that_cannot_be_opened_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message("seed: 1") == "mine.yaml cannot be read: Permission denied."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"seed: 1\nname: \xff", "mine.yaml, line 2: not UTF-8 text; save the file as UTF-8."),
        ("- seed", "mine.yaml, line 1: the top level must be keys with values, such as `seed: 42`."),
        ("seed", "mine.yaml, line 1: the top level must be keys with values, such as `seed: 42`."),
        ("sft:\n  epochs: 1: 2", "mine.yaml, line 2: not valid YAML: mapping values are not allowed here."),
        ('seed: 1\nname: "x\ndpo: {}\n', "mine.yaml, line 2: not valid YAML: what starts here is not closed."),
        ("seed: 1\n\tname: x", "mine.yaml, line 2: not valid YAML: found character '\\t' that cannot start any token."),
        ("name: *x", "mine.yaml, line 1: not valid YAML: found undefined alias 'x'."),
        ("seed: 1\nname: \x01", "mine.yaml, line 2: not valid YAML: a control character."),
        (
            "seed: 1\n---\nseed: 2",
            "mine.yaml, line 2: not valid YAML: expected a single document in the stream but found another document.",
        ),
        ("name: 2024-99-99", "mine.yaml: not valid YAML: month must be in 1..12."),
        ("name: !!bool x", "mine.yaml: not valid YAML: a tag or a key of a kind that is not used here."),
        ("sft: " + "[" * 500, "mine.yaml: not valid YAML: nested too deeply."),
        ("seed: 1\nname: x\nseed: 2", "mine.yaml, line 3: seed is given twice in one block; keep one of them."),
        ("a:\n  key: s3cret\n  key: other", "mine.yaml, line 3: key is given twice in one block; keep one of them."),
        ("3: x", "mine.yaml, line 1: the key 3 must be text; put it in quotes."),
        ("? [a, b]\n: x", "mine.yaml, line 1: every key must be text; put it in quotes."),
        ("name: !mine x", "mine.yaml, line 1: YAML tags such as !mine are not used here; write the plain value."),
        (
            "name: !!set {a}",
            "mine.yaml, line 1: a value is neither text, number, true, false, null, list nor mapping.",
        ),
    ],
)
def test_broken_text_is_named_with_its_line(text: str | bytes, said: str) -> None:
    assert message(text) == said


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert message("\n".join(lines)) == f"mine.yaml holds more than {MAX_NODES} values, aliases included."


# Keys and values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data:\n  max_lenght: 3", "2: data.max_lenght is not a known key; did you mean max_length?"),
        (
            "tracking: {zzz: 1}",
            "1: tracking.zzz is not a known key; known here: type, project, workspace, secret, log_adapter_mb, "
            "log_model.",
        ),
        ("s: 1", f"1: s is not a known key; known here: {TOP_LEVEL}."),
        (
            "\ndata:\n  sft:\n  - path: x\n    frist: 2",
            "5: data.sft.0.frist is not a known key; did you mean first?",
        ),
        ("data: {sft: [{pth: x}]}", "1: data.sft.0.pth is not a known key; did you mean path?"),
        (
            "data: {preference: [{sample: {checker: exact, num_sample: 2}}]}",
            "1: data.preference.0.sample.num_sample is not a known key; did you mean num_samples?",
        ),
        ("dpo:\n\n  beta: -1", "3: dpo.beta must be greater than 0, got -1."),
        ("sft: {warmup: -0.5}", "1: sft.warmup must be at least 0, got -0.5."),
        ("adapter: {dropout: 1}", "1: adapter.dropout must be less than 1, got 1."),
        ("data: {test_share: 1.5}", "1: data.test_share must be at most 1, got 1.5."),
        ("sft: {learning_rate: .inf}", "1: sft.learning_rate must be a finite number, got inf."),
        ("sft: {warmup: .nan}", "1: sft.warmup must be a finite number, got nan."),
        ("sft: {batch_size: eight}", "1: sft.batch_size must be a whole number, got 'eight'."),
        ('sft: {batch_size: "8"}', "1: sft.batch_size must be a whole number, got '8'."),
        ("sft: {batch_size: true}", "1: sft.batch_size must be a whole number, got true."),
        ("sft: {batch_size: 8.0}", "1: sft.batch_size must be a whole number, got 8.0."),
        ("sft: {epochs: 'two'}", "1: sft.epochs must be a number, got 'two'."),
        ("sft: {epochs: true}", "1: sft.epochs must be a number, got true."),
        ("sft: {gradient_checkpointing: yes}", "1: sft.gradient_checkpointing must be true or false, got 'yes'."),
        ("model: {revision: 1234567}", "1: model.revision must be text, got 1234567; put it in quotes."),
        ("model: {revision: 2024-01-31}", "1: model.revision must be text, got 2024-01-31; put it in quotes."),
        ("name:", "1: name must be text, got null."),
        (f"name: {'x' * 81}", f"1: name must have at most 80 characters, got '{'x' * 60}…'."),
        (
            "name: my run",
            "1: name must consist of letters, digits, '.', '_' and '-', the first a letter or digit, got 'my run'.",
        ),
        ("data: {sft: {path: x}}", "1: data.sft must be a list, got a block of keys."),
        ("sft: [1, 2]", "1: sft must be a block of keys, got a list."),
        ("sft:", "1: sft must be a block of keys, got null."),
        ("adapter: lora", "1: adapter must be a block of keys, got 'lora'."),
        ("promotion: {tolerances: 3}", "1: promotion.tolerances must be a block of keys, got 3."),
        (
            "promotion:\n  tolerances:\n    repetition: 0.1\n    prefered_rate: 0.1",
            "4: promotion.tolerances.prefered_rate: there is no metric prefered_rate; did you mean preferred_rate?",
        ),
        (
            "promotion: {tolerances: {rouge: 1}}",
            "1: promotion.tolerances.rouge: there is no metric rouge; docs/evaluation.md lists all.",
        ),
        (
            "promotion: {tolerances: {kl_per_token: 1}}",
            "1: promotion.tolerances.kl_per_token: more of kl_per_token is neither better nor worse, so that it "
            "decides nothing; name another metric.",
        ),
        (
            "sweep: {dpo.beta: [0.1], metric: answer_acuracy}",
            "1: sweep.metric: there is no metric answer_acuracy; did you mean answer_accuracy?",
        ),
        (
            "evaluation: {models: {my model: x}}",
            "1: evaluation.models.my model must consist of at most 40 letters, digits, '_' and '-', the first a letter "
            "or digit, got 'my model'.",
        ),
        (
            "dpo: {schedule: cosinus}",
            "1: dpo.schedule must be cosine, linear, constant or inverse_sqrt, got 'cosinus'.",
        ),
        ("adapter:\n  r: 8\n  type: lroa", "3: adapter.type must be lora, dora, qlora or full, got 'lroa'."),
        ("adapter: {type: null}", "1: adapter.type must be lora, dora, qlora or full, got null."),
        ("adapter: {r: -1}", "1: adapter.r must be greater than 0, got -1."),
        ("adapter: {targets: some}", "1: adapter.targets must be all-linear or a list, got 'some'."),
        ("adapter:\n  targets:\n  - q\n  - 3", "4: adapter.targets.1 must be text, got 3; put it in quotes."),
        (
            "data: {sft: [{path: x, columns: {a: 1}}]}",
            "1: data.sft.0.columns.a must be text, got 1; put it in quotes.",
        ),
        ("data: {sft: [{embedded: false}]}", "1: data.sft.0.embedded must be true, got false."),
        (
            "data: {sft: [rows.jsonl]}",
            "1: data.sft.0 must be a block with the key path, hub, artifact or embedded, got 'rows.jsonl'.",
        ),
        (
            "data: {sft: [{path: x, hub: y}]}",
            "1: data.sft.0 needs exactly one of the keys path, hub, artifact or embedded.",
        ),
        ("data: {sft: [{first: 3}]}", "1: data.sft.0 needs exactly one of the keys path, hub, artifact or embedded."),
        (
            "data: {preference: [{embedded: true}]}",
            "1: data.preference.0 needs exactly one of the keys path, hub, artifact or sample.",
        ),
        ("data:\n  preference:\n  - sample: {}", "3: data.preference.0.sample.checker is missing."),
        (
            "data: {preference: [{sample: {checker: a, num_samples: 1}}]}",
            "1: data.preference.0.sample.num_samples must be at least 2, got 1.",
        ),
        (
            "seed: 1\nsft:\n  epochs: 1\n  patience: 3",
            "2: sft: patience needs best_metric, the metric to be patient about.",
        ),
        (
            "data:\n  evaluation_share: 0.5\n  test_share: 0.5",
            "1: data: evaluation_share and test_share together leave no rows to train on.",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(text: str, said: str) -> None:
    assert message(text) == f"mine.yaml, line {said}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dpo.beta", "--set 'dpo.beta' needs the form KEY=VALUE, such as --set dpo.beta=0.2."),
        ("=1", "--set '' needs the form KEY=VALUE, such as --set dpo.beta=0.2."),
        ("dpo..beta=1", "--set 'dpo..beta' needs the form KEY=VALUE, such as --set dpo.beta=0.2."),
        ("dpo.betta=1", "--set dpo.betta: dpo.betta is not a known key; did you mean beta?"),
        ("dop.beta=1", "--set dop.beta: dop is not a known key; did you mean dpo?"),
        ("dpo.beta=-1", "--set dpo.beta: dpo.beta must be greater than 0, got -1."),
        ("dpo.beta.x=1", "--set dpo.beta.x: dpo.beta must be a number, got a block of keys."),
        ("sft.batch_size='8'", "--set sft.batch_size: sft.batch_size must be a whole number, got '8'."),
        ("sft.epochs=[1", "--set sft.epochs: not valid YAML: what starts here is not closed."),
        ("sft.patience=2", "--set sft.patience: sft: patience needs best_metric, the metric to be patient about."),
        ("adapter.type=lroa", "--set adapter.type: adapter.type must be lora, dora, qlora or full, got 'lroa'."),
        (
            "data.sft.1.path=x",
            "--set data.sft.1.path: data.sft has no entry '1'; its entries are numbered 0 to 0.",
        ),
        (
            "data.sft.path=x",
            "--set data.sft.path: data.sft has no entry 'path'; its entries are numbered 0 to 0.",
        ),
        (
            "data.preference.0.path=x",
            "--set data.preference.0.path: data.preference is an empty list; "
            "set it whole, such as --set 'data.preference=[...]'.",
        ),
    ],
)
def test_a_wrong_override_is_named_by_its_key(override: str, said: str) -> None:
    assert message("data: {sft: [{path: rows.jsonl}]}", override) == said


def test_a_broken_rule_is_laid_to_the_layer_that_broke_it() -> None:
    write("seed: 1\ndata:\n  test_share: 0.6\n", "first.yaml")
    write("\n\n\ndata:\n  evaluation_share: 0.6\n", "second.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(["first.yaml", "second.yaml"], ["data.max_length=64"])
    rule = "evaluation_share and test_share together leave no rows to train on"
    assert str(caught.value) == f"second.yaml, line 4: data: {rule}."


def test_a_wrong_value_that_a_later_layer_replaces_does_no_harm() -> None:
    assert load("dpo: {beta: -1}", "dpo.beta=0.2").dpo.beta == 0.2


def test_several_problems_come_in_the_order_of_layers_and_lines() -> None:
    write("sft: {epochs: 0}\nsed: 1\n", "first.yaml")
    write("name: 3", "second.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config(["first.yaml", "second.yaml"], ["dpo.beta=no"])
    assert str(caught.value).splitlines() == [
        "first.yaml, line 1: sft.epochs must be greater than 0, got 0.",
        "first.yaml, line 2: sed is not a known key; did you mean seed?",
        "second.yaml, line 1: name must be text, got 3; put it in quotes.",
        "--set dpo.beta: dpo.beta must be a number, got 'no'.",
    ]


def test_at_most_five_problems_are_shown_and_the_rest_counted() -> None:
    lines = message("\n".join(f"sed{n}: 1" for n in range(1, 8))).splitlines()
    assert lines[:5] == [f"mine.yaml, line {n}: sed{n} is not a known key; did you mean seed?" for n in range(1, 6)]
    assert lines[5:] == ["…and 2 more"]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("tracking: {api_key: s3cret}", ()),
        ("api_key: s3cret", ()),
        ("data: {sft: [{path: x, token: s3cret}]}", ()),
        ("data: {sft: [{token: s3cret}]}", ()),
        ("api_key: s3cret\napi_key: s3cret", ()),
        ("tracking: {api_key: {inner: s3cret}}", ()),
        ("", ("tracking.api_key=s3cret",)),
        ("", ("tracking={api_key: s3cret}",)),
        ("", ("tracking={api_key: s3cret",)),
    ],
)
def test_the_value_of_an_unknown_key_is_never_shown(text: str, overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


# What is written


def test_a_dumped_configuration_loads_again() -> None:
    config = load(
        "adapter: {type: dora, targets: [q, 'yes']}\n"
        "data:\n  sft: [{path: a.jsonl, first: 3}, {hub: org/name}, {embedded: true}]\n"
        "  preference: [{sample: {checker: exact}}]\n"
        "evaluation: {prompts: ['2e-5', '', 'null', \"a: b\\nc\", 'é… #']}\n"
        "tracking: {type: none}\nsft: {learning_rate: 2e-5}\n"
    )
    assert load(dump_config(config)) == config


def test_a_dump_shows_every_setting_in_the_order_of_the_schema() -> None:
    text = dump_config(RunConfig())
    assert re.findall(r"^(\w+):", text, flags=re.M) == list(RunConfig.model_fields)
    assert "\n  chat_template: auto\n" in text
    assert "\n  revision: null\n" in text
    assert text == dump_config(load(text))


@settings(deadline=None, max_examples=50)
@given(prompts=st.lists(st.text(st.characters(exclude_categories=["C"]))))
def test_any_text_survives_a_dump(prompts: list[str]) -> None:
    config = RunConfig.model_validate({"evaluation": {"prompts": prompts}})
    assert YAML(typ="safe", pure=True).load(dump_config(config))["evaluation"]["prompts"] == prompts


def leaves(value: dict[str, Any], *prefix: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, child in value.items():
        found += leaves(child, *prefix, key) if isinstance(child, dict) and child else [(*prefix, key)]
    return found


DEFAULTS = RunConfig().model_dump()


@settings(deadline=None)
@given(chosen=st.sets(st.sampled_from(leaves(DEFAULTS))))
def test_any_subset_of_the_defaults_loads_as_the_defaults(chosen: set[tuple[str, ...]]) -> None:
    subset: dict[str, Any] = {}
    for *blocks, key in chosen:
        source, target = DEFAULTS, subset
        for block in blocks:
            source, target = source[block], target.setdefault(block, {})
        target[key] = source[key]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "subset.yaml")
        YAML().dump(subset, path)
        assert load_config([path]) == RunConfig()


# The room itself


@pytest.mark.parametrize(("name", "meant"), [("max_lenght", "max_length"), ("Beta", "beta"), ("zzz", None), ("", None)])
def test_the_nearest_name_is_a_misspelling_or_nothing(name: str, meant: str | None) -> None:
    assert nearest(name, ["beta", "max_length"]) == meant


@pytest.mark.parametrize(("names", "listed"), [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")])
def test_names_are_listed_as_a_reader_would(names: list[str], listed: str) -> None:
    assert one_of(names) == listed


def test_the_configuration_room_imports_no_training_library() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "zenml"}
    code = f"import llm_engineering.config, sys; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS_DIR.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
