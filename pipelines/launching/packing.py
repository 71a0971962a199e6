"""What a run takes along: models, data and settings in a form that means the same on every machine.

Where all steps run in this process, folders and files stay where they are. Elsewhere each is stored once, by its
content, as an artifact, and steps fetch it from there.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml import save_artifact
from zenml.client import Client
from zenml.exceptions import EntityExistsError
from zenml.io import fileio
from zenml.models import ArtifactVersionResponse

from llm_engineering.config.data import ArtifactSource, DataConfig, FileSource
from llm_engineering.config.model import ModelConfig, TemplateText
from llm_engineering.config.run import RunConfig
from llm_engineering.data.files import find_files
from llm_engineering.data.loading import Origins
from llm_engineering.errors import StoreError
from llm_engineering.models.chat import TEMPLATE_TOKENS, read_template
from llm_engineering.models.checkpoints import EMBEDDED_FOLDER
from llm_engineering.reports.folders import (
    Checkpoint,
    Folder,
    FromHub,
    FromPackage,
    FromStore,
    hash_contents,
    hash_files,
)
from steps.runtime.context import Place
from steps.runtime.fetching import STORED
from steps.runtime.materializers import FILES, FolderMaterializer

MODELS, DATA, TASKS = "submitted_models", "submitted_data", "submitted_tasks"
"""The artifacts whose versions are what was stored for steps that run elsewhere."""
_LENGTH = 32
"""Characters of a hash that name a version."""
_READABLE = ("list", "str", "Path", "PosixPath", "DataFrame", "Table", "Dataset", "Folder", "RowSet")
"""The types that :func:`~llm_engineering.data.sources.read_artifact` reads, as ZenML records them."""


def find_artifacts(data: DataConfig) -> dict[str, str]:
    """Return the ids of the versions that the sources name, each by its source's name; none is loaded.

    Raises:
        StoreError: There is no such artifact or version, or it holds no rows.
    """
    sources = [source for _, source in data.row_sources if isinstance(source, ArtifactSource)]
    return {source.name: str(_version_of(source).id) for source in sources}


def _version_of(source: ArtifactSource) -> ArtifactVersionResponse:
    versions = Client().list_artifact_versions
    found = versions(artifact=source.artifact, version=source.version, sort_by="desc:created", size=1).items
    if not found:
        others = versions(artifact=source.artifact, sort_by="desc:created", size=20).items
        if not others:
            raise StoreError(
                f"There is no artifact {source.artifact!r}. `zenml artifact list` shows those that there are."
            )
        listed = ", ".join(str(other.version) for other in others)
        raise StoreError(f"The artifact {source.artifact!r} has no version {source.version!r}. There are: {listed}.")
    kind = found[0].data_type.attribute
    if kind not in _READABLE:
        raise StoreError(
            f"The artifact {source.name} is a {kind}, which holds no rows. Store a list of objects, a DataFrame, an "
            "Arrow table, a Dataset or a folder of data files."
        )
    return found[0]


@dataclass(frozen=True)
class Packer:
    """Packs for one place."""

    place: Place
    uploads: bool
    """Store what is not stored yet; else it is named by something that no step has seen, so that nothing is cached."""

    def model(self, model: Checkpoint) -> Checkpoint:
        """Return a model as a step is given it: with no path of this machine, unless the steps run here."""
        if model.path == EMBEDDED_FOLDER:
            return model.model_copy(update={"path": Path(model.base), "fetch": FromPackage(type="package")})
        if isinstance(model.fetch, FromHub):  # the commit says what it is, whether this machine has the weights or not
            unread = {"weights_sha256": "", "base_sha256": "", "sha256": ""}
            return model.model_copy(update={"path": Path(model.base), **unread})
        if model.fetch is not None:
            return model.model_copy(update={"path": Path(model.base)})
        if self.place.here:
            return model
        named = model.model_copy(update={"base": Path(model.base).name})
        stored = self._stored(named, MODELS)
        fetch = FromStore(type="store", address=f"{stored.uri}/{FILES}", version=str(stored.id)) if stored else None
        return named.model_copy(update={"path": Path(named.base), "fetch": fetch})

    def settings(self, config: RunConfig) -> RunConfig:
        """Return a configuration that names no file or folder of this machine, unless the steps run here."""
        if self.place.here:
            return config
        names = iter(_portable_names(config))
        data = {
            kind: [
                source.model_copy(update={"path": next(names)}) if _is_local(source) else source
                for source in getattr(config.data, kind)
            ]
            for kind in ("sft", "preference")
        }
        evaluation: dict[str, Any] = {
            "models": {name: Path(where).name if Path(where).exists() else where for name, where in _models(config)}
        }
        harness = config.evaluation.harness
        if harness is not None and harness.include_path is not None:
            folder = Path(harness.include_path)
            stored = self._stored(Folder(path=folder, sha256=hash_files(folder)), TASKS)
            where = f"{STORED}{stored.id if stored else ''}"
            evaluation["harness"] = harness.model_copy(update={"include_path": where})
        return config.model_copy(
            update={
                "data": config.data.model_copy(update=data),
                "model": _portable_model(config.model),
                "evaluation": config.evaluation.model_copy(update=evaluation),
            }
        )

    def origins(self, config: RunConfig, origins: Origins) -> Origins:
        """Return what the rows are read from, with local files as artifacts unless the steps run here."""
        if self.place.here:
            return origins
        artifacts = dict(origins.artifacts)
        local = [source for _, source in config.data.row_sources if _is_local(source)]
        for source, name in zip(local, _portable_names(config), strict=True):
            assert isinstance(source, FileSource)
            with _gathered(source, origins) as folder:
                stored = self._stored(folder, DATA)
            artifacts[name] = str(stored.id) if stored else ""
        remote = {address: content for address, content in origins.files.items() if "://" in address}
        return Origins(files=remote, artifacts=artifacts)

    def arguments(self, config: RunConfig, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return what a pipeline gets beside configuration and base."""
        packed = dict(arguments, origins=self.origins(config, arguments["origins"]))
        if "models" in packed:
            packed["models"] = [self.model(model) for model in packed["models"]]
        return packed

    def _stored(self, folder: Folder, name: str) -> ArtifactVersionResponse | None:
        """Return the artifact with a folder's content, stored now if it is not there yet and may be."""
        store = Client().active_stack.artifact_store
        version = f"{folder.sha256[:_LENGTH]}-{str(store.id)[:8]}"
        found = _find(name, version)
        if found is not None and fileio.isdir(f"{found.uri}/{FILES}"):
            return found
        if not self.uploads:
            return None
        if found is not None:  # somebody has emptied the store
            Client().delete_artifact_version(found.id)
        try:
            return save_artifact(folder, name, version=version, materializer=FolderMaterializer)
        except EntityExistsError:  # somebody else has just stored the same
            return _find(name, version)


