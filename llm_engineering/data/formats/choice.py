"""Which format a data set has: the one it names, or the only one that its columns and values fit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.config.data import RowSource
from llm_engineering.data.formats.columns import Row
from llm_engineering.data.formats.content import Conversation, Example, RowProblem
from llm_engineering.data.formats.registry import (
    EXTRA_COLUMNS,
    PREFERENCE_FORMATS,
    SFT_FORMATS,
    SYNONYMS,
    Format,
)
from llm_engineering.errors import DataError
from llm_engineering.reports.folders import RowKind


@dataclass(frozen=True)
class Reading:
    """A format, and which column of the data set gives each of its columns."""

    format: Format
    columns: dict[str, str]
    chosen_only: bool = False
    """A pair is read as the conversation that its chosen answer makes; of several pairs, only the first."""

    def read(self, row: Mapping[str, Any]) -> list[Example]:
        """Return what a row gives, at least one example; ranked answers give several pairs, the clearest first.

        Raises:
            RowProblem: The row cannot be used.
        """
        content = self.format.read(self.rename(row))
        examples: list[Example] = [*content] if isinstance(content, list) else [content]
        if not self.chosen_only:
            return examples
        best = examples[0]
        return [best if isinstance(best, Conversation) else best.conversation]

    def rename(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with the format's column names.

        Raises:
            RowProblem: The row lacks a column.
        """
        renamed = {name: row[own] for name, own in self.columns.items() if own in row}
        if len(renamed) < len(self.columns):
            missing = [self.columns[name] for name in self.format.required if name not in renamed]
            if missing:
                raise RowProblem("not text", f"column {missing[0]} is missing")
        return renamed

    def looks_right(self, sample: Sequence[Row]) -> bool:
        """Tell whether at least half of those rows that have the required columns may be of the format."""
        if self.format.looks_right is None:
            return True
        own = {name: self.columns[name] for name in self.format.required}
        rows = [{name: row.get(column) for name, column in own.items()} for row in sample]
        verdicts = [self.format.looks_right(row) for row in rows if None not in row.values()]
        return 2 * sum(verdicts) >= len(verdicts)

    @property
    def used(self) -> set[str]:
        """The data set's columns that make up the texts."""
        return {own for name, own in self.columns.items() if name not in EXTRA_COLUMNS}


def choose_format(
    source: RowSource, kind: RowKind, present: set[str], sample: Sequence[Mapping[str, Any]] = ()
) -> Reading:
    """Return the format of a source: the named one, or the only one that fits.

    A format fits where its required columns are there and the sample's values look right. One that would use only some
    of the columns that another one uses does not count.

    Args:
        source: Names a format or says ``auto``; ``columns`` maps the format's column names to the data set's.
        kind: What is wanted; for ``sft``, the chosen answers of preference pairs will do.
        present: Columns of the data set.
        sample: Some rows, for formats that have the same columns.

    Raises:
        DataError: No format or several fit, or a column is missing.
    """
    unknown = sorted(set(source.columns.values()) - present)
    if unknown:
        raise DataError(f"{source.name} has no column {unknown[0]!r}, which `columns` names. {_there(present)}")
    if source.format != "auto":
        return _named(source, kind, present)
    mapped = set(source.columns)
    matching = [
        reading
        for format in _formats(kind)
        if mapped <= set(format.columns) and (reading := _match(format, source, kind, present))
    ]
    fitting = [reading for reading in matching if reading.looks_right(sample)]
    fullest = [each for each in fitting if not any(each.used < other.used for other in fitting)]
    if len(fullest) == 1:
        return fullest[0]
    if fullest:
        names = " and ".join(reading.format.name for reading in fullest)
        raise DataError(f"{source.name} fits the formats {names}. Name one with `format`. {_there(present)}")
    wanted = "; ".join(f"{format.name}: {', '.join(format.required)}" for format in _formats(kind))
    raise DataError(
        f"{source.name} fits no {kind} format. {_there(present)}{_say_mapped(source)}{_say_matching(matching)} Formats "
        f"and their columns: {wanted}. Map names with `columns`.{_say_raw(kind, present)}"
    )


def _formats(kind: RowKind) -> tuple[Format, ...]:
    return (*SFT_FORMATS, *PREFERENCE_FORMATS) if kind == "sft" else PREFERENCE_FORMATS


def _named(source: RowSource, kind: RowKind, present: set[str]) -> Reading:
    named = next((format for format in _formats(kind) if format.name == source.format), None)
    if named is None:
        names = ", ".join(format.name for format in _formats(kind))
        raise DataError(f"{source.name}: {source.format!r} is no {kind} format. There are: {names}.")
    stray = sorted(set(source.columns) - set(named.columns))
    if stray:
        raise DataError(
            f"{source.name}: `columns` maps {stray[0]!r}, but the format {named.name} has the columns "
            f"{', '.join(named.columns)}."
        )
    reading = _match(named, source, kind, present)
    if reading is None:
        needs = ", ".join(named.required)
        raise DataError(
            f"{source.name} lacks a column that the format {named.name} needs ({needs}). {_there(present)} Map names "
            "with `columns: {" + named.required[0] + ": own_name}`."
        )
    return reading


def _match(format: Format, source: RowSource, kind: RowKind, present: set[str]) -> Reading | None:
    """Return how the data set's columns give the format's, or None where one that it needs is missing."""
    columns = {}
    # A column that is mapped to one name is no other one's, save that any may be the reference too.
    taken = {own for name, own in source.columns.items() if name not in EXTRA_COLUMNS}
    for name in format.columns:
        own = [synonym for synonym in SYNONYMS.get(name, (name,)) if synonym not in taken]
        candidates = [source.columns[name]] if name in source.columns else own
        found = next((candidate for candidate in candidates if candidate in present), None)
        if found is not None:
            columns[name] = found
        elif name in format.required:
            return None
    return Reading(format, columns, chosen_only=kind == "sft" and format in PREFERENCE_FORMATS)


def _there(present: set[str]) -> str:
    return f"The columns are: {listed(present)}."


def _say_mapped(source: RowSource) -> str:
    return f" `columns` maps {', '.join(sorted(source.columns))}." if source.columns else ""


def _say_raw(kind: RowKind, present: set[str]) -> str:
    """Return a hint where SFT is given raw text, which teaches no answers."""
    if kind != "sft" or "text" not in present:
        return ""
    return (
        " A column `text` looks like raw text for pre-training, which is not done here: write rows such as "
        '{"instruction": ..., "output": ...}, or {"messages": [...]} where the text is a transcript.'
    )


def _say_matching(matching: list[Reading]) -> str:
    names = " and ".join(reading.format.name for reading in matching)
    return f" The columns are those of {names}, but most of the first rows have other values in them." if names else ""


def listed(names: Collection[str], most: int = 12, longest: int = 40) -> str:
    """Return names in a sentence's space."""
    shown = [name if len(name) <= longest else f"{name[:longest]}…" for name in sorted(names)[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(shown) or "none") + more
