"""Storage of a gallery: its manifest, its encoder and its rows.

A gallery is a folder. Its rows are in the folder, or in a store that has an address, such
as a collection in Milvus. There, the manifest and the encoder are stored beside the rows, so that
the address is enough to open the gallery; the folder holds the address and a copy of the encoder.
Opening a gallery by its address creates such a folder in the cache.

A gallery's identity is that of its store. The manifest of a folder repeats it, so that the manifest
of one gallery beside the rows of another is recognized.

Galleries may be of somebody else, and so may the server: names that they hold become file names
only through :func:`lookalike.files.bare_name`, and a folder's parts may not be links.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from lookalike.artifacts import (
    ENCODER_MANIFEST,
    GALLERY_MANIFEST,
    manifest_bytes,
    new_folder,
    parse_manifest,
    read_manifest,
    write_atomically,
    write_manifest,
)
from lookalike.config import settings
from lookalike.documents import LARGE, Fields
from lookalike.errors import (
    ArtifactError,
    FingerprintError,
    FormatVersionError,
    InputError,
    SettingError,
)
from lookalike.files import (
    AnchoredPath,
    as_path,
    bare_name,
    check_no_link,
    escape_name,
    read_regular,
)
from lookalike.gallery.servers import check_server, remember_server
from lookalike.gallery.state import GalleryState
from lookalike.stores.base import VectorStore, replaced_error
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.registry import (
    AddressedStore,
    StoreAddress,
    create_store,
    find_store,
    is_address,
    open_store,
    parse_address,
)
from lookalike.types import MAX_DIM, Metric

if TYPE_CHECKING:
    from lookalike.encoders.base import Encoder

MANIFEST = GALLERY_MANIFEST
ENCODER = "encoder"
STORE = "store"
IMAGES = "images"
"""Folder of uploaded images."""

LOCK = "writing.lock"
QUEUE = "writing.queue"
INDEXING = "indexing.lock"
"""Lock files: of the process that writes now, of the one that is next, and of a sync."""

IDENTITY = "identity"

PARTS = (ENCODER, STORE, IMAGES, LOCK, QUEUE, INDEXING)
"""Folders and lock files of a gallery; none may be a link."""

_SUFFIX = ".gallery"
_MAX_ROWS = 1 << 62

_WHAT = "a gallery"
_AGAIN = "copy the gallery again, or index the images into a new one"


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
    def address(self) -> StoreAddress | None:
        """The address of the rows, if they are not in the folder."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts about a store that has an address, as JSON values; none for a folder."""
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

    address: StoreAddress | None = None
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self._anchored = AnchoredPath(path)
        self._manifest = AnchoredPath(path / MANIFEST)
        self.store: VectorStore = EmbeddedStore.open(path / STORE)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._anchored.path

    def stamp(self) -> object:
        """Return a value that changes when the manifest is written or replaced."""
        return _stamp(self._manifest.path)

    def read(self) -> dict[str, Any]:
        """Return the current manifest."""
        return _check_fields(_read_folder_manifest(self.path), str(self.path / MANIFEST))

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replace the manifest of this gallery."""
        identity = GalleryState.of(self.store).identity
        if self.read().get(IDENTITY, identity) != identity:
            raise replaced_error(self.path)
        write_manifest(self.path / MANIFEST, {IDENTITY: identity, **fields})

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file in the folder; None if there is none."""
        return read_folder_file(self.path / name)

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file in the folder."""
        write_atomically(self.path / name, data)


class AddressStorage:
    """A gallery whose rows are in a store that has an address."""

    def __init__(self, path: Path, store: AddressedStore, expected: str) -> None:
        address = store.address
        self._anchored = AnchoredPath(path)
        self.address: StoreAddress | None = address
        self.store: VectorStore = store
        self.facts: Mapping[str, Any] = {"store": str(address), **store.facts}
        self._files = store
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

        The store checks with each read that the rows were not.
        """
        return _stamp(self.path / MANIFEST)

    def read(self) -> dict[str, Any]:
        """Return the current manifest."""
        return _manifest(self._files.read_file(MANIFEST), str(self.address))

    def write(self, fields: Mapping[str, Any]) -> None:
        """Replace the manifest of this gallery."""
        GalleryState.of(self.store)  # refuses another store in its place
        self._files.write_file(MANIFEST, manifest_bytes(fields))

    def read_file(self, name: str) -> bytes | None:
        """Return the content of a file beside the rows; None if there is none."""
        return self._files.read_file(name) if name in self._files.files() else None

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file beside the rows."""
        self._files.write_file(name, data)


def open_storage(path: str | Path) -> GalleryStorage:
    """Open the storage of a gallery by its folder or its address.

    Raises:
        ArtifactError: there is no gallery, or it is broken.
        FormatVersionError: it is of format 4 or older, or a newer lookalike wrote it.
        FingerprintError: the collection was recreated with another encoder.
        UnknownNameError: no installed package has a store of the address's scheme.
        UnreachableError: the server does not answer.
    """
    if isinstance(path, str) and is_address(path):
        store = open_store(parse_address(path))
        remember_server(store.address)
        return AddressStorage(_cached_folder(store), store, _fingerprint(store))
    folder = as_path(path, "path")
    manifest = _read_folder_manifest(folder)
    for name in PARTS:
        check_no_link(folder / name, what=_WHAT)
    if "address" in manifest:
        fields = Fields(manifest, str(folder / MANIFEST), _AGAIN)
        try:
            address = parse_address(fields.text("address"))
        except InputError as error:
            raise ArtifactError(f"{folder / MANIFEST}: {error}; {_AGAIN}") from error
        check_server(address, str(folder))
        return AddressStorage(folder, open_store(address), fields.text("fingerprint"))
    if is_outdated(folder):
        raise outdated_error(folder)
    return FolderStorage(folder)


def is_outdated(folder: Path) -> bool:
    """Return whether the rows of a gallery's folder are of formats 1 to 4, in Lance tables."""
    return (folder / STORE / "_versions").is_dir()


