"""Labels of some images, read from a CSV file or a metadata column."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from lookalike.csv_text import unescape_cell
from lookalike.errors import InputError
from lookalike.files import read_text
from lookalike.formatting import format_count

SEPARATOR = ";"
"""Separates the labels of an image that has several."""

LABELED = "labeled"
PROPAGATED = "propagated"
UNKNOWN = "unknown"
STATUSES = (LABELED, PROPAGATED, UNKNOWN)
"""Values of the column ``status`` in files of ``lookalike label propagate``."""

_MAX_COMPARED_IDS = 20_000


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels by image id, one or several each; ``name`` says in messages where they come from."""

    name: str
    by_id: Mapping[str, tuple[str, ...]]

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

    def validate(self) -> None:
        """Check that there are at least two different labels.

        Raises:
            InputError: no image is labeled, or all have the same labels.
        """
        if not self.by_id:
            raise InputError(f"{self.name}: no image has a label; fill in the column 'label'")
        if len(set(self.by_id.values())) == 1:
            label = SEPARATOR.join(next(iter(self.by_id.values())))
            images = format_count(len(self), "image")
            raise InputError(
                f"{self.name}: the only label is {label!r} ({images}); label images of at least "
                "one other class"
            )


def split_labels(cell: str) -> tuple[str, ...]:
    """Return the distinct labels in a cell, sorted; none if it is empty or ``unknown``."""
    labels = {label.strip() for label in cell.split(SEPARATOR)} - {"", UNKNOWN}
    return tuple(sorted(labels))


def read_labels(path: str | Path, ids: Sequence[str]) -> LabelSet:
    """Read a CSV file with the columns ``id`` and ``label``; other columns are ignored.

    Several labels of one image are separated by semicolons. Rows whose label is empty or
    ``unknown`` are skipped. Of a file written by ``lookalike label propagate`` only the rows of
    status ``labeled`` are read, so that propagated labels are never taken for labels of a person.

    Args:
        path: the file, UTF-8.
        ids: the ids of the gallery.

    Raises:
        InputError: the file cannot be read, lacks a column, has an unknown id or status, or has
            different labels for one image. The message names the line.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from error
    reader = csv.DictReader(StringIO(text, newline=""), restval="")
    names = {name.strip() for name in reader.fieldnames or ()}
    if not names >= {"id", "label"}:
        raise InputError(
            f"{path}, line 1: the columns are {', '.join(sorted(names)) or 'missing'}; expected "
            "id and label, separated by commas"
        )
    id_set = frozenset(ids)
    labels_by_id: dict[str, tuple[str, ...]] = {}
    try:
        for row_id, labels in _labeled_rows(reader, path):
            if row_id not in id_set:
                raise InputError(_unknown_id(f"{path}, line {reader.line_num}", row_id, ids))
            earlier = labels_by_id.setdefault(row_id, labels)
            if earlier != labels:
                raise InputError(
                    f"{path}, line {reader.line_num}: {row_id} has the label "
                    f"{SEPARATOR.join(labels)!r} here and {SEPARATOR.join(earlier)!r} above; "
                    f"remove one of the rows, or write both labels separated by {SEPARATOR!r}"
                )
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: invalid CSV ({error})") from error
    return LabelSet(str(path), labels_by_id)


def _labeled_rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield id and labels of each row that a person labeled."""
    for raw in reader:
        row = {
            key.strip(): unescape_cell(cell.strip())
            for key, cell in raw.items()
            if isinstance(key, str)
        }
        labels = split_labels(row["label"])
        status = row.get("status") or LABELED
        if status not in STATUSES:
            raise InputError(
                f"{path}, line {reader.line_num}: unknown status {status!r}; expected "
                f"{', '.join(STATUSES[:-1])} or {STATUSES[-1]}, or no column 'status'"
            )
        if labels and status == LABELED:
            yield row["id"], labels


def labels_from_column(name: str, ids: Sequence[str], values: Sequence[object]) -> LabelSet:
    """Return the labels in a metadata column.

    Args:
        name: what messages call the labels.
        ids: of all rows.
        values: the column, None where a row has no value.
    """
    labels = {
        row_id: (str(value),)
        for row_id, value in zip(ids, values, strict=True)
        if value not in (None, "", UNKNOWN)
    }
    return LabelSet(name, labels)


def _unknown_id(where: str, row_id: str, ids: Sequence[str]) -> str:
    matches = difflib.get_close_matches(row_id, ids[:_MAX_COMPARED_IDS], n=1, cutoff=0.4)
    hint = "the gallery is empty"
    if ids:
        hint = f"did you mean {matches[0]!r}?" if matches else f"ids look like {ids[0]!r}"
    return f"{where}: the gallery has no image with the id {row_id!r}; {hint}"
