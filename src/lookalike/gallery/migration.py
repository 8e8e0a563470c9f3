"""Reading galleries of formats 1 to 4, whose rows are in a Lance table, to copy them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, FingerprintError
from lookalike.files import check_no_link
from lookalike.gallery.archive import ColumnArchive
from lookalike.gallery.copied_images import RowsWithImages
from lookalike.gallery.removed import Removed
from lookalike.gallery.storage import ENCODER, IMAGES, PARTS, STORE, read_folder, read_folder_file
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
        self.store = RowsWithImages(LanceTable(path / STORE), path / IMAGES, target / IMAGES)
        self.sources = self.store.sources(fields["sources"])

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

    @property
    def removed(self) -> Removed:
        """Nothing: removed images were indexed again."""
        return {}

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file in the folder; None if there is none."""
        return read_folder_file(self.path / name)

    def write_file(self, name: str, data: bytes) -> None:
        """Refuse to write.

        Raises:
            ArtifactError: always.
        """
        raise ArtifactError(f"{self.path / name}: an old gallery is only read, not {len(data):,} B")
