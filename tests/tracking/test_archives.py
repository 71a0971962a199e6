import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.errors import StoreError
from llm_engineering.tracking.archives import is_complete, last_values, read_archive

MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("log_other", {"key": "Name", "value": "toy-sft"}),
    ("log_other", {"key": "zenml_run", "value": "toy"}),
    ("parameter_msg", {"param": {"paramName": "sft.learning_rate", "paramValue": 2e-4}}),
    ("metric_msg", {"metric": {"metricName": "loss", "metricValue": 2.0, "step": 1}}),
    ("metric_msg", {"metric": {"metricName": "loss", "metricValue": "NaN", "step": 2}}),
    ("metric_msg", {"metric": {"metricName": "sft/perplexity", "metricValue": "2.5"}}),
    ("file_upload", {"additional_params": {"fileName": "report.html"}, "file_path": "tmp1"}),
    ("remote_file", {"additional_params": {"fileName": "sft-rows"}, "remote_uri": "sha256:ab"}),
]


def write(path: Path, names: tuple[str, ...] = ("experiment.json", "messages.json")) -> Path:
    contents = {
        "experiment.json": json.dumps({"offline_id": "e" * 32, "tags": ["toy", "sft"]}),
        "messages.json": "\n".join(json.dumps({"type": kind, "payload": payload}) for kind, payload in MESSAGES),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, contents[name])
    return path


def test_an_archive_is_read_key_by_key(tmp_path: Path) -> None:
    found = read_archive(write(tmp_path / "a.zip"))
    assert (found.key, found.name, found.tags) == ("e" * 32, "toy-sft", ("toy", "sft"))
    assert found.parameters == {"sft.learning_rate": 2e-4}
    assert found.metrics["loss"][0] == (1, 2.0)
    assert found.metrics["loss"][1][0] == 2
    assert math.isnan(found.metrics["loss"][1][1])
    assert found.metrics["sft/perplexity"] == [(None, 2.5)]
    assert found.others == {"zenml_run": "toy"}
    assert found.assets == ("report.html",)


def test_a_series_that_ends_without_a_number_has_no_last_value(tmp_path: Path) -> None:
    assert last_values(read_archive(write(tmp_path / "a.zip"))) == {"sft/perplexity": 2.5}


@pytest.mark.parametrize("names", [(), ("experiment.json",), ("messages.json",)])
def test_a_zip_without_all_its_parts_is_dead(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.zip", names)
    assert not is_complete(path)
    with pytest.raises(StoreError, match=r"a\.zip is no complete Comet archive"):
        read_archive(path)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(StoreError, match="another kind of file"):
        read_archive(tmp_path / "a.zip")


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no Comet archive"):
        read_archive(tmp_path / "a.zip")
