"""What a training says to Comet, read from its offline archive; an interrupted one says all of it again."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.tracking import CometTracking, TransformersTracking
from llm_engineering.tracking import Origin
from llm_engineering.tracking.archives import read_archive
from llm_engineering.training.arguments import examples_seen
from llm_engineering.training.sft import train_sft

CONFIG = SFTStageConfig(max_steps=8, batch_size=3, logging_steps=1, save_steps=2, evaluation_steps=4)
ORIGIN = Origin(run="toy-1", run_id="5b0e", step="train_sft", recipe="toy", configuration={"data": {"max_length": 64}})


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("COMET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def tracked(make_inputs, sft_rows):
    def make(work="work", **changes):
        settings = {"run": "toy-1", "tracking": CometTracking(), "origin": ORIGIN}
        return make_inputs(sft_rows, work, **(settings | changes))

    return make


def archive_of(report):
    return read_archive(Path(report.tracker.offline_archive))


def test_an_archive_holds_every_setting_and_series_of_a_training(tracked, sft_rows):
    _, report = train_sft(CONFIG, tracked())
    found = archive_of(report)
    assert found.parameters.items() >= {
        ("sft.batch_size", 3),
        ("adapter.r", 4),
        ("data.max_length", 64),
        ("watch.smoothing", 5),
        ("evaluation.max_new_tokens", 4),
        ("model.dtype", "auto"),
        ("seed", 3),
        ("rows_sha256", sft_rows.sha256),
    }
    assert f"data:{sft_rows.sha256[:12]}" in found.tags
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss"):  # TRL's names
        assert found.metrics[name] == report.series(name), name
    # eight rows in batches of 3, 3 and 2: three updates an epoch
    seen = dict(found.metrics["examples"])
    assert [seen[step] for step in range(1, 9)] == [3, 6, 8, 11, 14, 16, 19, 22]
    assert found.others["base"] == "tiny"
    assert {"adapter_model.safetensors", "sft-samples-step-4.txt"} <= set(found.assets)
    with zipfile.ZipFile(report.tracker.offline_archive) as archive:
        messages = [json.loads(line)["payload"] for line in archive.read("messages.json").splitlines()]
        (sample,) = [m for m in messages if m.get("additional_params", {}).get("fileName") == "sft-samples-step-4.txt"]
        assert archive.read(sample["file_path"]).decode().startswith("Question: ")
    assert sample["additional_params"]["step"] == 4


def test_an_interrupted_training_logs_again_what_it_had_logged(tracked, killed_at):
    _, straight = train_sft(CONFIG, tracked("straight", origin=Origin(run_id="a third")))
    inputs = tracked("killed")
    with killed_at(6):
        train_sft(CONFIG, inputs)
    (first,) = {path for path in inputs.archive_dir.glob("*.zip")} - {Path(straight.tracker.offline_archive)}
    interrupted = read_archive(first)
    resumed = archive_of(train_sft(CONFIG, tracked("killed", origin=Origin(run_id="another")))[1])

    assert interrupted.others["outcome"] == "failed"
    assert "resumed_from:4" in resumed.tags
    assert resumed.others["resumed_from_experiment"] == interrupted.key
    whole = archive_of(straight).metrics
    for name in ("loss", "eval_loss", "examples", "num_tokens"):
        assert resumed.metrics[name] == whole[name], name
    assert [name for name in resumed.assets if "samples" in name] == [
        "sft-samples-step-4.txt",
        "sft-samples-step-8.txt",
    ]


def test_examples_are_counted_across_epochs_and_small_last_batches():
    # ten rows in batches of 4: 4, 4 and 2 rows an epoch
    config = SFTStageConfig(batch_size=4)
    assert [examples_seen(config, 10, step) for step in range(8)] == [0, 4, 8, 10, 14, 18, 20, 24]
    # three batches (4, 4, 2), two an update: 8 and 2 rows
    config = SFTStageConfig(batch_size=4, accumulation=2)
    assert [examples_seen(config, 10, step) for step in range(4)] == [0, 8, 10, 18]


def test_the_trackers_of_transformers_get_what_a_training_logs(make_inputs, sft_rows, monkeypatch):
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told = []

    class Told(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            told.append(set(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Told)
    _, report = train_sft(CONFIG, make_inputs(sft_rows, tracking=TransformersTracking(report_to=["wandb"])))
    assert {"loss", "grad_norm", "learning_rate"} <= told[0]
    assert report.tracker is None
