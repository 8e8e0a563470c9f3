"""Labels of images: in a file, a mapping, a DataFrame, or the metadata of items.

One rule everywhere: a label is a text without spaces around it, numbers and truth values are
written as text, several labels of one image are separated by semicolons or are a list, and no
value, an empty one, NaN or ``unknown`` is no label.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.arguments import checked
from lookalike.errors import InputError
from lookalike.formatting import format_count
from lookalike.images.formats import supported_suffixes
from lookalike.metadata import is_missing
from lookalike.sources.names import item_names, resolve_names
from lookalike.sources.tables import Table, data_frame, find_column, read_table

if TYPE_CHECKING:
    import pandas as pd

    from lookalike.sources.base import Item

SEPARATOR = ";"
"""Separates the labels of an image that has several."""

LABEL = "label"
"""The metadata column of labels."""

LABELED = "labeled"
PROPAGATED = "propagated"
UNKNOWN = "unknown"
STATUSES = (LABELED, PROPAGATED, UNKNOWN)
"""Values of the column ``status`` in files of ``lookalike label propagate``."""

ID_COLUMNS = ("id", "path", "image")
LABEL_COLUMNS = ("label", "labels")
"""Columns of a label file, the first that there is; in any case of letters."""

LabelSource = Any
"""What :func:`read_labels` takes: a path, a mapping, a pandas object, or a LabelSet."""

ACCEPTED = (
    "a path of a label file, a mapping of ids to labels, a pandas Series or DataFrame, or a "
    "LabelSet"
)

_MAX_COMPARED_IDS = 20_000
_LONGEST_NAME = 200
"""Characters of an unknown name that are compared with ids and shown."""

_FIRST_BELOW_HEADER = 2


@dataclass(frozen=True, slots=True, repr=False)
class LabelSet:
    """Labels by image id, one or several each; ``name`` says in messages where they come from."""

    name: str
    by_id: Mapping[str, tuple[str, ...]]

    def __repr__(self) -> str:
        images = format_count(len(self), "labeled image")
        return f"<LabelSet {self.name!r}: {images}, {format_count(len(self.counts), 'label')}>"

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def multi_label(self) -> bool:
        """Whether any image has several labels."""
        return any(len(labels) > 1 for labels in self.by_id.values())

    @property
    def counts(self) -> Counter[str]:
        """Images per label, the most frequent first."""
        counts = Counter(label for labels in self.by_id.values() for label in labels)
        return Counter(dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))))

    @property
    def texts(self) -> Mapping[str, str]:
        """The labels of each image as one text, as in a cell of a label file."""
        return {row_id: SEPARATOR.join(labels) for row_id, labels in self.by_id.items()}

    def restrict(self, ids: Iterable[str]) -> LabelSet:
        """Return the labels of some images only."""
        kept = frozenset(ids)
        by_id = {row_id: labels for row_id, labels in self.by_id.items() if row_id in kept}
        return replace(self, by_id=by_id)

    def related(self) -> dict[str, frozenset[str]]:
        """Return the images that share a label with each, by id, itself included."""
        groups: dict[str, set[str]] = {}
        for row_id, labels in self.by_id.items():
            for label in labels:
                groups.setdefault(label, set()).add(row_id)
        merged: dict[tuple[str, ...], frozenset[str]] = {}
        for labels in self.by_id.values():
            if labels not in merged:
                merged[labels] = frozenset[str]().union(*(groups[label] for label in labels))
        return {row_id: merged[labels] for row_id, labels in self.by_id.items()}

    def validate(self) -> None:
        """Check that there are at least two different labels.

        Raises:
            InputError: no image is labeled, or all have the same labels.
        """
        if not self.by_id:
            raise InputError(f"{self.name}: no image has a label; fill in the column 'label'")
        if len(set(self.by_id.values())) == 1:
            label = next(iter(self.texts.values()))
            images = format_count(len(self), "image")
            raise InputError(
                f"{self.name}: the only label is {label!r} ({images}); label images of at least "
                "one other class"
            )

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with the columns ``id`` and ``label``, as in a label file.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        columns = {"id": list(self.by_id), "label": list(self.texts.values())}
        return data_frame("LabelSet.to_pandas", columns)


def split_labels(value: object) -> tuple[str, ...]:
    """Return the distinct labels in a value, sorted; none if it is missing or ``unknown``.

    Args:
        value: a text with labels separated by semicolons, a number, a truth value, a list of
            these, or a missing value (None, NaN).
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        labels = {label for each in value for label in split_labels(each)}
    else:
        labels = {label.strip() for label in _label_text(value).split(SEPARATOR)}
    return tuple(sorted(labels - {"", UNKNOWN}))


