"""Read all configured sources into raw rows."""

from pathlib import Path

from llm_engineering.artifacts import RowSet
from llm_engineering.config.schema import DataConfig, FileSource
from llm_engineering.data.rowsets import RAW, write_rows
from llm_engineering.data.sources import check_file, read_source
from llm_engineering.errors import DataError


def file_hashes(data: DataConfig) -> dict[str, str]:
    """Return the content hash of every local data file, and refuse missing ones.

    Raises:
        DataError: There are no sources, or one of them is no readable file.
    """
    import hashlib

    if not data.sft and not data.preference:
        raise DataError("No data: name sources in data.sft and data.preference.")
    hashes = {}
    for _, source in data.row_sources:
        if isinstance(source, FileSource):
            path = Path(source.path)
            check_file(path)
            with path.open("rb") as file:
                hashes[source.path] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def load_raw_rows(data: DataConfig, seed: int, folder: Path) -> RowSet:
    """Read every source and write its rows as they are, one split a source, in the order of the configuration.

    Raises:
        DataError: A source cannot be read or is empty.
    """
    splits = {
        f"{index:03d}": list(read_source(source, index, seed)) for index, (_, source) in enumerate(data.row_sources)
    }
    return write_rows(folder, splits, RAW)
