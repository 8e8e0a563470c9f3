"""Single images that are added to a gallery directly, and stored in its folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import InputError, MissingRowError
from lookalike.files import check_no_link, escape_name, unescape_name
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import IMAGES
from lookalike.gallery.sync import UPLOADS
from lookalike.images.decode import content_hash
from lookalike.images.formats import file_suffix
from lookalike.metadata import check_metadata
from lookalike.stores.base import Rows
from lookalike.types import Embeddings, Metadata

SOURCE = UPLOADS
"""Prefix of the ids of uploaded images."""

FOLDER = IMAGES

_MAX_KEY = 500

WAIT_S = 5.0
"""Seconds to wait for other writers, while somebody waits for the answer."""


def row_id(key: str) -> str:
    """Return the row id of a key, which may have the prefix already.

    Raises:
        InputError: it is empty, too long, or has characters that cannot be printed.
    """
    key = key.removeprefix(f"{SOURCE}:")
    if not key or len(key) > _MAX_KEY or not key.isprintable():
        raise InputError(f"id {key[:80]!r}: must be 1 to {_MAX_KEY} printable characters")
    return f"{SOURCE}:{key}"


def put(
    gallery: Gallery,
    key: str,
    data: bytes,
    embedding: Embeddings,
    metadata: Metadata,
    fingerprint: str,
) -> bool:
    """Add or replace an image; return whether it replaced one.

    The file is written before the row, so that no row lacks its file. On an error, neither is.

    Args:
        gallery: written to.
        key: identifies the image.
        data: the image file.
        embedding: ``(1, dim)`` float32.
        metadata: JSON values.
        fingerprint: of the encoder of the embedding.

    Raises:
        FingerprintError: it is not the gallery's encoder.
        InputError: the key is invalid, the metadata cannot be stored, or the gallery's rows are in
            Milvus.
        ArtifactError: its folder of images has become a link.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    if gallery.address is not None:
        raise InputError(
            "images cannot be uploaded to a gallery in Milvus: several machines may serve it, and "
            "only one would have the file. Store the image where all can read it, and index it: "
            "lookalike index GALLERY SOURCE"
        )
    own = row_id(key)
    metadata = check_metadata(metadata, what=own)
    digest = content_hash(data)
    name = f"{hashlib.sha256(own.encode()).hexdigest()[:24]}-{digest[:16]}{file_suffix(data)}"
    folder = (gallery.path / FOLDER).resolve()
    before: list[Path] = []
    written: list[Path] = []

    def row() -> Iterator[Rows]:  # read and written while no other process can write
        check_no_link(gallery.path / FOLDER, what="a gallery")
        before.extend(_files_of(gallery, own))
        with contextlib.suppress(OSError):  # the next line says what is wrong
            folder.mkdir(exist_ok=True)
        if folder / name not in before:
            written.append(folder / name)
        write_atomically(folder / name, data, parents=False)
        uri = escape_name(str(folder / name))
        yield Rows([own], [uri], embedding, [metadata], [digest])

    try:
        gallery.upsert(
            row(),
            fingerprint=fingerprint,
            sources={SOURCE: escape_name(str(folder))},
            keep_written=True,
            wait=WAIT_S,
        )
    except BaseException:
        for file in written:
            _delete_file(gallery, file)
        raise
    for file in before:
        if file.name != name:
            _delete_file(gallery, file)
    return bool(before)


def update_metadata(gallery: Gallery, item_id: str, metadata: Metadata) -> dict[str, Any]:
    """Change columns of the metadata of an uploaded image; columns set to None are removed.

    Raises:
        MissingRowError: there is no such row.
        InputError: the row is from a source, or all of its metadata together cannot be stored.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    own = editable_id(item_id)
    merged: dict[str, Any] = {}

    def changed() -> Iterator[Rows]:  # read while no other process can write
        row = gallery.store.get([own])
        fields = {**row.metadata[0], **metadata}
        stored = {name: value for name, value in fields.items() if value is not None}
        merged.update(check_metadata(stored, what=own))
        yield replace(row, metadata=[merged])

    gallery.upsert(changed(), fingerprint=gallery.fingerprint, wait=WAIT_S)
    return merged


def remove(gallery: Gallery, item_id: str) -> None:
    """Delete an uploaded image and its row.

    Raises:
        MissingRowError: there is no such row.
        InputError: the row is from a source.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    own = editable_id(item_id)
    if not gallery.remove([own], wait=WAIT_S):
        raise MissingRowError(f"there is no row with the id {own!r}")


def editable_id(item_id: str) -> str:
    """Return the id of an uploaded image.

    Raises:
        InputError: the row is from a source, whose next sync would undo a change.
    """
    if not item_id.startswith(f"{SOURCE}:"):
        raise InputError(
            f"{item_id}: is from a source; change it there and index the source again (only "
            f"uploaded images, {SOURCE}:..., can be edited)"
        )
    return row_id(item_id)


def _files_of(gallery: Gallery, own: str) -> list[Path]:
    """Return the file of a row, if there is one."""
    try:
        return [Path(unescape_name(gallery.store.get([own]).uris[0]))]
    except MissingRowError:
        return []


def _delete_file(gallery: Gallery, file: Path) -> None:
    """Delete a file that no row has any more, if it is in the gallery's folder."""
    if file.parent == (gallery.path / FOLDER).resolve():
        with contextlib.suppress(OSError):
            file.unlink()
