"""A manifest: a table with the path or URL of each image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lookalike.errors import ImageError, SourceError
from lookalike.files import escape_name, is_url
from lookalike.formatting import format_count
from lookalike.images.formats import supported_suffixes
from lookalike.images.memory import read_file
from lookalike.sources import skipping
from lookalike.sources.base import Item, source_name, source_repr
from lookalike.sources.folder import file_signature, file_size, matching_name, similar_name
from lookalike.sources.options import DEFAULT_SOURCE_OPTIONS, SourceOptions
from lookalike.sources.skipping import SkipCounter, Skipped, reason_to_skip
from lookalike.sources.tables import Table, find_column, read_table
from lookalike.sources.urls import read_url
from lookalike.types import Failure

_RESERVED_COLUMNS = frozenset(("path", "url", "id"))
_MAX_KEY = 2_000
"""Characters of an id or path; the service takes no longer ones."""

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True, repr=False)
class ManifestSource:
    """The rows of a table with a column ``path`` or ``url``; the other columns are metadata.

    Paths are relative to the manifest's folder and must not leave it. The item's key is the column
    ``id`` if there is one, else its path or URL. ``rows`` are the numbers of the rows that are
    items; ``skipped_keys`` the keys of those that are not. ``named`` tells whether the caller chose
    the name.
    """

    table: Table
    name: str
    keys: Sequence[str]
    column: str
    rows: Sequence[int]
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    skipped_keys: frozenset[str] = frozenset()
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS
    named: bool = False

    @classmethod
    def read(cls, path: Path, options: SourceOptions = DEFAULT_SOURCE_OPTIONS) -> ManifestSource:
        """Read and check a manifest.

        Rows without an image, that leave the folder or repeat an id are problems of the source.

        Raises:
            SourceError: it cannot be read, lacks a column, or has no row that is right.
        """
        table = read_table(path.absolute())
        column = find_column(table.names, ("path", "url"))
        if column is None and len(table.rows):
            raise SourceError(
                f"{path}: has no column path or url with the location of each image; its columns "
                f"are {', '.join(table.names) or 'none'}"
            )
        if column is None or not len(table.rows):
            raise _no_rows(path, table.problems)
        keys, problems, lost = _keys(table, column)
        if not keys:
            raise _no_rows(path, (*table.problems, *problems))
        counter = SkipCounter()
        taken = _rows_to_take(table, column, keys, options, counter)
        name = source_name(path.stem)
        return cls(
            table,
            name,
            tuple(taken),
            column,
            tuple(taken.values()),
            (*table.problems, *problems),
            unlisted_prefixes=(f"{name}:",) if lost else (),
            skipped=counter.result(),
            skipped_keys=frozenset(keys.keys() - taken.keys()),
            options=options,
        )

    @property
    def spec(self) -> str:
        """The manifest's absolute path."""
        return escape_name(str(self.table.path))

    @property
    def base(self) -> str:
        """The manifest's absolute path."""
        return self.spec

    def has_file(self, item_id: str) -> bool:
        """Return whether the manifest has a row of this ID that is not among the items."""
        return item_id.removeprefix(f"{self.name}:") in self.skipped_keys

    def __repr__(self) -> str:
        return source_repr(self)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        return self._item(index, self.table.rows[self.rows[index]])

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def _item(self, index: int, row: Mapping[str, Any]) -> Item:
        row_id = f"{self.name}:{self.keys[index]}"
        reserved = _RESERVED_COLUMNS | {self.column}
        metadata = {name: value for name, value in row.items() if name not in reserved}
        location = str(row[self.column])
        decoding = self.options.decoding
        if self.column.lower() == "url":
            allow_private = self.options.allow_private_urls
            read = partial(read_url, location, allow_private=allow_private)
            return Item(
                row_id,
                location,
                metadata,
                read,
                options=decoding,
                allow_private_urls=allow_private,
            )
        path = _find(self.table.path.parent, _relative(location))
        return Item(
            row_id,
            escape_name(str(path)),
            metadata,
            partial(_bytes_of, path),
            partial(file_signature, path),
            decoding,
            size=partial(file_size, path),
        )


