"""A manifest: a table with the path or URL of each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lookalike.errors import SourceError
from lookalike.sources.base import Item, source_name
from lookalike.sources.folder import file_signature
from lookalike.sources.tables import Table, read_table
from lookalike.sources.urls import read_url
from lookalike.types import Failure

_RESERVED_COLUMNS = frozenset(("path", "url", "id"))


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """The rows of a table with a column ``path`` or ``url``; the other columns are metadata.

    Paths are relative to the manifest's folder and must not leave it. The item's key is the column
    ``id`` if there is one, else its path or URL.
    """

    table: Table
    name: str
    keys: Sequence[str]
    column: str
    problems: Sequence[Failure] = ()
    unlisted_prefixes: Sequence[str] = ()

    @classmethod
    def read(cls, path: Path) -> ManifestSource:
        """Read and check a manifest.

        Raises:
            SourceError: it cannot be read or lacks a column; or a row has no image, leaves the
                folder or repeats an id (the message names the line).
        """
        table = read_table(path.absolute())
        column = next((name for name in ("path", "url") if name in table.names), None)
        if column is None:
            raise SourceError(
                f"{path}: has no column path or url with the location of each image; its columns "
                f"are {', '.join(table.names) or 'none'}"
            )
        if not len(table.rows):
            raise SourceError(f"{path}: has no rows")
        key_column = "id" if "id" in table.names else column
        keys: dict[str, int] = {}
        for number, row in enumerate(table.rows):
            _check(table, number, row, column)
            if key_column not in row:
                raise SourceError(f"{table.place(number)}: has no {key_column}")
            key = str(row[key_column])
            if key_column == "path":
                key = _relative(key)
            if key in keys:
                other = table.place(keys[key]).removeprefix(f"{table.path}, ")
                raise SourceError(f"{table.place(number)}: same {key_column} as {other}, {key!r}")
            keys[key] = number
        return cls(table, source_name(path.stem), tuple(keys), column)

    @property
    def spec(self) -> str:
        """The manifest's absolute path."""
        return str(self.table.path)

    @property
    def base(self) -> str:
        """The manifest's absolute path."""
        return self.spec

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        return self._item(index, self.table.rows[index])

    def __iter__(self) -> Iterator[Item]:
        return (self._item(index, row) for index, row in enumerate(self.table.rows))

    def _item(self, index: int, row: Mapping[str, Any]) -> Item:
        row_id = f"{self.name}:{self.keys[index]}"
        metadata = {name: value for name, value in row.items() if name not in _RESERVED_COLUMNS}
        location = str(row[self.column])
        if self.column == "url":
            return Item(row_id, location, metadata, partial(read_url, location))
        path = self.table.path.parent / _relative(location)
        return Item(row_id, str(path), metadata, path.read_bytes, partial(file_signature, path))


def _relative(path: str) -> str:
    return os.path.normpath(path).replace(os.sep, "/")


def _check(table: Table, number: int, row: Mapping[str, Any], column: str) -> None:
    location = row.get(column)
    if not isinstance(location, str):
        problem = f"has no {column}" if location is None else f"{column} {location!r} is not text"
        raise SourceError(f"{table.place(number)}: {problem}")
    if column == "url":
        parts = urlsplit(location)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SourceError(f"{table.place(number)}: {location!r} is not an http or https URL")
        return
    if Path(location).is_absolute() or _relative(location).split("/")[0] in ("..", "."):
        raise SourceError(
            f"{table.place(number)}: the path {location!r} is not below the manifest's folder; put "
            "the manifest above the images and give paths relative to it"
        )
