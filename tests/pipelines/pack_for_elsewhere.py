"""Pack models, data and settings for steps that run elsewhere, and write what came of it; see test_packing.py."""

import json
import shutil
import sys
from pathlib import Path

from zenml.client import Client

from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.data.loading import Origins, file_hashes
from llm_engineering.data.sources import read_source
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.reports.folders import Checkpoint, hash_files
from pipelines.launching.packing import Packer
from pipelines.store import open_store
from steps.runtime.context import HERE, Place
from steps.runtime.stores import load_artifacts

open_store()
folder = Path(sys.argv[1])
model_folder = folder / "model"
model_folder.mkdir()
(model_folder / "config.json").write_text("{}")
(folder / "mine.jinja").write_text("{{ messages }}")
for name in ("a", "b"):
    (folder / name).mkdir()
    (folder / name / "rows.jsonl").write_text(json.dumps({"prompt": name, "completion": name}) + "\n")
config = RunConfig.model_validate(
    {
        "model": {"base": str(model_folder), "chat_template": str(folder / "mine.jinja")},
        "data": {"sft": [{"path": str(folder / name / "rows.jsonl")} for name in ("a", "b")]},
    }
)
sha256 = hash_files(model_folder)
model = Checkpoint(
    path=model_folder, sha256=sha256, kind="model", weights_sha256="w", base=config.model.base, base_sha256="w"
)
origins = Origins(files=file_hashes(config.data))
away = Place(here=False, orchestrated_here=False)
packer, plan, stay = Packer(away, uploads=True), Packer(away, uploads=False), Packer(HERE, uploads=True)


def versions() -> dict[str, int]:
    found = Client().list_artifact_versions(size=50).items
    names = [version.artifact.name for version in found]
    return {name: names.count(name) for name in names}


def rows(of: RunConfig, given: Origins) -> list[str]:
    contents = load_artifacts(given.artifacts)
    return [
        row.place
        for _, source in of.data.row_sources
        for row in read_source(source, 0, contents.get(getattr(source, "path", "")))
    ]


plan.model(model), plan.origins(config, origins)
versions_of_a_plan = versions()
settings, there = packer.settings(config), packer.origins(config, origins)
copy = folder / "copy"
for name in ("a", "b"):
    shutil.copytree(folder / name, copy / name)
config_of_copy = RunConfig.model_validate(
    {"data": {"sft": [{"path": str(copy / name / "rows.jsonl")} for name in ("a", "b")]}}
)
embedded = locate_base(ModelConfig())
found = {
    "store": Client().active_stack.artifact_store.path,
    "versions of a plan": versions_of_a_plan,
    "settings": settings.model_dump(mode="json"),
    "model": packer.model(model).model_dump(mode="json"),
    "origins": there.model_dump(mode="json"),
    "origins of a copy": packer.origins(config_of_copy, Origins(files=file_hashes(config_of_copy.data))).model_dump(
        mode="json"
    ),
    "versions": versions(),
    "names here": config.data.source_names,
    "names elsewhere": settings.data.source_names,
    "rows here": rows(config, origins),
    "rows elsewhere": rows(settings, there),
    "embedded here": stay.model(embedded).model_dump(mode="json"),
    "embedded elsewhere": packer.model(embedded).model_dump(mode="json"),
    "unchanged here": stay.settings(config) == config
    and stay.model(model) == model
    and stay.origins(config, origins) == origins,
}
(folder / "found.json").write_text(json.dumps(found))
