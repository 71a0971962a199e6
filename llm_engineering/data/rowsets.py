"""Rows on disk: one Arrow folder a split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.artifacts import RowSet, hash_files

if TYPE_CHECKING:
    from datasets import Dataset, Features

Schema = Mapping[str, str | list[str]]
Row = Mapping[str, Any]

INDEX: Schema = {"source": "int32", "row": "int64"}
RAW: Schema = {**INDEX, "data": "string", "problem": "string"}
"""A row as it was read: its source's index, its number in it (from 1), its JSON, or why there is none."""
SFT: Schema = {**INDEX, "input_ids": ["int32"], "labels": ["int32"]}
"""A conversation as it is trained: labels are -100 where there is no loss."""
PREFERENCE: Schema = {**INDEX, "prompt_ids": ["int32"], "chosen_ids": ["int32"], "rejected_ids": ["int32"]}
"""A preference pair as it is trained."""
QUESTIONS: Schema = {"unit": "string", "prompt": "string", "prompt_ids": ["int32"], "reference": "string"}
"""A prompt as it is trained and served, with the answer a checker compares with; those of one unit are dependent."""


def write_rows(folder: Path, splits: Mapping[str, Sequence[Row]], schema: Schema) -> RowSet:
    """Write every split that has rows to its own folder below ``folder``."""
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        if not rows:
            continue
        columns = {column: [row[column] for row in rows] for column in schema}
        Dataset.from_dict(columns, features=_features(schema)).save_to_disk(folder / name)
        (folder / name / "state.json").unlink()  # holds a random fingerprint; equal rows shall have equal hashes
    return RowSet(path=folder, sha256=hash_files(folder), rows={name: len(rows) for name, rows in splits.items()})


def read_rows(rows: RowSet, split: str) -> "Dataset":
    """Return one split, memory-mapped; a split without rows has no columns either."""
    from datasets import Dataset, concatenate_datasets

    if not rows.rows.get(split):
        return Dataset.from_dict({})
    files = sorted((rows.path / split).glob("*.arrow"))  # several where the rows are more than 500 MB
    return concatenate_datasets([Dataset.from_file(str(file)) for file in files])


def _features(schema: Schema) -> "Features":
    from datasets import Features, List, Value

    return Features(
        {name: List(Value(kind[0])) if isinstance(kind, list) else Value(kind) for name, kind in schema.items()}
    )
