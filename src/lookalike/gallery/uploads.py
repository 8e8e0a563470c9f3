"""Images given to a gallery one by one, rather than found in a source: kept in its own folder."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import BusyError, InputError, MissingRowError
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import content_hash, file_suffix
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, Metadata

SOURCE = "api"
"""What the ids of such rows begin with."""

FOLDER = "images"

_LONGEST_KEY = 500


def row_id(key: str) -> str:
    """Return the id of the row of a key; a key may be given as the whole id too.

    Raises:
        InputError: it is empty, too long, or holds what is not text.
    """
    key = key.removeprefix(f"{SOURCE}:")
    if not key or len(key) > _LONGEST_KEY or not key.isprintable():
        raise InputError(f"id {key[:80]!r}: must be 1 to {_LONGEST_KEY} printable characters")
    return f"{SOURCE}:{key}"


def put(gallery: Gallery, key: str, data: bytes, embedding: Embeddings, metadata: Metadata) -> bool:
    """Add an image, or replace the one of that key; return whether it was there.

    The file is written first and the row after it, so that no row is without its file.

    Args:
        gallery: where to.
        key: what to call it.
        data: the image file.
        embedding: ``(1, dim)`` of it, by the gallery's encoder.
        metadata: JSON values.

    Raises:
        InputError: the key cannot be one, or the gallery's rows are in Milvus.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    if gallery.address is not None:
        raise InputError(
            "images can be put only into galleries whose rows are in their folder: those in Milvus "
            "may be served by several machines, and one would have the image; put it where all "
            "read from, and index it"
        )
    own = row_id(key)
    found = content_hash(data)
    name = f"{hashlib.sha256(own.encode()).hexdigest()[:24]}-{found[:16]}{file_suffix(data)}"
    folder = (gallery.path / FOLDER).resolve()
    before = _file_of(gallery, own)
    write_atomically(folder / name, data)
    rows = Rows([own], [str(folder / name)], embedding, [metadata], [found])
    replaces = before is None or before.name != name
    try:
        gallery.upsert(rows, fingerprint=gallery.encoder.fingerprint, sources={SOURCE: str(folder)})
    except BusyError:
        if replaces:
            _forget(gallery, folder / name)
        raise
    if before is not None and replaces:
        _forget(gallery, before)
    return before is not None


def describe(gallery: Gallery, given: str, metadata: Metadata) -> dict[str, Any]:
    """Change columns of the metadata of a row; those that are None are removed.

    Raises:
        MissingRowError: there is no such row.
        InputError: the row came from another source.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    own = editable(given)
    row = gallery.store.get([own])
    merged = {**row.metadata[0], **metadata}
    merged = {name: value for name, value in merged.items() if value is not None}
    changed = Rows([own], row.uris, row.embeddings, [merged], row.hashes, row.signatures)
    gallery.upsert(changed, fingerprint=gallery.encoder.fingerprint)
    return merged


def remove(gallery: Gallery, given: str) -> None:
    """Delete a row that was put, and its file.

    Raises:
        MissingRowError: there is no such row.
        InputError: the row came from another source.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    own = editable(given)
    file = _file_of(gallery, own)
    if file is None:
        raise MissingRowError(f"there is no row with the id {own!r}")
    gallery.remove([own])
    _forget(gallery, file)


def editable(given: str) -> str:
    """Return the id of a row that may be changed one by one.

    Raises:
        InputError: it came from another source, whose next sync would undo the change.
    """
    if not given.startswith(f"{SOURCE}:"):
        raise InputError(
            f"{given}: came from a source of its own; change it there and index the source again "
            f"(only rows put here, {SOURCE}:..., can be changed one by one)"
        )
    return row_id(given)


def _file_of(gallery: Gallery, own: str) -> Path | None:
    try:
        return Path(gallery.store.get([own]).uris[0])
    except MissingRowError:
        return None


def _forget(gallery: Gallery, file: Path) -> None:
    """Delete a file that no row has any more, if it is one of ours."""
    if file.parent == (gallery.path / FOLDER).resolve():
        with contextlib.suppress(OSError):
            file.unlink()
