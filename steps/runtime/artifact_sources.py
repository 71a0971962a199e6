"""Artifacts that sources name: found when a run is submitted, loaded in the step that reads them."""

from collections.abc import Mapping
from uuid import UUID

from zenml.client import Client
from zenml.models import ArtifactVersionResponse

from llm_engineering.config.data import ArtifactSource, DataConfig
from llm_engineering.errors import StoreError

_READABLE = ("list", "str", "Path", "PosixPath", "DataFrame", "Table", "Dataset", "Folder", "RowSet")
"""The types that :func:`~llm_engineering.data.sources.read_artifact` reads, as ZenML records them."""


def find_artifacts(data: DataConfig) -> dict[str, str]:
    """Return the ids of the versions that the sources name, each by its source's name; none is loaded.

    Raises:
        StoreError: There is no such artifact or version, or it holds no rows.
    """
    sources = [source for _, source in data.row_sources if isinstance(source, ArtifactSource)]
    return {source.name: str(_find(source).id) for source in sources}


def _find(source: ArtifactSource) -> ArtifactVersionResponse:
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


def load_artifacts(versions: Mapping[str, str]) -> dict[str, object]:
    """Return what versions of artifacts hold, by their sources' names; in a step, they become inputs of it.

    Raises:
        StoreError: A version cannot be loaded any more.
    """
    return {name: _load(name, UUID(version)) for name, version in versions.items()}


def _load(name: str, version: UUID) -> object:
    try:
        return Client().get_artifact_version(version).load()
    except Exception as error:  # materializers and artifact stores raise what they like
        raise StoreError(
            f"The artifact {name} cannot be loaded: {error}. Name another version, or store it anew."
        ) from error