def outdated_error(folder: Path) -> FormatVersionError:
    """Return the error that the rows of a folder are in Lance tables, of formats 1 to 4."""
    old, new = (shlex.quote(str(path)) for path in (folder, _migrated_path(folder)))
    return FormatVersionError(
        f"{folder}: was written by an earlier lookalike. Migrate it: "
        f"pip install 'lookalike[lance]' && lookalike copy {old} {new}"
    )


def _migrated_path(folder: Path) -> Path:
    """Return a new path for a gallery beside an old one."""
    folder = folder if folder.name.strip(".") else folder.absolute().resolve()
    stem = folder.name.removesuffix(_SUFFIX)
    names = (f"{stem}-{number}{_SUFFIX}" for number in count(2))
    return next(path for name in names if not os.path.lexists(path := folder.with_name(name)))


def read_folder_file(path: Path) -> bytes | None:
    """Return the content of a file in a gallery's folder; None if there is none.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        return read_regular(path, limit=LARGE, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the manifest in a gallery's folder, or the address that is there in its place.

    Raises:
        ArtifactError: it is missing or broken.
        FormatVersionError: a newer lookalike wrote it.
    """
    manifest = _read_folder_manifest(folder)
    return manifest if "address" in manifest else _check_fields(manifest, str(folder / MANIFEST))


def _read_folder_manifest(folder: Path) -> dict[str, Any]:
    if "\0" in str(folder):
        raise ArtifactError(f"{escape_name(str(folder))!r}: no path of a gallery")
    try:
        return read_manifest(folder / MANIFEST, what=_WHAT)
    except ArtifactError:
        if (folder / MANIFEST).exists():
            raise
        from lookalike.sources.path_kinds import no_gallery_error  # loads all decoders

        raise no_gallery_error(folder) from None


