"""Storage of a gallery: its manifest, its encoder and its rows.

A gallery is a folder. Its rows are a table in the folder, or a collection in Milvus. In Milvus, the
manifest and the encoder are stored beside the collection, so that its address is enough to open the
gallery; the folder holds the address and a copy of the encoder. Opening a gallery by its address
creates such a folder in the cache.

A gallery's identity is that of its store. The manifest of a folder repeats it, so that the manifest
of one gallery beside the rows of another is recognized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from lookalike.artifacts import (
    check_manifest,
    manifest_bytes,
    new_folder,
    read_manifest,
    write_atomically,
    write_manifest,
)
from lookalike.config import settings
from lookalike.encoders.base import Encoder, encoder_files
from lookalike.encoders.persistence import write_encoder
from lookalike.errors import ArtifactError, FingerprintError, SettingError
from lookalike.files import AnchoredPath
from lookalike.gallery.state import GalleryState
from lookalike.stores.base import VectorStore, replaced_error
from lookalike.stores.lance.store import LanceStore
from lookalike.stores.milvus.address import Address, is_address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric

MANIFEST = "gallery.json"
ENCODER = "encoder"
STORE = "store"
IDENTITY = "identity"

_WHAT = "a gallery"
_HINT = "Create one: lookalike index photos.gallery photos"


class GalleryStorage(Protocol):
    """The folder, rows and manifest of a gallery."""

    @property
    def path(self) -> Path:
        """The folder, as it was given unless the working directory changed."""
        ...

    @property
    def store(self) -> VectorStore:
        """The rows."""
        ...

    @property
    def address(self) -> Address | None:
        """The address of the rows, if they are in Milvus."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts about the Milvus collection, as JSON values; none for a folder."""
        ...

    def stamp(self) -> object:
        """Return a value that changes when the manifest in the folder is written or replaced.

        Raises:
            ArtifactError: it is missing.
        """
        ...

    def read(self) -> dict[str, Any]:
        """Return the current manifest.

        Raises:
            ArtifactError: it is missing or broken.
            FormatVersionError: a newer lookalike wrote it.
        """
        ...

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replace the manifest of this gallery.

        Raises:
            ReplacedError: it is the manifest of another gallery by now.
            ArtifactError: it is missing or broken.
            StorageError: it could not be written.
        """
        ...

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file beside the rows; None if there is none.

        Raises:
            ArtifactError: it cannot be read.
        """
        ...

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file beside the rows; when this returns, it is safe.

        Raises:
            StorageError: it could not be written.
        """
        ...


class FolderStorage:
    """A gallery whose rows are in its folder."""

    address: Address | None = None
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self._anchored = AnchoredPath(path)
        self._table = LanceStore.open(path / STORE)
        self.store: VectorStore = self._table

    @property
    def path(self) -> Path:
        """The folder."""
        return self._anchored.path

    def stamp(self) -> object:
        """Return a value that changes when the manifest is written or replaced."""
        return _stamp(self.path)

    def read(self) -> dict[str, Any]:
        """Return the current manifest."""
        return read_manifest(self.path / MANIFEST, what=_WHAT, hint=_HINT)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replace the manifest of this gallery."""
        identity = self._table.ensure_identity()
        if self.read().get(IDENTITY, identity) != identity:
            raise replaced_error(self.path)
        write_manifest(self.path / MANIFEST, {IDENTITY: identity, **fields})

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file in the folder; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(f"{self.path / name}: cannot be read ({error.strerror})") from error

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file in the folder."""
        write_atomically(self.path / name, data)


class MilvusStorage:
    """A gallery whose rows are in Milvus."""

    def __init__(self, path: Path, store: MilvusStore, expected: str) -> None:
        address = store.address
        self._anchored = AnchoredPath(path)
        self.address: Address | None = address
        self.store: VectorStore = store
        self.facts: Mapping[str, Any] = {"store": str(address), "index": store.index}
        self._sidecar = store.sidecar
        actual = _fingerprint(store)
        if actual != expected:
            raise FingerprintError(
                f"{path}: the collection {address} was recreated with another encoder "
                f"({actual[:12]}, not {expected[:12]}); open the gallery by its address, or create "
                "another collection"
            )

    @property
    def path(self) -> Path:
        """The folder."""
        return self._anchored.path

    def stamp(self) -> object:
        """Return a value that changes when the address in the folder is replaced.

        The store checks with each read that the collection was not.
        """
        return _stamp(self.path)

    def read(self) -> dict[str, Any]:
        """Return the current manifest."""
        return _manifest(self._sidecar.read(MANIFEST), self.address)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replace the manifest of this gallery."""
        GalleryState.of(self.store)  # refuses another collection
        self._sidecar.write(MANIFEST, manifest_bytes(fields))

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file beside the collection; None if there is none."""
        return self._sidecar.read(name) if name in self._sidecar.files() else None

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file beside the collection."""
        self._sidecar.write(name, data)


def open_storage(path: str | Path) -> GalleryStorage:
    """Open the storage of a gallery by its folder or its Milvus address.

    Raises:
        ArtifactError: there is no gallery, or it is broken.
        FingerprintError: the collection was recreated with another encoder.
        UnreachableError: the Milvus server does not answer.
    """
    if isinstance(path, str) and is_address(path):
        store = MilvusStore.open(Address.parse(path))
        return MilvusStorage(_cached_folder(store), store, _fingerprint(store))
    folder = Path(path)
    fields = read_manifest(folder / MANIFEST, what=_WHAT, hint=_HINT)
    if "address" in fields:
        store = MilvusStore.open(Address.parse(fields["address"]))
        return MilvusStorage(folder, store, str(fields.get("fingerprint")))
    return FolderStorage(folder)


