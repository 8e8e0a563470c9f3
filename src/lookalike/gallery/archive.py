"""What people and propagation wrote about images whose rows are gone, by content hash.

A row goes when its file is gone, and a new content replaces a row; what was written into its
metadata, and comes from no source, would go with it. It is kept here, in the gallery's storage, and
comes back with an image of the same content, within 30 days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from lookalike.artifacts import manifest_bytes, parse_manifest
from lookalike.documents import LARGE, Fields
from lookalike.gallery.edits import written_values
from lookalike.stores.base import Record
from lookalike.types import Metadata

FILE = "archive.json"

KEPT_DAYS = 30
"""Days after which what was written about an image whose row is gone is deleted."""

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
        self._days: dict[str, str] = {}

    @property
    def values(self) -> Mapping[str, Metadata]:
        """Values of columns, by content hash, of the last 30 days.

        Raises:
            ArtifactError: the archive is damaged.
        """
        if self._values is None:
            data = self._storage.read_file(FILE)
            if data is None:
                return self._replace({}, {})
            values, days = self._parse(data)
            return self._replace(*_recent(values, days))
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
        days = {**self._days, **dict.fromkeys(values, _today().isoformat())}
        if (merged, days) != (self.values, self._days):
            self._write(merged, days)

    def drop(self, digests: Iterable[str]) -> None:
        """Forget what was written about some contents.

        Raises:
            StorageError: it could not be written.
        """
        dropped = frozenset(digests)
        left = {digest: each for digest, each in self.values.items() if digest not in dropped}
        if left != self.values:
            self._write(left, self._days)

    def expire(self) -> None:
        """Delete what is older than 30 days from the disk.

        Raises:
            StorageError: it could not be written.
        """
        values = self.values
        data = self._storage.read_file(FILE)
        if data is not None and self._parse(data)[0].keys() != values.keys():
            self._write(values, self._days)

    def _write(self, values: Mapping[str, Metadata], days: Mapping[str, str]) -> None:
        kept = {digest: day for digest, day in days.items() if digest in values}
        self._storage.write_file(FILE, manifest_bytes({"columns": values, "days": kept}))
        self._replace(values, kept)

    def _replace(
        self, values: Mapping[str, Metadata], days: Mapping[str, str]
    ) -> Mapping[str, Metadata]:
        self._values, self._days = dict(values), dict(days)
        return self._values

    def _parse(self, data: bytes) -> tuple[dict[str, Metadata], dict[str, str]]:
        place, what = f"{self._place}/{FILE}", "an archive of labels"
        manifest = parse_manifest(data, place=place, what=what, hint=_HINT, limit=LARGE)
        fields = Fields(manifest, place, _HINT)
        columns = fields.mapping("columns")
        if not all(isinstance(values, dict) for values in columns.values()):
            raise fields.invalid("columns", "an object of objects")
        days = fields.text_mapping("days", {})  # before format 4 there were none
        return columns, {digest: days.get(digest, _today().isoformat()) for digest in columns}


def _recent(
    values: Mapping[str, Metadata], days: Mapping[str, str]
) -> tuple[dict[str, Metadata], dict[str, str]]:
    """Return the values that were kept in the last 30 days, and the days."""
    oldest = (_today() - timedelta(days=KEPT_DAYS)).isoformat()
    recent = {digest: day for digest, day in days.items() if day >= oldest}
    return {digest: values[digest] for digest in recent}, recent


def _today() -> date:
    return datetime.now(UTC).date()


def values_by_content(rows: Iterable[Record], written: Set[str]) -> dict[str, Metadata]:
    """Return what was written for some rows, by content hash; of several the last one counts."""
    pairs = ((row.content_hash, written_values(row.metadata, written)) for row in rows)
    return {digest: values for digest, values in pairs if values}
