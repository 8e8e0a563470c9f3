"""What people and propagation wrote about images whose rows are gone, by content hash.

A row goes when its file is gone, and a new content replaces a row; what was written into metadata
columns that come from no source would go with it. It is kept here, in the gallery's storage, and
comes back with an image of the same content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, Protocol

from lookalike.artifacts import manifest_bytes, parse_manifest
from lookalike.documents import LARGE, Fields
from lookalike.stores.base import Record
from lookalike.types import Metadata

FILE = "archive.json"

_HINT = "restore it, or delete it with the labels of removed images that it holds"


class FileStorage(Protocol):
    """Files beside the rows of a gallery."""

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        ...

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file; when this returns, it is on the disk or server."""
        ...


class ColumnArchive:
    """Written columns of former rows, by content hash; of several rows the last one kept counts."""

    def __init__(self, storage: FileStorage, place: str) -> None:
        self._storage = storage
        self._place = place
        self._values: dict[str, Metadata] | None = None

    @property
    def values(self) -> Mapping[str, Metadata]:
        """Values of columns, by content hash.

        Raises:
            ArtifactError: the archive is damaged.
        """
        if self._values is None:
            data = self._storage.read_file(FILE)
            self._values = {} if data is None else self._parse(data)
        return self._values

    def keep(self, rows: Iterable[Record], written: Set[str]) -> None:
        """Keep what was written for some rows; when this returns, it is safe to delete them.

        Raises:
            StorageError: it could not be written.
        """
        self.add(values_by_content(rows, written))

    def add(self, values: Mapping[str, Metadata]) -> None:
        """Add values of columns by content hash, and write them.

        Raises:
            StorageError: they could not be written.
        """
        merged = {**self.values, **values}
        if merged == self.values:
            return
        self._storage.write_file(FILE, manifest_bytes({"columns": merged}))
        self._values = merged

    def _parse(self, data: bytes) -> dict[str, Metadata]:
        place, what = f"{self._place}/{FILE}", "an archive of labels"
        manifest = parse_manifest(data, place=place, what=what, hint=_HINT, limit=LARGE)
        fields = Fields(manifest, place, _HINT)
        columns = fields.mapping("columns")
        if not all(isinstance(values, dict) for values in columns.values()):
            raise fields.invalid("columns", "an object of objects")
        return columns


def values_by_content(rows: Iterable[Record], written: Set[str]) -> dict[str, Metadata]:
    """Return what was written for some rows, by content hash; of several the last one counts."""
    pairs = ((row.content_hash, written_values(row.metadata, written)) for row in rows)
    return {digest: values for digest, values in pairs if values}


def written_values(metadata: Metadata, written: Set[str]) -> dict[str, Any]:
    """Return the values of a row in columns that come from no source."""
    return {name: value for name, value in metadata.items() if name in written}