def _check_fields(manifest: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a manifest whose fields are all of their types.

    Raises:
        ArtifactError: one is missing or invalid.
    """
    fields = Fields(manifest, place, _AGAIN)
    fields.text("metric", allowed=tuple(Metric))
    encoder = fields.object("encoder")
    encoder.text("name")
    if not encoder.text("fingerprint").isalnum():
        raise encoder.invalid("fingerprint", "letters and digits")
    fields.text_mapping("sources")
    for name in fields.mapping("source_options", {}):
        _check_options(fields.object("source_options").object(name))
    fields.texts("written", ())
    fields.text(IDENTITY, "")
    fields.integer("dim", 1, MAX_DIM, 1)
    fields.integer("rows", 0, _MAX_ROWS, 0)
    return manifest


def _check_options(fields: Fields) -> None:
    """Check the recorded options of a source.

    Raises:
        ArtifactError: one is invalid.
    """
    from lookalike.sources.options import NO_LIMIT, PAGES, SourceOptions  # loads all decoders

    fields.texts("include", ())
    fields.texts("exclude", ())
    fields.text("pages", PAGES[0], allowed=PAGES)
    fields.flag("allow_private_urls", False)
    fields.flag("strict", False)
    if isinstance(fields.values.get("max_megapixels"), str):
        fields.text("max_megapixels", allowed=(NO_LIMIT,))
    elif fields.has("max_megapixels"):
        fields.number("max_megapixels", 1e-6, 1e9)
    if fields.has("window") and len(fields.numbers("window", -1e300, 1e300)) != 2:
        raise fields.invalid("window", "a list of two numbers")
    try:
        SourceOptions.from_dict(fields.values)
    except InputError as error:
        raise ArtifactError(f"{fields.place}: {error}; {fields.hint}") from error


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
        store = find_store(parse_address(path))
        return store is not None and MANIFEST in store.files()
    return Path(path).exists()


def create_storage(
    path: str | Path, fields: Mapping[str, Any], encoder: Encoder, address: StoreAddress | None
) -> Path:
    """Create the storage of an empty gallery, completely or not at all; return its folder.

    Args:
        path: a new folder, or the address of a new store.
        fields: the manifest.
        encoder: encodes its rows.
        address: of the rows; by default they are in the folder.

    Raises:
        SettingError: ``path`` and ``address`` are different addresses.
        ArtifactError: the folder or the store exists.
        UnreachableError: the server does not answer.
        StorageError: it could not be written.
    """
    if isinstance(path, str) and is_address(path):
        own = parse_address(path)
        if address not in (None, own):
            raise SettingError(
                f"{path}: its rows are in this collection, not in {address}; remove {{store}}",
                store=None,
            )
        return _cached_folder(_create_rows(own, fields, encoder))
    from lookalike.encoders.persistence import write_encoder

    folder = as_path(path, "path")
    if (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder}: is a gallery already; open it with Gallery.open, or choose another name"
        )
    with new_folder(folder) as partial:
        (partial / ENCODER).mkdir()
        write_encoder(encoder, partial / ENCODER)
        if address is None:
            identity = EmbeddedStore.create(partial / STORE, encoder.dim).identity
            write_manifest(partial / MANIFEST, {IDENTITY: identity, **fields})
        else:
            _create_rows(address, fields, encoder)
            _write_handle(partial, address, encoder.fingerprint)
    return folder


def _create_rows(
    address: StoreAddress, fields: Mapping[str, Any], encoder: Encoder
) -> AddressedStore:
    """Create a store, its encoder and, last, its manifest."""
    from lookalike.encoders.persistence import encoder_files

    unfinished = find_store(address)
    if unfinished is not None:
        if MANIFEST in unfinished.files() or unfinished.count():
            raise ArtifactError(
                f"{address}: there is already a gallery; open it by its address, or choose "
                "another name"
            )
        unfinished.drop()
    metric = Metric(fields["metric"])
    store = create_store(address, encoder.dim, metric, dict(fields["encoder"]))
    remember_server(address)
    for name, data in encoder_files(encoder).items():
        store.write_file(f"{ENCODER}/{name}", data)
    store.write_file(MANIFEST, manifest_bytes(fields))
    return store


def _fingerprint(store: AddressedStore) -> str:
    return str(store.description.get("fingerprint", ""))


def _write_handle(folder: Path, address: StoreAddress, fingerprint: str) -> None:
    write_manifest(folder / MANIFEST, {"address": address.text, "fingerprint": fingerprint})


def _cached_folder(store: AddressedStore) -> Path:
    """Return the folder in the cache of a gallery that was opened by its address.

    It has the current encoder.
    """
    address = store.address
    fingerprint = bare_name(_fingerprint(store), str(address))
    parts = (address.folder, fingerprint[:16], f"{address.name}.gallery")
    folder = settings().data.joinpath("galleries", *parts)
    if not (folder / MANIFEST).exists():
        _manifest(store.read_file(MANIFEST), str(address))
        files = _encoder_files(store)
        try:
            with new_folder(folder) as partial:
                for name, data in files.items():
                    write_atomically(partial / ENCODER / name, data)
                _write_handle(partial, address, fingerprint)
        except ArtifactError:
            if not (folder / MANIFEST).exists():  # otherwise another process created it
                raise
    return folder


def _stamp(manifest: Path) -> object:
    try:
        facts = os.stat(manifest)  # noqa: PTH116 - for each search
    except OSError as error:
        raise ArtifactError(
            f"{manifest.parent}: the gallery is gone ({error.strerror}); it was removed or "
            "renamed, or is being replaced"
        ) from error
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _manifest(data: bytes, address: str) -> dict[str, Any]:
    return _check_fields(parse_manifest(data, place=address, what=_WHAT), address)


def _encoder_files(store: AddressedStore) -> dict[str, bytes]:
    """Return the files of the encoder beside some rows by name, its manifest last.

    Raises:
        ArtifactError: one is missing, has changed, or is not one that an encoder has.
    """
    import hashlib

    from lookalike.encoders.persistence import describe_manifest, file_hashes

    place = f"{store.address}: {ENCODER}/{ENCODER_MANIFEST}"
    manifest = store.read_file(f"{ENCODER}/{ENCODER_MANIFEST}")
    fields = parse_manifest(manifest, place=place, what="an encoder")
    files = {}
    for name, expected in file_hashes(describe_manifest(fields, place)).items():
        files[name] = store.read_file(f"{ENCODER}/{name}")
        if expected and hashlib.sha256(files[name]).hexdigest() != expected:
            raise ArtifactError(
                f"{store.address}: its encoder's file {name} has changed since it was written; "
                "copy the gallery again"
            )
    return {**files, ENCODER_MANIFEST: manifest}