def _find(name: str, version: str) -> ArtifactVersionResponse | None:
    found = Client().list_artifact_versions(artifact=name, version=version, size=1).items
    return found[0] if found else None


def _is_local(source: object) -> bool:
    return isinstance(source, FileSource) and ("://" not in source.path or source.path.startswith("file://"))


def _portable_names(config: RunConfig) -> list[str]:
    """Return what stands in place of the paths of local data files: what ledgers and messages call them anyway."""
    named = zip(config.data.row_sources, config.data.source_names, strict=True)
    local = [name for (_, source), name in named if _is_local(source)]
    return [Path(name).name if Path(name).is_absolute() else name for name in local]


def _models(config: RunConfig) -> list[tuple[str, str]]:
    return list(config.evaluation.models.items())


def _portable_model(model: ModelConfig) -> ModelConfig:
    """Return the block without paths: the model itself travels beside it."""
    template = model.chat_template
    if isinstance(template, str) and template not in ("auto", "model", *TEMPLATE_TOKENS):
        template = TemplateText(name=Path(template).name, text=read_template(template))
    base = Path(model.base).name if Path(model.base).exists() else model.base
    return model.model_copy(update={"base": base, "chat_template": template})


@contextmanager
def _gathered(source: FileSource, origins: Origins) -> Iterator[Folder]:
    """Give a folder with links to the files of a source, by the names that messages call them."""
    files = find_files(source.path)
    with tempfile.TemporaryDirectory(prefix="data-") as made:
        folder = Path(made)
        for file in files:
            (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.name).symlink_to(Path(file.path).resolve())
        yield Folder(path=folder, sha256=hash_contents({file.name: origins.files[file.address] for file in files}))
