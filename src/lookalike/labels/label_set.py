"""Labels that a person gave: read from a file or a column of the metadata, and checked."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from lookalike.errors import InputError

SEPARATOR = ";"
"""Between several labels of one image."""

UNKNOWN = "unknown"
GIVEN = "given"
_OFFERED_AMONG = 20_000


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels by id, one or several each; ``name`` is where they are from."""

    name: str
    of: Mapping[str, tuple[str, ...]]

    @property
    def several(self) -> bool:
        """Whether any image has several."""
        return any(len(labels) > 1 for labels in self.of.values())

    @property
    def counts(self) -> Counter[str]:
        """How many images each label was given to, the most frequent first."""
        found = Counter(label for labels in self.of.values() for label in labels)
        return Counter(dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))))

    def check(self) -> None:
        """See that there are labels to tell apart.

        Raises:
            InputError: there are none, or all images have the same.
        """
        if not self.of:
            raise InputError(
                f"{self.name}: no image has a label; fill in the column label and try again"
            )
        if len(set(self.of.values())) == 1:
            only = SEPARATOR.join(next(iter(self.of.values())))
            raise InputError(
                f"{self.name}: all {len(self.of)} labeled images are {only!r}; nothing can be "
                "told apart: label images of at least one other kind too"
            )


def separate(cell: str) -> tuple[str, ...]:
    """Return the labels in a cell, in order and each once; none for ``unknown`` and empty ones."""
    parts = dict.fromkeys(part.strip() for part in cell.split(SEPARATOR))
    return tuple(sorted(part for part in parts if part and part != UNKNOWN))


def read_given(path: Path, known: Sequence[str]) -> LabelSet:
    """Read a CSV with the columns ``id`` and ``label``; others are passed over.

    Empty labels and ``unknown`` are no labels. Several labels of one image are joined by
    semicolons. A file of ``lookalike label propagate`` can be read too: of it, only what was given.

    Args:
        path: the file, UTF-8.
        known: the ids of the gallery.

    Raises:
        InputError: it cannot be read, lacks a column, names an id that is not there, or gives one
            image different labels; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    reader = csv.DictReader(StringIO(text, newline=""), restval="")
    names = {name.strip() for name in reader.fieldnames or ()}
    if not names >= {"id", "label"}:
        raise InputError(
            f"{path}, line 1: its columns are {', '.join(sorted(names)) or 'none'}; expected id "
            "and label, separated by commas"
        )
    ids = frozenset(known)
    found: dict[str, tuple[str, ...]] = {}
    try:
        for raw in reader:
            row = {key.strip(): cell.strip() for key, cell in raw.items() if isinstance(key, str)}
            labels = separate(row["label"])
            if not labels or row.get("status", GIVEN) != GIVEN:
                continue
            row_id = row["id"]
            if row_id not in ids:
                raise InputError(_nobody(f"{path}, line {reader.line_num}", row_id, known))
            if found.setdefault(row_id, labels) != labels:
                raise InputError(
                    f"{path}, line {reader.line_num}: {row_id} is {SEPARATOR.join(labels)!r} here "
                    f"and {SEPARATOR.join(found[row_id])!r} above; keep one of the two rows, or "
                    f"join labels that are both right with {SEPARATOR!r}"
                )
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error
    return LabelSet(str(path), found)


def given_in_column(name: str, ids: Sequence[str], values: Sequence[object]) -> LabelSet:
    """Return the labels in a column of the metadata.

    Args:
        name: what messages call them.
        ids: of all rows.
        values: the column's, None where a row has none.
    """
    found = {
        row_id: (str(value),)
        for row_id, value in zip(ids, values, strict=True)
        if value not in (None, "", UNKNOWN)
    }
    return LabelSet(name, found)


def _nobody(where: str, row_id: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(row_id, known[:_OFFERED_AMONG], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"an id looks like {known[0]!r}"
    return f"{where}: no image of the gallery has the id {row_id!r}; {hint}"
