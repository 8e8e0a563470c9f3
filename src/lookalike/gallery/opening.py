"""An open gallery: its storage, manifest, rows and encoder, followed wherever others write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    InputError,
    ReplacedError,
)
from lookalike.files import AnchoredPath, as_path
from lookalike.gallery.state import GalleryState
from lookalike.gallery.storage import (
    ENCODER,
    IDENTITY,
    open_storage,
    read_gallery_manifest,
)
from lookalike.stores.base import (
    RowReader,
    VectorStore,
    replaced_error,
)
from lookalike.stores.registry import is_address
from lookalike.types import (
    Metric,
)

if TYPE_CHECKING:
    from lookalike.encoders.base import Encoder
    from lookalike.gallery.vectors import TemporaryFolder

T = TypeVar("T")


class OpenedGallery:
    """What belongs together in an open gallery: its storage, manifest, rows and encoder."""

    def __init__(self, location: str | Path, encoder: Encoder | None = None) -> None:
        self.storage = open_storage(location)
        self.stamp = self.storage.stamp()
        self.fields = read_gallery_manifest(self.storage)
        self.store: RowReader = self.storage.store
        own = encoder is not None and encoder.fingerprint == self.fingerprint
        self._encoders = [encoder] if encoder is not None and own else []  # shared with snapshots
        self._loading = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder of the rows."""
        return str(self.fields["encoder"]["fingerprint"])

    @property
    def encoder(self) -> Encoder:
        """The encoder of the rows: the one that was passed, or that of the folder, loaded once."""
        from lookalike.encoders.persistence import load_encoder

        with self._loading:
            if not self._encoders:
                encoder = load_encoder(self.storage.path / ENCODER)
                self.check_fingerprint(encoder)
                self._encoders.append(encoder)
            return self._encoders[0]

    def check_fingerprint(self, encoder: Encoder) -> None:
        """Raise FingerprintError unless this is the encoder of the rows."""
        if encoder.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"{self.storage.path}: its encoder is {self.fields['encoder']['name']!r} "
                f"({self.fingerprint[:12]}), not {encoder.name!r} ({encoder.fingerprint[:12]}); "
                "their embeddings cannot be mixed: create another gallery for the other encoder"
            )

    def snapshot(self) -> Self:
        """Return the same with the rows as they are now, or as they were in a snapshot."""
        if self.store is not self.storage.store:
            return self
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        view.store = self.storage.store.snapshot()
        return view

    def is_current(self, *, reread: bool) -> bool:
        """Return whether the gallery in its place is the one that was opened.

        Args:
            reread: read the manifest again, also if that in the folder has not changed.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        stamp = self.storage.stamp()
        try:
            identity = GalleryState.of(self.storage.store).identity
        except ReplacedError:
            return False
        if stamp == self.stamp and not reread:
            return True
        fields = self.storage.read()
        same_encoder = fields["encoder"] == self.fields["encoder"]
        if fields.get(IDENTITY, identity) != identity or not same_encoder:
            return False
        self.stamp, self.fields = stamp, fields
        return True


class StoredGallery:
    """A gallery in a folder or at an address, as it is whenever it is used.

    It sees what other processes have written. If another gallery was put in its place, that one is
    opened: encoder and rows are always of one gallery. Where there is none, or half of one, an
    ArtifactError says so, and the next use tries again.
    """

    def __init__(self, location: str | Path, encoder: Encoder | None = None) -> None:
        is_folder = not (isinstance(location, str) and is_address(location))
        self._place = AnchoredPath(as_path(location, "path")) if is_folder else None
        self._address = location
        self._passed_encoder = encoder
        self._is_snapshot = False
        self._temporary: TemporaryFolder | None = None  # kept as long as this object or a view
        self._checking = threading.RLock()
        self._writer: OpenedGallery | None = None
        self._writing_thread = 0
        self._is_swept = False
        self._open()
        if encoder is not None:
            self._opened.check_fingerprint(encoder)

    def _open(self) -> None:
        """Open the gallery that is in its place."""
        opened = OpenedGallery(self.location, self._passed_encoder)
        self._apply(opened)
        self._opened = opened

    def _apply(self, opened: OpenedGallery) -> None:
        """Take over what the manifest says."""
        fields = opened.fields
        self.address = opened.storage.address
        self.metric = Metric(fields["metric"])
        self.sources: dict[str, str] = dict(fields["sources"])
        self.source_options: dict[str, dict[str, Any]] = dict(fields.get("source_options", {}))
        self.written = frozenset(fields.get("written", ()))
        self._encoder_facts: Mapping[str, str] = {
            name: fields["encoder"][name] for name in ("name", "fingerprint")
        }

    def _current(self, *, check: bool = False, reread: bool = False) -> OpenedGallery:
        """Return the parts of the gallery that is in its place, opened again if that is another.

        Args:
            check: check its rows too; by default only whether its manifest was written or replaced.
            reread: read its manifest again.

        Raises:
            ArtifactError: there is none, or it is broken or being replaced.
        """
        if self._is_snapshot:
            return self._opened
        opened = self._opened
        if not (check or reread) and opened.storage.stamp() == opened.stamp:
            return opened
        with self._checking:
            opened = self._opened
            if not opened.is_current(reread=reread):
                self._open()
            elif self._writer is None:
                self._apply(opened)
            return self._opened

    def _read(self, work: Callable[[OpenedGallery], T]) -> T:
        """Return what ``work`` reads; do it once more if the gallery was replaced meanwhile."""
        opened = self._current()
        try:
            return work(opened)
        except ArtifactError:
            if self._is_snapshot or self._current(check=True) is opened:
                raise
            return work(self._opened)

    @property
    def path(self) -> Path:
        """Its folder: as it was given, or absolute once the working directory has changed."""
        return self._opened.storage.path

    @property
    def location(self) -> str | Path:
        """The folder or address that opens the gallery, also in another process."""
        return self._address if self._place is None else self._place.path

    @property
    def encoder(self) -> Encoder:
        """The encoder of its rows.

        Raises:
            ArtifactError: it is missing or broken.
            FingerprintError: its fingerprint is not that of the rows.
        """
        self._current(check=self.address is not None)  # nothing in the folder shows a change
        return self._read(lambda opened: opened.encoder)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder of its rows."""
        return self._current(check=self.address is not None).fingerprint

    @property
    def state(self) -> GalleryState:
        """Its identity and revision: the key of whatever is computed from it.

        Raises:
            ArtifactError: the gallery is gone, or broken.
            UnreachableError: the server does not answer.
        """
        return self._read(lambda opened: GalleryState.of(opened.store))

    @property
    def store(self) -> RowReader:
        """The rows, for reading. They raise ReplacedError once another gallery is in the place."""
        return self._current().store

    @property
    def _store(self) -> VectorStore:
        """The rows, for writing."""
        return (self._writer or self._current()).storage.store

    def snapshot(self) -> Self:
        """Return the gallery as it is now, for several reads that must fit together.

        It is read-only, and later writes do not change it, nor another gallery in its place. Of
        rows on a server, only ids and metadata columns stay as they are.
        """
        if self._is_snapshot:
            return self

        def current(opened: OpenedGallery) -> OpenedGallery:
            view = opened.snapshot()
            GalleryState.of(view.store)  # which is from now on that of the snapshot
            return view

        view = copy(self)
        view._opened = self._read(current)
        view._is_snapshot, view._writer = True, None
        view._apply(view._opened)
        return view

    def __copy__(self) -> Self:
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        return view

    def __deepcopy__(self, memo: object) -> Self:
        return copy(self)

    def __reduce__(self) -> tuple[Callable[[str], Self], tuple[str]]:
        """Pickle the gallery as its location: it is opened again there, as it is then.

        An encoder that was passed to :meth:`lookalike.Gallery.open` is not pickled: the gallery has
        that of its folder again, which for an external one has no function. Pass it again there.

        Raises:
            InputError: this is a snapshot, which no other process can read, or a temporary gallery,
                which is deleted with this object.
        """
        if self._is_snapshot:
            raise InputError(f"{self.path}: a snapshot cannot be pickled; pickle the gallery")
        if self._temporary is not None:
            raise InputError(
                "a temporary gallery cannot be pickled, since it is deleted with its object; make "
                "it with {path}",
                path=None,
            )
        location = self._address if self._place is None else self._place.path.absolute()
        return type(self), (str(location),)

    def check_identity(self, identity: str) -> None:
        """Check that the gallery that is in its place has an identity.

        Raises:
            ReplacedError: it has another one.
            ArtifactError: the gallery is gone, or broken.
        """
        storage = self._current().storage
        storage.stamp()
        if GalleryState.of(storage.store).identity != identity:
            raise replaced_error(self.path)

    def check_fingerprint(self, encoder: Encoder) -> None:
        """Raise FingerprintError unless this is the encoder of the rows."""
        self._current().check_fingerprint(encoder)

    def __len__(self) -> int:
        return self._read(lambda opened: opened.store.count())
