"""Rows on disk: one Arrow folder a split, written and read in batches."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llm_engineering.reports.folders import RowSet, hash_files

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

Schema = Mapping[str, str | list[str]]
"""Column names and Arrow types; a list of one type is a list column."""
Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]

INDEX: Schema = {"source": "int32", "row": "int64"}
RAW: Schema = {"row": "int64", "place": "string", "data": "large_string", "problem": "string"}
"""A row as it was read: its number in its source (from 1), where it stands, its JSON, or why there is none."""
SFT: Schema = {**INDEX, "input_ids": ["int32"], "labels": ["int32"]}
"""A conversation as it is trained: labels are :data:`IGNORED` where there is no loss."""
PREFERENCE: Schema = {**INDEX, "prompt_ids": ["int32"], "chosen_ids": ["int32"], "rejected_ids": ["int32"]}
"""A preference pair as it is trained."""
REFERENCE: Schema = {"ref_chosen_logps": "float32", "ref_rejected_logps": "float32"}
"""The reference's log-probabilities of a preference pair, in nats an answer."""
QUESTIONS: Schema = {"unit": "string", "prompt": "string", "prompt_ids": ["int32"], "reference": "string"}
"""A prompt as it is trained and served, with the answer a checker compares with; those of one unit are dependent."""

IGNORED = -100
"""The label of a token without loss."""
SAMPLED_SOURCE = -1
"""The source of a row that was sampled."""
BATCH_ROWS = 1000
"""Rows that are handled at once."""


class RowWriter:
    """Writes rows batch by batch, each split to its own folder below ``folder``; equal rows give equal bytes."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.schema = _arrow_schema(schema)
        self.rows: dict[str, int] = {}
        self._open = ExitStack()
        self._streams: dict[str, pyarrow.RecordBatchStreamWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def write(self, split: str, columns: Columns) -> None:
        """Add one batch to a split; columns that the schema does not name are left out."""
        import pyarrow

        batch = pyarrow.record_batch(
            [pyarrow.array(columns[field.name], field.type) for field in self.schema], schema=self.schema
        )
        self.rows[split] = self.rows.get(split, 0) + batch.num_rows
        if not batch.num_rows:
            return
        if split not in self._streams:
            (self.folder / split).mkdir(exist_ok=True)
            file = self._open.enter_context(pyarrow.OSFile(str(self.folder / split / "data.arrow"), "wb"))
            self._streams[split] = self._open.enter_context(pyarrow.ipc.new_stream(file, self.schema))
        self._streams[split].write_batch(batch)

    def close(self) -> RowSet:
        """Return what was written."""
        self._open.close()
        return RowSet(path=self.folder, sha256=hash_files(self.folder), rows=self.rows)


def write_rows(folder: Path, splits: Mapping[str, Sequence[Row]], schema: Schema) -> RowSet:
    """Write rows that are few enough to be held in memory."""
    with RowWriter(folder, schema) as writer:
        for name, rows in splits.items():
            writer.write(name, {column: [row[column] for row in rows] for column in schema})
        return writer.close()


def read_rows(rows: RowSet, split: str) -> "Dataset":
    """Return one split, memory-mapped; a split without rows has no columns either."""
    from datasets import Dataset

    if not rows.rows.get(split):
        return Dataset.from_dict({})
    return Dataset.from_file(str(rows.path / split / "data.arrow"))


def read_batches(rows: RowSet, split: str) -> Iterator[list[dict[str, Any]]]:
    """Yield one split's rows as they were written, a batch at a time."""
    import pyarrow

    if not rows.rows.get(split):
        return
    with (
        pyarrow.memory_map(str(rows.path / split / "data.arrow")) as file,
        pyarrow.ipc.open_stream(file) as stream,
    ):
        for batch in stream:
            yield batch.to_pylist()


def _arrow_schema(schema: Schema) -> "pyarrow.Schema":
    import pyarrow

    def arrow_type(kind: str | list[str]) -> "pyarrow.DataType":
        if isinstance(kind, list):
            return pyarrow.list_(arrow_type(kind[0]))
        return pyarrow.type_for_alias(kind)

    return pyarrow.schema([(name, arrow_type(kind)) for name, kind in schema.items()])


def source_split(index: int) -> str:
    """Return the name under which the raw rows of one source are kept."""
    return f"{index:03d}"
