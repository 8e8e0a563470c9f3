"""Images that people removed from a gallery while their files stayed in the source.

A sync leaves them out, also if a file was moved, until they are restored or their files are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lookalike.artifacts import manifest_bytes, parse_manifest
from lookalike.documents import LARGE, Fields
from lookalike.gallery.archive import FileStorage
from lookalike.stores.base import Record

FILE = "removed.json"

_HINT = "restore it, or delete it: removed images are indexed again then"

Removed = Mapping[str, Mapping[str, str]]
"""Content hashes of removed images by id, by source."""


class RemovedImages:
    """The images of a gallery's sources that a sync leaves out."""

    def __init__(self, storage: FileStorage, place: str) -> None:
        self._storage = storage
        self._place = place

    def read(self) -> dict[str, dict[str, str]]:
        """Return content hashes by id, by source.

        Raises:
            ArtifactError: the file is damaged.
        """
        data = self._storage.read_file(FILE)
        if data is None:
            return {}
        place = f"{self._place}/{FILE}"
        manifest = parse_manifest(data, place=place, what=_WHAT, hint=_HINT, limit=LARGE)
        fields = Fields(manifest, place, _HINT)
        sources: dict[str, Any] = fields.mapping("removed")
        if not all(
            isinstance(each, dict) and _are_texts(each.values()) for each in sources.values()
        ):
            raise fields.invalid("removed", "an object of objects of texts")
        return {
            name: {f"{name}:{key}": digest for key, digest in hashes.items()}
            for name, hashes in sources.items()
        }

    def add(self, records: Iterable[Record], sources: Iterable[str]) -> None:
        """Leave rows of some sources out from now on; when this returns, it is safe to delete them.

        Raises:
            ArtifactError: the file is damaged.
            StorageError: it could not be written.
        """
        names = frozenset(sources)
        added: dict[str, dict[str, str]] = {}
        for record in records:
            name, separator, _ = record.id.partition(":")
            if separator and name in names:
                added.setdefault(name, {})[record.id] = record.content_hash
        if added:
            before = self.read()
            self.replace({**before, **{n: {**before.get(n, {}), **a} for n, a in added.items()}})

    def replace_source(self, name: str, hashes: Mapping[str, str]) -> None:
        """Leave these images of a source out, and no others of it.

        Raises:
            ArtifactError: the file is damaged.
            StorageError: it could not be written.
        """
        self.replace({**self.read(), name: hashes})

    def replace(self, removed: Removed) -> None:
        """Leave these images out, and no others.

        Raises:
            StorageError: it could not be written.
        """
        keys = {
            name: {row_id.removeprefix(f"{name}:"): digest for row_id, digest in hashes.items()}
            for name, hashes in removed.items()
            if hashes
        }
        if keys or self._storage.read_file(FILE) is not None:
            self._storage.write_file(FILE, manifest_bytes({"removed": keys}))


_WHAT = "a list of removed images"


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