def read_gallery_manifest(storage: GalleryStorage) -> dict[str, Any]:
    """Return the manifest of a gallery, checked against its rows.

    Raises:
        ArtifactError: it is missing or broken, or is not of these rows.
        FormatVersionError: a newer lookalike wrote it.
    """
    fields = storage.read()
    if fields.get(IDENTITY, storage.store.identity) != storage.store.identity:
        raise ArtifactError(
            f"{storage.path}: its {MANIFEST} and its rows are of two galleries; it is being "
            "replaced, or was copied in part: copy or index it again"
        )
    dim, expected = storage.store.dim, fields.get("dim", storage.store.dim)
    if dim != expected:
        raise ArtifactError(
            f"{storage.address or storage.path}: its rows have {dim} dimensions, but {MANIFEST} "
            f"has dim {expected}"
        )
    return fields


def gallery_exists(path: str | Path) -> bool:
    """Return whether a path exists, or whether there is a gallery at an address.

    Raises:
        ArtifactError: the collection at the address was not created by lookalike.
        UnreachableError: the server does not answer.
    """
    if isinstance(path, str) and is_address(path):
        store = MilvusStore.find(Address.parse(path))
        return store is not None and MANIFEST in store.sidecar.files()
    return Path(path).exists()


def create_storage(
    path: str | Path, fields: Mapping[str, Any], encoder: Encoder, address: Address | None
) -> Path:
    """Create the storage of an empty gallery, completely or not at all; return its folder.

    Args:
        path: a new folder, or the address of a new collection.
        fields: the manifest.
        encoder: encodes its rows.
        address: the Milvus collection of the rows; by default they are in the folder.

    Raises:
        SettingError: ``path`` and ``address`` are different collections.
        ArtifactError: the folder or the collection exists.
        UnreachableError: the Milvus server does not answer.
        StorageError: it could not be written.
    """
    if isinstance(path, str) and is_address(path):
        own = Address.parse(path)
        if address not in (None, own):
            raise SettingError(
                f"{path}: its rows are in this collection, not in {address}; remove {{store}}",
                store=None,
            )
        return _cached_folder(_create_collection(own, fields, encoder))
    folder = Path(path)
    with new_folder(folder) as partial:
        (partial / ENCODER).mkdir()
        write_encoder(encoder, partial / ENCODER)
        if address is None:
            store = LanceStore.create(partial / STORE, encoder.dim)
            write_manifest(partial / MANIFEST, {IDENTITY: store.identity, **fields})
        else:
            _create_collection(address, fields, encoder)
            _write_handle(partial, address, encoder.fingerprint)
    return folder


def _create_collection(
    address: Address, fields: Mapping[str, Any], encoder: Encoder
) -> MilvusStore:
    """Create a collection, its encoder and, last, its manifest."""
    unfinished = MilvusStore.find(address)
    if unfinished is not None:
        if MANIFEST in unfinished.sidecar.files() or unfinished.count():
            raise ArtifactError(
                f"{address}: there is already a gallery; open it by its address, or choose "
                "another name"
            )
        unfinished.drop()
    metric = Metric(fields["metric"])
    store = MilvusStore.create(address, encoder.dim, metric, dict(fields["encoder"]))
    for name, data in encoder_files(encoder).items():
        store.sidecar.write(f"{ENCODER}/{name}", data)
    store.sidecar.write(MANIFEST, manifest_bytes(fields))
    return store


def _fingerprint(store: MilvusStore) -> str:
    return str(store.description.get("fingerprint", ""))


def _write_handle(folder: Path, address: Address, fingerprint: str) -> None:
    write_manifest(folder / MANIFEST, {"address": address.text, "fingerprint": fingerprint})


def _cached_folder(store: MilvusStore) -> Path:
    """Return the folder in the cache of a gallery in Milvus, with its current encoder."""
    address, fingerprint = store.address, _fingerprint(store)
    server = f"{address.host}_{address.port}".replace(":", "_")
    folder = settings().data / "galleries" / server / fingerprint[:16] / f"{address.name}.gallery"
    if not (folder / MANIFEST).exists():
        _manifest(store.sidecar.read(MANIFEST), address)
        names = [name for name in store.sidecar.files() if name.startswith(f"{ENCODER}/")]
        try:
            with new_folder(folder) as partial:
                for name in names:
                    write_atomically(partial / name, store.sidecar.read(name))
                _write_handle(partial, address, fingerprint)
        except ArtifactError:
            if not (folder / MANIFEST).exists():  # otherwise another process created it
                raise
    return folder


def _stamp(folder: Path) -> object:
    try:
        facts = (folder / MANIFEST).stat()
    except OSError as error:
        raise ArtifactError(
            f"{folder}: the gallery is gone ({error.strerror}); it was removed or renamed, or is "
            "being replaced"
        ) from error
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _manifest(data: bytes, address: Address | None) -> dict[str, Any]:
    return check_manifest(json.loads(data), place=f"{address}", what=_WHAT)