def _label_text(value: object) -> str:
    """Return one value as text; empty if it is missing. 3.0 is 3: a missing value made it so."""
    if isinstance(value, np.generic):
        value = value.item()
    if is_missing(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@checked
def read_labels(
    source: LabelSource, ids: Sequence[str] | None = None, *, argument: str = "labels"
) -> LabelSet:
    """Read labels by image id.

    A table has the columns ``id`` (or ``path``, or ``image``) and ``label`` (or ``labels``); other
    columns are ignored, and so are rows without a label. Several labels of an image are separated
    by semicolons, or a list in JSON and Parquet. Of a table of ``lookalike label propagate`` only
    the rows of status ``labeled`` are read, so that propagated labels are never taken for labels
    of a person.

    With ``ids``, an image may also be named by its id without the source's name, by its file name,
    or by that without suffix, if only one id is meant.

    Args:
        source: a path of CSV, TSV, JSON, JSON Lines or Parquet; a mapping from id to a label or a
            list of labels; a pandas Series of labels by id, or a DataFrame; or a LabelSet.
        ids: of the gallery or source that is labeled; without, they are not checked.
        argument: what messages call labels that are not in a file.

    Raises:
        InputError: the labels cannot be read, lack a column, have an unknown id or status, or
            different labels for one image. The message names the line.
    """
    if isinstance(source, str | os.PathLike):
        source = read_table(Path(source), texts=True)
    if isinstance(source, Table):
        return _collect(str(source.path), _table_entries(source), ids)
    if isinstance(source, LabelSet):
        entries = ((source.name, *pair) for pair in source.by_id.items())
        return source if ids is None else _collect(source.name, entries, ids)
    if isinstance(source, Mapping):
        return _collect(argument, _pairs(argument, source.items()), ids)
    if hasattr(source, "columns") and hasattr(source, "itertuples"):
        return _collect(argument, _frame_entries(argument, source), ids)
    if hasattr(source, "index") and hasattr(source, "items"):
        return _collect(argument, _pairs(argument, source.items()), ids)
    raise InputError(f"{argument}: expected {ACCEPTED}, got {type(source).__name__}")


def labels_of_items(name: str, items: Iterable[Item | Any], *, column: str = LABEL) -> LabelSet:
    """Return the labels in a metadata column of items or records.

    Args:
        name: what messages call the labels.
        items: with ``id`` and ``metadata``.
        column: of the metadata.
    """
    pairs = ((item.id, split_labels(item.metadata.get(column))) for item in items)
    return LabelSet(name, {row_id: labels for row_id, labels in pairs if labels})


_Entry = tuple[str, str, tuple[str, ...]]
"""Place for messages, name of the image, and its labels."""


def _pairs(argument: str, pairs: Iterable[tuple[object, object]]) -> Iterator[_Entry]:
    for name, value in pairs:
        if isinstance(name, Integral) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str):
            raise InputError(
                f"{argument}: the id of an image must be text, got {name!r}; expected {ACCEPTED}"
            )
        labels = _checked(argument, name, value)
        if labels:
            yield argument, name, labels


def _checked(place: str, name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, Mapping | bytes):
        raise InputError(
            f"{place}: the label of {name} must be text, a number, or a list of these, got "
            f"{type(value).__name__}"
        )
    return split_labels(value)


def _frame_entries(argument: str, frame: Any) -> Iterator[_Entry]:
    names = [str(name) for name in frame.columns]
    ids, label = find_column(names, ID_COLUMNS), find_column(names, LABEL_COLUMNS)
    by_index = ids is None and str(frame.index.dtype) in ("object", "string", "str")
    if label is None or (ids is None and not by_index):
        raise InputError(_expected_columns(argument, names))
    status = find_column(names, ("status",))
    values = {
        name: frame.iloc[:, names.index(name)].tolist() for name in (ids, label, status) if name
    }
    row_ids = frame.index.tolist() if ids is None else values[ids]
    statuses = values[status] if status else [None] * len(row_ids)
    for number, (row_id, value, state) in enumerate(
        zip(row_ids, values[label], statuses, strict=True), 1
    ):
        row = {"id": row_id, "label": value, "status": state}
        yield from _row_entry(f"{argument}, row {number}", row)


