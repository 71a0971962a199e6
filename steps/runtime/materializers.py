"""How folders and reports become artifacts.

Folders are hard-linked into a local store, or copied into a remote one, never archived or pickled.

ZenML puts the text of an output's materializer into the cache key of its step, comments and all. How a result is
stored shapes none: ``__wrapped__``, which :func:`inspect.getsource` follows, names ZenML's own class instead.
"""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.io import fileio
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.materializers.pydantic_materializer import PydanticMaterializer

from llm_engineering.data.file_hashes import hash_folder
from llm_engineering.reporting.run_page import render_training
from llm_engineering.reports.folders import Checkpoint, Folder, FromStore, ReferenceLogProbs, RowSet, flush
from llm_engineering.reports.training import TrainingReport
from steps.runtime.fetching import at_hand
from steps.runtime.stores import download_whole, give_up, hash_memo, is_remote, upload
from steps.runtime.work import input_folder

_READ_ONLY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_FACTS = "folder.json"
_NOT_STORED = {"path", "fetch"}
FILES = "files"
"""Where the folder lies below the artifact's address."""


class FolderMaterializer(BaseMaterializer):
    """Stores a :class:`~llm_engineering.reports.folders.Folder`; equal contents have equal cache keys.

    Files stored locally are read-only: a hard link that is written to would change the artifact.
    """

    __wrapped__: ClassVar[type[BaseMaterializer]] = BaseMaterializer
    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Checkpoint, Folder, ReferenceLogProbs, RowSet)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: Folder) -> None:
        """Store the folder below the artifact's address."""
        if isinstance(data, Checkpoint):
            data = at_hand(data)
        target = f"{self.uri}/{FILES}"
        if is_remote(self.uri):
            upload(data.path, target)
        else:
            shutil.copytree(data.path, target, copy_function=_link)
        facts = data.model_dump(mode="json", exclude=_NOT_STORED)
        with fileio.open(f"{self.uri}/{_FACTS}", "w") as file:
            file.write(json.dumps(facts))
        if not is_remote(self.uri):  # a machine that loses its power keeps what counts as stored
            for path in (*Path(self.uri).rglob("*"), Path(self.uri), Path(self.uri).parent):
                flush(path)

    def load(self, data_type: type[Folder]) -> Folder:
        """Return the folder where it is stored, or a local copy of what is stored remotely.

        A model that is stored remotely is copied by whoever wants its files
        (:func:`~steps.runtime.fetching.at_hand`): many steps only ask what it is.

        Raises:
            StoreError: It is gone or damaged; its step runs anew when its run is started again.
        """
        facts = _read_facts(self.uri)
        source = f"{self.uri}/{FILES}"
        is_file_system = not is_remote(self.uri)  # object storage has no empty folders
        if (is_file_system or issubclass(data_type, Checkpoint)) and not fileio.isdir(source):
            raise give_up(self.uri, "is gone")
        if is_file_system:
            if hash_folder(Path(source), hash_memo()) != facts["sha256"]:
                raise give_up(self.uri, "is damaged: a file is missing, added or not what was stored")
            return data_type(path=Path(source), **facts)
        if issubclass(data_type, Checkpoint):
            return data_type(path=Path(source), **facts, fetch=FromStore(type="store", address=source))
        local = input_folder(facts["sha256"])
        if not local.is_dir():
            download_whole(source, local, facts["sha256"])
        return data_type(path=local, **facts)

    def extract_metadata(self, data: Folder) -> dict[str, Any]:
        """Return what the dashboard shows of the folder."""
        return dict(data.model_dump(mode="json", exclude=_NOT_STORED))

    def compute_content_hash(self, data: Folder) -> str:
        """Return the hash of the files: it stands for the artifact in cache keys, with what else shapes a training."""
        most = data.most if isinstance(data, RowSet) else 0
        return f"{data.sha256}-{most}" if most else data.sha256


class TrainingReportMaterializer(PydanticMaterializer):
    """Stores a training's report; the dashboard shows its curves."""

    __wrapped__: ClassVar[type[BaseMaterializer]] = PydanticMaterializer
    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (TrainingReport,)

    def save_visualizations(self, data: TrainingReport) -> dict[str, VisualizationType]:
        """Write the curves as a page beside the report."""
        page = f"{self.uri}/curves.html"
        with fileio.open(page, "w") as file:
            file.write(render_training(data))
        return {page: VisualizationType.HTML}


def _read_facts(uri: str) -> dict[str, Any]:
    try:
        with fileio.open(f"{uri}/{_FACTS}", "r") as file:
            return dict(json.loads(file.read()))
    except FileNotFoundError as error:
        raise give_up(uri, "is gone") from error
    except ValueError as error:
        raise give_up(uri, f"is damaged: {_FACTS} is not what was stored") from error


def _link(source: str, target: str) -> str:
    """Hard-link a file, or copy it where the file system cannot, and make it read-only."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    Path(target).chmod(_READ_ONLY)
    return target
