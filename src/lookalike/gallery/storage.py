"""Where a gallery lives: its manifest, its encoder and its rows.

A gallery is a folder. Its rows are a table in it, or a collection in Milvus; then the manifest and
the encoder lie beside the collection too, so that the collection's address is enough to open it,
and the folder holds the address and a copy of the encoder. A gallery opened by its address gets
such a folder among the cached files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from lookalike.artifacts import (
    checked_manifest,
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
from lookalike.stores.base import VectorStore
from lookalike.stores.lance.store import LanceStore
from lookalike.stores.milvus.address import Address, is_address
from lookalike.stores.milvus.store import MilvusStore
from lookalike.types import Metric

MANIFEST = "gallery.json"
ENCODER = "encoder"
STORE = "store"

_WHAT = "a gallery"


class GalleryStorage(Protocol):
    """A gallery's folder, and where its rows and its manifest are."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def store(self) -> VectorStore:
        """The rows."""
        ...

    @property
    def address(self) -> Address | None:
        """Where the rows are, if not in the folder."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is to be said of where the rows are, if not in the folder."""
        ...

    def read(self) -> dict[str, Any]:
        """Return the manifest as it is now.

        Raises:
            ArtifactError: it is missing or broken.
            FormatVersionError: a newer lookalike wrote it.
        """
        ...

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write the manifest over the one before."""
        ...


class FolderStorage:
    """All in one folder."""

    address: Address | None = None
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store: VectorStore = LanceStore.open(path / STORE)

    def read(self) -> dict[str, Any]:
        """Return the manifest as it is now."""
        return read_manifest(self.path / MANIFEST, what=_WHAT)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write the manifest over the one before."""
        write_manifest(self.path / MANIFEST, fields)


class MilvusStorage:
    """Rows, manifest and encoder in Milvus; a folder with their address and the encoder."""

    def __init__(self, path: Path, store: MilvusStore, expected: str) -> None:
        address = store.address
        self.path = path
        self.address: Address | None = address
        self.store: VectorStore = store
        self.facts: Mapping[str, Any] = {"store": str(address), "index": store.index}
        self._notes = store.notes
        found = _fingerprint(store)
        if found != expected:
            raise FingerprintError(
                f"{path}: its rows in {address} were made with another encoder by now "
                f"({found[:12]}, not {expected[:12]}); open the gallery by that address, or make "
                "another collection"
            )

    def read(self) -> dict[str, Any]:
        """Return the manifest as it is now."""
        return _manifest(self._notes.read(MANIFEST), self.address)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Write the manifest over the one before."""
        self._notes.write(MANIFEST, manifest_bytes(fields))


def open_storage(path: str | Path) -> GalleryStorage:
    """Open the home of a gallery: a folder, or an address.

    Raises:
        ArtifactError: there is no gallery, or it is broken.
        FingerprintError: the collection was made anew with another encoder.
        UnreachableError: the server of the rows does not answer.
    """
    if isinstance(path, str) and is_address(path):
        store = MilvusStore.open(Address.parse(path))
        return MilvusStorage(_visited(store), store, _fingerprint(store))
    folder = Path(path)
    fields = read_manifest(folder / MANIFEST, what=_WHAT)
    if "address" in fields:
        store = MilvusStore.open(Address.parse(fields["address"]))
        return MilvusStorage(folder, store, str(fields.get("fingerprint")))
    return FolderStorage(folder)


def read_gallery_manifest(home: GalleryStorage) -> dict[str, Any]:
    """Return the manifest of a home whose rows have the dimensions that it says.

    Raises:
        ArtifactError: they have others, or it is missing or broken.
        FormatVersionError: a newer lookalike wrote it.
    """
    fields = home.read()
    expected = fields.get("dim", home.store.dim)
    if home.store.dim != expected:
        raise ArtifactError(
            f"{home.address or home.path}: its table has {home.store.dim} dimensions, {MANIFEST} "
            f"says {expected}"
        )
    return fields


def gallery_exists(path: str | Path) -> bool:
    """Tell whether there is something at a path, or a gallery at an address.

    Raises:
        ArtifactError: at the address is a collection that is not one of lookalike's.
        UnreachableError: the server does not answer.
    """
    if isinstance(path, str) and is_address(path):
        found = MilvusStore.find(Address.parse(path))
        return found is not None and MANIFEST in found.notes.files()
    return Path(path).exists()


def create_storage(
    path: str | Path, fields: Mapping[str, Any], encoder: Encoder, address: Address | None
) -> Path:
    """Make the home of an empty gallery, whole or not at all, and return its folder.

    Args:
        path: a folder that is not there yet, or the address of a collection that is not.
        fields: the manifest.
        encoder: of its rows.
        address: where the rows are to be, if not in the folder.

    Raises:
        SettingError: both are addresses, and not of one collection.
        ArtifactError: the folder or the collection is there.
        UnreachableError: the server of the rows does not answer.
        StorageError: it could not be written.
    """
    if isinstance(path, str) and is_address(path):
        given = Address.parse(path)
        if address not in (None, given):
            raise SettingError(f"{path}: its rows are there, not in {address}; leave --store out")
        return _visited(_make_collection(given, fields, encoder))
    folder = Path(path)
    with new_folder(folder) as partial:
        (partial / ENCODER).mkdir()
        write_encoder(encoder, partial / ENCODER)
        if address is None:
            LanceStore.create(partial / STORE, encoder.dim)
            write_manifest(partial / MANIFEST, fields)
        else:
            _make_collection(address, fields, encoder)
            _write_handle(partial, address, encoder.fingerprint)
    return folder


def _make_collection(address: Address, fields: Mapping[str, Any], encoder: Encoder) -> MilvusStore:
    """Make a collection, its encoder and its manifest, which is written last."""
    before = MilvusStore.find(address)
    if before is not None:
        if MANIFEST in before.notes.files() or before.count():
            raise ArtifactError(
                f"{address}: there is a gallery already; open it by that address, or choose "
                "another name"
            )
        before.drop()  # an attempt that did not come to its end
    metric = Metric(fields["metric"])
    store = MilvusStore.create(address, encoder.dim, metric, dict(fields["encoder"]))
    for name, data in encoder_files(encoder).items():
        store.notes.write(f"{ENCODER}/{name}", data)
    store.notes.write(MANIFEST, manifest_bytes(fields))
    return store


def _fingerprint(store: MilvusStore) -> str:
    return str(store.described.get("fingerprint", ""))


def _write_handle(folder: Path, address: Address, fingerprint: str) -> None:
    write_manifest(folder / MANIFEST, {"address": address.given, "fingerprint": fingerprint})


def _visited(store: MilvusStore) -> Path:
    """Return the cached folder of a gallery in Milvus, with the encoder that it has now."""
    address, fingerprint = store.address, _fingerprint(store)
    where = f"{address.host}_{address.port}".replace(":", "_")
    folder = settings().data / "galleries" / where / fingerprint[:16] / f"{address.name}.gallery"
    if not (folder / MANIFEST).exists():
        _manifest(store.notes.read(MANIFEST), address)
        names = [name for name in store.notes.files() if name.startswith(f"{ENCODER}/")]
        try:
            with new_folder(folder) as partial:
                for name in names:
                    write_atomically(partial / name, store.notes.read(name))
                _write_handle(partial, address, fingerprint)
        except ArtifactError:
            if not (folder / MANIFEST).exists():  # else another process was quicker
                raise
    return folder


def _manifest(data: bytes, address: Address | None) -> dict[str, Any]:
    return checked_manifest(json.loads(data), place=f"{address}", what=_WHAT)