def _no_rows(path: Path, problems: Sequence[Failure]) -> SourceError:
    """Return the error that no row is right; it names the first."""
    if not problems:
        return SourceError(f"{path}: has no rows")
    first, count = problems[0], len(problems)
    return SourceError(
        f"{first.uri}: {first.reason}"
        + (f" ({format_count(count - 1, 'more row')} cannot be read)" if count > 1 else "")
    )


def _keys(table: Table, column: str) -> tuple[dict[str, int], list[Failure], bool]:
    """Return the numbers of the rows that are right, by key, and what is wrong with the others.

    The last value tells whether a row may be that of any image, since it has no key.
    """
    lost = bool(table.problems)
    key_column = "id" if "id" in table.names else column
    keys: dict[str, int] = {}
    problems: list[Failure] = []
    for number, row in enumerate(table.only(column, key_column)):
        problem = _problem(row, column)
        if not problem and key_column not in row:
            problem = f"has no {key_column}"
        lost |= not isinstance(row.get(column), str) or key_column not in row
        key = str(row.get(key_column))
        if key_column.lower() == "path":
            key = _relative(key)
        if not problem and key in keys:
            other = table.place(keys[key]).removeprefix(f"{table.path}, ")
            problem = f"same {key_column} as {other}, {key!r}"
        if not problem and len(key) > _MAX_KEY:
            problem = f"its {key_column} is longer than {_MAX_KEY:,} characters"
        if problem:
            problems.append(Failure(table.place(number), problem))
        else:
            keys[key] = number
    return keys, problems, lost


def _rows_to_take(
    table: Table, column: str, keys: Mapping[str, int], options: SourceOptions, counter: SkipCounter
) -> dict[str, int]:
    """Return the rows that are not skipped; count the others."""
    readable = supported_suffixes()

    def skips(location: str) -> bool:
        name = urlsplit(location).path if column.lower() == "url" else _relative(location)
        if not options.takes(name):
            counter.add(skipping.EXCLUDED, location)
            return True
        skipped = reason_to_skip(name, readable)
        if skipped is None or not skipped[0].startswith("unsupported"):
            return False
        counter.add(skipped[0], location, skipped[1])
        return True

    rows = table.only(column)
    return {key: number for key, number in keys.items() if not skips(str(rows[number][column]))}


def _relative(path: str) -> str:
    return os.path.normpath(path).replace(os.sep, "/")


def _find(folder: Path, relative: str) -> Path:
    """Return the file that a path in a table means: spelled so, or else spelled alike."""
    path = folder / relative
    if (relative.isascii() and "\\" not in relative) or _exists(path):
        return path
    spelled = matching_name(relative, _Existing(folder))
    return path if spelled is None else folder / spelled


class _Existing:
    """The files of a folder as a collection, without listing it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, relative: object) -> bool:
        return _exists(self._folder / str(relative))


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - False for a name that is too long


def _bytes_of(path: Path) -> bytes:
    """Return the bytes of a file; if it does not exist, the error names a similar one."""
    try:
        return read_file(path)
    except FileNotFoundError as error:
        try:
            names = sorted(os.listdir(path.parent))  # noqa: PTH208 - names only
        except OSError:
            raise error from None
        hint = similar_name(path.name, names)
        raise ImageError(f"{path}: cannot be read ({error.strerror}){hint}") from error


def _problem(row: Mapping[str, Any], column: str) -> str:
    """Return what is wrong with the location of a row; empty if it is right."""
    location = row.get(column)
    if location is None:
        return f"has no {column}"
    if not isinstance(location, str):
        return f"{column} {str(location)[:80]} is not text"
    if column.lower() == "url":
        valid = is_url(location) and _host(location)
        return "" if valid else f"{location!r} is not an http or https URL"
    first = _relative(location.replace("\\", "/")).split("/")[0]
    if os.path.isabs(location) or _DRIVE.match(location) or first in ("..", "."):  # noqa: PTH117
        return (
            f"the path {location!r} is not below the manifest's folder; put the manifest above "
            "the images and give paths relative to it"
        )
    return ""


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:  # such as half an IPv6 address
        return ""
