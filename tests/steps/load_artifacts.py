"""Store artifacts, read them by the step `load_datasets`, and write what was seen; see test_load_datasets.py."""

import json
import sys
from pathlib import Path
from typing import Any

from zenml import pipeline, save_artifact
from zenml.client import Client

from llm_engineering.config.data import DataConfig
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.errors import StoreError
from pipelines.launching.packing import find_artifacts
from pipelines.store import open_store
from steps.load_datasets import load_datasets
from steps.runtime.caching import with_code_dependencies
from steps.runtime.work import release_work_folders

open_store()
folder = Path(sys.argv[1])
found: dict[str, list[Any]] = {"runs": [], "refused": []}


def data(*sources: dict[str, str]) -> DataConfig:
    return DataConfig.model_validate({"sft": list(sources)})


@pipeline
def only_load(data: DataConfig, origins: Origins) -> None:
    with_code_dependencies(load_datasets)(data, origins, 0)


def load(*sources: dict[str, str]) -> None:
    asked = data(*sources)
    run = only_load(asked, Origins(files=file_hashes(asked), artifacts=find_artifacts(asked)))
    step = Client().get_pipeline_run(run.id).steps["load_datasets"]
    loaded = step.outputs["raw_rows"][0].load()
    texts = [path.read_bytes() for path in sorted(Path(loaded.path).rglob("*.arrow"))]
    found["runs"].append(
        {
            "status": step.status.value,
            "rows": loaded.rows,
            "seen": sorted(word for word in ("one", "two", "three", "four") if any(word.encode() in t for t in texts)),
            "inputs": sorted(f"{name}:{one.version}" for name, versions in step.inputs.items() for one in versions),
        }
    )
    release_work_folders()


def refuse(source: dict[str, str]) -> None:
    try:
        find_artifacts(data(source))
    except StoreError as error:
        found["refused"].append(str(error))


save_artifact([{"a": "one"}], "mine")
load({"artifact": "mine"})
load({"artifact": "mine"})
save_artifact([{"a": "two"}, {"a": "three"}], "mine")
load({"artifact": "mine"})
load({"artifact": "mine", "version": "1"})
rows = folder / "rows"
rows.mkdir()
(rows / "a.jsonl").write_text('{"a": "three"}')
save_artifact(rows, "folder")
load({"artifact": "folder"}, {"path": str(rows)})
(rows / "b.jsonl").write_text('{"a": "four"}')
load({"artifact": "folder"}, {"path": str(rows)})
stored = Client().list_artifact_versions(artifact="raw_rows", sort_by="desc:created", size=1).items[0]
damaged = next(Path(stored.load().path).rglob("*.arrow"))
damaged.chmod(0o644)
damaged.write_bytes(bytes(damaged.stat().st_size))
try:
    stored.load()
except StoreError as error:
    found["damaged"] = [str(error)]
load({"artifact": "folder"}, {"path": str(rows)})
save_artifact({"a": 1}, "mapping")
for source in ({"artifact": "min"}, {"artifact": "mine", "version": "9"}, {"artifact": "mapping"}):
    refuse(source)
(folder / "found.json").write_text(json.dumps(found))
