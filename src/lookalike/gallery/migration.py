"""Reading galleries of formats 1 to 4, whose rows are in a Lance table, to copy them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, FingerprintError
from lookalike.files import (
    bare_name,
    check_no_link,
    check_regular,
    escape_name,
    read_regular,
    unescape_name,
)
from lookalike.gallery.archive import ColumnArchive
from lookalike.gallery.ids import UPLOADS
from lookalike.gallery.storage import ENCODER, IMAGES, PARTS, STORE, read_folder, read_folder_file
from lookalike.stores.base import Rows
from lookalike.stores.lance_tables import LanceTable
from lookalike.types import Metadata, Metric


class OldGallery:
    """A gallery in a folder of formats 1 to 4, for reading.

    Args:
        path: its folder.
        target: the folder that it is copied to. Uploaded images, which are in the gallery's own
            folder, are copied there as their rows are read; the rows name them there.

    Raises:
        MissingDependencyError: Lance is not installed.
        ArtifactError: it is broken, or has links.
    """

    address = None

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        fields = read_folder(path)
        for name in PARTS:
            check_no_link(path / name, what="a gallery")
        self.metric = Metric(fields["metric"])
        self.fingerprint = str(fields["encoder"]["fingerprint"])
        self.source_options: dict[str, dict[str, Any]] = dict(fields.get("source_options", {}))
        self.written = frozenset(fields.get("written", ()))
        self.sources: dict[str, str] = dict(fields["sources"])
        images = (target / IMAGES).resolve()
        if UPLOADS in self.sources:
            self.sources[UPLOADS] = escape_name(str(images))
        self.store = _OldRows(path, images)

    def __len__(self) -> int:
        return self.store.count()

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the rows.

        Raises:
            ArtifactError: it is missing or broken.
            FingerprintError: its fingerprint is not that of the rows.
        """
        encoder = load_encoder(self.path / ENCODER)
        if encoder.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.path}: its encoder {encoder.name!r} ({encoder.fingerprint[:12]}) is not "
                f"that of its rows ({self.fingerprint[:12]})"
            )
        return encoder

    @property
    def archive(self) -> Mapping[str, Metadata]:
        """What was written about images whose rows are gone: columns by content hash."""
        return ColumnArchive(self, str(self.path)).values

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file in the folder; None if there is none."""
        return read_folder_file(self.path / name)

    def write_file(self, name: str, data: bytes) -> None:
        """Refuse to write.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError(f"{self.path / name}: an old gallery is only read, not {len(data):,} B")


class _OldRows:
    """The rows of an old gallery, with uploaded images where they are copied to."""

    def __init__(self, path: Path, images: Path) -> None:
        self._table = LanceTable(path / STORE)
        self._from, self._to = path / IMAGES, images

    def count(self) -> int:
        """Return the number of rows."""
        return self._table.count()

    def ids(self) -> Sequence[str]:
        """Return the ids of all rows, sorted."""
        return self._table.ids()

    def sample(self, k: int, seed: int = 0) -> Rows:
        """Return random rows."""
        return self._with_images(self._table.sample(k, seed))

    def rows(self, count: int) -> Iterator[Rows]:
        """Iterate over all rows in any order, at most ``count`` at a time."""
        return map(self._with_images, self._table.rows(count))

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
