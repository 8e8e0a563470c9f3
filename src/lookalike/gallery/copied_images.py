"""Rows that are copied together with the files of uploaded images, which are in the gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError
from lookalike.files import (
    bare_name,
    check_no_link,
    check_regular,
    escape_name,
    read_regular,
    unescape_name,
)
from lookalike.gallery.ids import UPLOADS
from lookalike.stores.base import Rows


class CopiedRows(Protocol):
    """Rows that are copied."""

    def count(self) -> int:
        """Return the number of rows."""

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows in any order, at most ``count`` at a time."""


class RowsWithImages:
    """The rows of a gallery, with uploaded images where they are copied to.

    Args:
        rows: of the gallery.
        origin: the gallery's folder of uploaded images, wherever its rows say that they are: it
            may have been moved.
        target: the folder to which they are copied as their rows are read; the rows name them
            there. What is there already is not copied again.
    """

    def __init__(self, rows: CopiedRows, origin: Path, target: Path) -> None:
        self._rows = rows
        self._from, self._to = origin, target.resolve()

    def sources(self, sources: Mapping[str, str]) -> dict[str, str]:
        """Return the gallery's sources, with the folder that uploaded images are copied to."""
        moved = {UPLOADS: escape_name(str(self._to))} if UPLOADS in sources else {}
        return {**sources, **moved}

    def count(self) -> int:
        """Return the number of rows."""
        return self._rows.count()

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return self._rows.ids()

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""
        return self._with_images(self._rows.sample(k, seed))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows in any order, at most ``count`` at a time."""
        return map(self._with_images, self._rows.rows(count))

    def _with_images(self, rows: Rows) -> Rows:
        """Copy the uploaded images of rows; return the rows with their new places."""
        prefix = f"{UPLOADS}:"
        pairs = zip(rows.ids, rows.uris, strict=True)
        uris = [self._copied(uri) if row_id.startswith(prefix) else uri for row_id, uri in pairs]
        return replace(rows, uris=uris)

    def _copied(self, uri: str) -> str:
        """Copy the file of an uploaded image; return its new URI, or the old one without a file.

        Raises:
            StorageError: it could not be written.
            ArtifactError: the file is a link, or cannot be read.
        """
        name = bare_name(unescape_name(uri).rpartition("/")[2], str(self._from))
        source, target = self._from / name, self._to / name
        if not target.exists():
            check_no_link(source, what="a gallery")
            try:
                check_regular(source)
                data = read_regular(source, follow=False)
            except FileNotFoundError:
                return uri
            except OSError as error:
                raise ArtifactError(f"{source}: cannot be read ({error.strerror})") from error
            write_atomically(target, data)
        return escape_name(str(target))