def _table_entries(table: Table) -> Iterator[_Entry]:
    ids = find_column(table.names, ID_COLUMNS)
    label = find_column(table.names, LABEL_COLUMNS)
    if not table.names and table.problems:
        raise _problem(table)
    if ids is None or label is None:
        place = f"{table.path}, line 1" if table.first == _FIRST_BELOW_HEADER else str(table.path)
        raise InputError(_expected_columns(place, table.names))
    if table.problems:
        raise _problem(table)
    status = find_column(table.names, ("status",))
    for number, row in enumerate(table.only(*(name for name in (ids, label, status) if name))):
        values = {"id": row.get(ids), "label": row.get(label), "status": row.get(status or "")}
        yield from _row_entry(table.place(number), values)


def _row_entry(place: str, row: Mapping[str, Any]) -> Iterator[_Entry]:
    """Yield what a row says, if a person labeled it."""
    status = _label_text(row["status"]) or LABELED
    if status not in STATUSES:
        raise InputError(
            f"{place}: unknown status {status!r}; expected {', '.join(STATUSES[:-1])} or "
            f"{STATUSES[-1]}, or no column 'status'"
        )
    name = _label_text(row["id"])
    labels = _checked(place, name, row["label"])
    if not labels or status != LABELED:
        return
    if not name:
        raise InputError(f"{place}: has a label but no id")
    yield place, name, labels


def _problem(table: Table) -> InputError:
    first = table.problems[0]
    return InputError(f"{first.uri}: {first.reason}")


def _expected_columns(place: str, names: Sequence[str]) -> str:
    return (
        f"{place}: the columns are {', '.join(sorted(names)) or 'missing'}; expected id (or path, "
        "or image) and label"
    )


def _collect(name: str, entries: Iterable[_Entry], ids: Sequence[str] | None) -> LabelSet:
    """Return the labels of entries by the ids that their names stand for."""
    every = list(entries)
    id_of = None if ids is None else resolve_ids([entry[:2] for entry in every], ids)
    by_id: dict[str, tuple[str, ...]] = {}
    for place, written, labels in every:
        row_id = written if id_of is None else id_of[written]
        earlier = by_id.setdefault(row_id, labels)
        if earlier != labels:
            raise InputError(
                f"{place}: {row_id} has the label {SEPARATOR.join(labels)!r} here and "
                f"{SEPARATOR.join(earlier)!r} above; remove one of the rows, or write both labels "
                f"separated by {SEPARATOR!r}"
            )
    return LabelSet(name, by_id)


def resolve_ids(names: Sequence[tuple[str, str]], ids: Sequence[str]) -> dict[str, str]:
    """Return the id that each name stands for.

    Args:
        names: where each is, for messages, and the name: an id, or that without the source's
            name, the file name, or that without suffix.
        ids: all that there are.

    Raises:
        InputError: one stands for none, or for several.
    """
    id_set = frozenset(ids)
    places = {name: place for place, name in reversed(names)}
    id_of = {name: name for name in places if name in id_set}
    others = {name: place for name, place in places.items() if name not in id_set}
    if not others:
        return id_of
    suffixes = supported_suffixes()
    matches = resolve_names(others, ((each, item_names(each, suffixes)) for each in ids))
    for _, name in names:
        if name in others and len(matches.get(name, ())) != 1:
            raise InputError(f"{others[name]}: {_no_id(name, matches.get(name, ()), ids)}")
    return id_of | {name: matches[name][0] for name in others}


def _no_id(name: str, matches: Sequence[str], ids: Sequence[str]) -> str:
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    if matches:
        return (
            f"{name!r} is ambiguous: {matches[0]} or {matches[1]} ({len(matches):,} matches); use "
            "the full id"
        )
    similar = difflib.get_close_matches(name, ids[:_MAX_COMPARED_IDS], n=1, cutoff=0.4)
    hint = "there are no images"
    if len(ids):
        hint = f"did you mean {similar[0]!r}?" if similar else f"ids look like {ids[0]!r}"
    return f"no image has the id {name!r}; {hint}"
