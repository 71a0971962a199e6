"""Folders that steps hand on: models and rows, each a path and a content hash."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

StageName = Literal["sft", "dpo"]
Split = Literal["train", "eval", "test"]
RowKind = Literal["sft", "preference"]


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, leave_out: str | None = None, hash_of: Callable[[Path], str] = hash_file) -> str:
    """Return the sha256 over the relative names and contents of all files below a folder, one name left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != leave_out)
    return hash_contents({path.relative_to(folder).as_posix(): hash_of(path) for path in files})


def hash_contents(contents: Mapping[str, str]) -> str:
    """Return what :func:`hash_files` returns of a folder with files of these relative names and sha256 hashes."""
    digest = hashlib.sha256()
    for name in sorted(contents, key=PurePosixPath):
        digest.update(name.encode() + b"\0")
        digest.update(bytes.fromhex(contents[name]))
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Artifact(BaseModel):
    """The base of everything here: strict, and unchanged once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Folder(Artifact):
    """A folder that is stored as it is."""

    path: Annotated[Path, PlainSerializer(str)]
    """Where the folder lies now; text wherever it is stored, as cache keys see it."""
    sha256: str
    """Hash over the names and contents of its files."""


class FromPackage(Artifact):
    """The folder comes with this package, wherever that is installed."""

    type: Literal["package"]


class FromHub(Artifact):
    """The folder is a repository of the Hugging Face hub."""

    type: Literal["hub"]
    repository: str
    """``OWNER/NAME``."""
    revision: str
    """The commit, so that the content is settled though nobody has read it yet."""


class FromStore(Artifact):
    """The folder lies in an artifact store that is no file system of this machine."""

    type: Literal["store"]
    address: str
    """Where the store keeps it, such as ``s3://bucket/...``."""
    version: str | None = None
    """The id of the artifact's version, where it is known."""


Fetch = Annotated[FromPackage | FromHub | FromStore, Field(discriminator="type")]


class Checkpoint(Folder):
    """A model folder: an adapter, or a full model with tokenizer, chat template and generation configuration."""

    kind: Literal["adapter", "model"]
    weights_sha256: str
    """Hash over names and values of the tensors alone: equal weights, equal hash."""
    base: str
    """The name of the model that training started from."""
    base_sha256: str
    """Weights hash of the model that an adapter belongs to, or that a merged model was made from."""
    fetch: Fetch | None = None
    """From where whoever wants the folder gets it; None: it lies at ``path``.

    While it is set, ``path`` has no weights, and hashes may be empty that nobody knows before they are fetched.
    """


class RowSet(Folder):
    """Rows as Arrow folders, one sub-folder a split."""

    rows: dict[str, int]
    """Rows per split."""
    most: int = 0
    """How many training rows there could have been, where some were sampled or picked; 0: all that there are."""


class ReferenceKey(Artifact):
    """What log-probabilities of a reference depend on."""

    weights_sha256: str
    """The reference's weights: the SFT model's."""
    rows_sha256: str
    """Content hash of the preference rows: their token ids, as they were cut."""
    dtype: str
    """Precision of the weights as they are loaded."""
    ld_alpha: float | None = None
    """Weight of an answer's tokens beyond the length of the other answer (LD-DPO); None: every token counts alike."""


class ReferenceLogProbs(RowSet):
    """The reference's log-probability of every chosen and rejected answer, in the order of the preference rows.

    ``rows`` is empty where the rows are seen too rarely for storing them to pay.
    """

    key: ReferenceKey
