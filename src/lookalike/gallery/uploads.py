"""Single images that are added to a gallery, stored in its folder, changed or removed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import ImageError, InputError
from lookalike.files import check_no_link, escape_name, unescape_name
from lookalike.gallery.edits import EDITED, check_changes, edit
from lookalike.gallery.ids import UPLOADS, upload_id
from lookalike.gallery.lookup import find_rows, records_of, row_of, rows_of
from lookalike.gallery.storage import IMAGES
from lookalike.gallery.writing import WritableGallery
from lookalike.images.decode import content_hash
from lookalike.images.formats import file_suffix
from lookalike.metadata import check_metadata
from lookalike.stores.base import Record, Rows
from lookalike.types import Embeddings, Metadata

if TYPE_CHECKING:
    from lookalike.filters import Where

_BATCH = 512
"""Images whose rows are written together."""

WAIT_S = 5.0
"""Seconds to wait for other writers, while somebody waits for the answer."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An image to add or replace.

    Args:
        id: of its row, with the prefix of uploads.
        content_hash: of its file.
        read: returns the bytes of the file.
        embedding: ``(dim,)`` float32.
        metadata: JSON values.
    """

    id: str
    content_hash: str
    read: Callable[[], bytes]
    embedding: NDArray[np.float32]
    metadata: Metadata


def put(
    gallery: WritableGallery,
    key: str,
    data: bytes,
    embedding: Embeddings,
    metadata: Metadata,
    fingerprint: str,
) -> bool:
    """Add or replace an image; return whether it replaced one. See :func:`put_all`.

    Args:
        gallery: written to.
        key: identifies the image.
        data: the image file.
        embedding: ``(1, dim)`` float32.
        metadata: JSON values.
        fingerprint: of the encoder of the embedding.
    """
    upload = Upload(upload_id(key), content_hash(data), lambda: data, embedding[0], metadata)
    return bool(put_all(gallery, [upload], fingerprint))


def put_all(
    gallery: WritableGallery,
    uploads: Sequence[Upload],
    fingerprint: str,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Add or replace images; return the ids of those that replaced one.

    Files are written before their rows, so that no row lacks its file, and 512 rows at a time,
    completely or not at all.

    Args:
        gallery: written to.
        uploads: the images, with distinct ids.
        fingerprint: of the encoder of the embeddings.
        on_batch: called with the number of images that are written.

    Raises:
        FingerprintError: it is not the gallery's encoder.
        InputError: metadata cannot be stored, or the gallery's rows are not in its folder.
        ArtifactError: its folder of images has become a link.
        BusyError: another process is writing.
        StorageError: they could not be written.
    """
    check_takes_uploads(gallery)
    metadata = [check_metadata(each.metadata, what=each.id) for each in uploads]
    uploads = [replace(u, metadata=m) for u, m in zip(uploads, metadata, strict=True)]
    folder = (gallery.path / IMAGES).resolve()
    unfinished: list[Path] = []
    replaced: list[str] = []

    def batches() -> Iterator[Rows]:  # read and written while no other process can write
        check_no_link(gallery.path / IMAGES, what="a gallery")
        with contextlib.suppress(OSError):  # the next write says what is wrong
            folder.mkdir(exist_ok=True)
        for start in range(0, len(uploads), _BATCH):
            batch = uploads[start : start + _BATCH]
            existing = list(records_of(gallery.store, [each.id for each in batch]))
            before = [Path(unescape_name(record.uri)) for record in existing]
            files = [folder / _file_name(each) for each in batch]
            rows = _write_files(batch, files, set(before), unfinished)
            yield rows
            unfinished.clear()  # their rows are written
            for file in set(before) - set(files):
                _delete_file(gallery, file)
            replaced.extend(record.id for record in existing)
            if on_batch is not None:
                on_batch(start + len(batch))

    try:
        gallery.upsert(
            batches(),
            fingerprint=fingerprint,
            sources={UPLOADS: escape_name(str(folder))},
            keep_written=True,
            wait=WAIT_S,
        )
    except BaseException:
        for file in unfinished:
            _delete_file(gallery, file)
        raise
    return replaced


def check_takes_uploads(gallery: WritableGallery) -> None:
    """Refuse a gallery whose rows are not in its folder.

    Raises:
        InputError: they are not.
    """
    if gallery.address is not None:
        raise InputError(
            f"images cannot be uploaded to a gallery with rows at {gallery.address}: several "
            "machines may serve it, and only one would have the file. Store the image where all "
            "can read it, and index it: lookalike index GALLERY SOURCE"
        )


def _file_name(upload: Upload) -> str:
    """Return the name of the file of an image, without its suffix."""
    return f"{hashlib.sha256(upload.id.encode()).hexdigest()[:24]}-{upload.content_hash[:16]}"


def _write_files(
    batch: Sequence[Upload], files: list[Path], before: set[Path], unfinished: list[Path]
) -> Rows:
    """Write the files of images and return their rows; ``files`` get their suffixes.

    Raises:
        ImageError: a file has changed since it was encoded.
    """
    for place, each in enumerate(batch):
        data = each.read()
        if content_hash(data) != each.content_hash:
            raise ImageError(f"{each.id}: its file has changed while it was added; add it again")
        files[place] = files[place].with_name(files[place].name + file_suffix(data))
        if files[place] not in before:
            unfinished.append(files[place])
        write_atomically(files[place], data, parents=False)
    return Rows(
        [each.id for each in batch],
        [escape_name(str(file)) for file in files],
        np.stack([each.embedding for each in batch]),
        [each.metadata for each in batch],
        [each.content_hash for each in batch],
    )


def update_metadata(gallery: WritableGallery, item_id: str, metadata: Metadata) -> dict[str, Any]:
    """Change columns of the metadata of an image; return all of it.

    Columns of an uploaded image that are set to None are removed. A row of a source keeps what is
    set here when the source is synced; None takes it back (:mod:`lookalike.gallery.edits`).

    Raises:
        MissingRowError: there is no such row.
        InputError: all of its metadata together cannot be stored.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    check_changes(metadata)
    with gallery._writing(WAIT_S):  # so that the row is the one that is written
        [record] = row_of(gallery.store, item_id).records()
        changed = _changed(gallery, record, metadata)
        _write_metadata(gallery, {record.id: changed})
    return changed


def update_all(
    gallery: WritableGallery,
    metadata: Metadata,
    ids: Sequence[str] | None = None,
    where: Where | None = None,
    *,
    limit: int,
) -> Update:
    """Change columns of the metadata of several images, as :func:`update_metadata` does.

    Args:
        gallery: written to.
        metadata: values by column.
        ids: of the rows, also without the prefix of uploads.
        where: change the rows that match a filter, instead.
        limit: rows that are changed at a time.

    Raises:
        SettingError: not exactly one of ``ids`` and ``where`` is passed.
        InputError: the filter cannot be parsed, does not fit the metadata or matches more rows; or
            all metadata of a row together cannot be stored. Nothing was changed.
        BusyError: another process is writing.
        StorageError: they could not be written; some may be.
    """
    check_changes(metadata)
    with gallery._writing(WAIT_S):
        chosen, missing = _choose(gallery, ids, where)
        if len(chosen) > limit:
            raise InputError(
                f"where: matches {len(chosen):,} items; at most {limit:,} are changed at a time. "
                "Nothing was changed; narrow the filter"
            )
        changed = {
            record.id: _changed(gallery, record, metadata)
            for record in records_of(gallery.store, chosen)
        }
        _write_metadata(gallery, changed)
    return Update(len(changed), missing)


@dataclass(frozen=True, slots=True)
class Update:
    """What became of images to change.

    Args:
        updated: rows that were changed.
        missing: ids that no row has.
    """

    updated: int
    missing: Sequence[str] = ()


def _changed(gallery: WritableGallery, record: Record, changes: Metadata) -> dict[str, Any]:
    """Return the metadata of a row after changes.

    Raises:
        InputError: all of it together cannot be stored.
    """
    if record.id.partition(":")[0] in gallery.sources.keys() - {UPLOADS}:
        changed = edit(record.metadata, changes, gallery.written)
    else:
        values = {**record.metadata, **changes}
        changed = {name: value for name, value in values.items() if value is not None}
    return check_metadata(changed, what=record.id)


def _write_metadata(gallery: WritableGallery, metadata: Mapping[str, dict[str, Any]]) -> None:
    """Write the metadata of rows, by id."""
    is_edited = any(EDITED in each for each in metadata.values())
    gallery.upsert(
        (
            replace(rows, metadata=[metadata[row_id] for row_id in rows.ids])
            for rows in rows_of(gallery.store, list(metadata))
        ),
        fingerprint=gallery.fingerprint,
        written=frozenset((EDITED,) if is_edited else ()),
    )


def _choose(
    gallery: WritableGallery, ids: Sequence[str] | None, where: Where | None
) -> tuple[list[str], list[str]]:
    """Return the ids of the rows that ids or a filter choose, and the ids that no row has.

    Raises:
        SettingError: not exactly one is passed.
        InputError: the filter cannot be parsed or does not fit the metadata.
    """
    if ids is not None:
        rows_by_id = find_rows(gallery.store, ids)
        missing = [each for each in dict.fromkeys(ids) if each not in rows_by_id]
        return list({record.id: None for record, _ in rows_by_id.values()}), missing
    try:
        return gallery.select(where=where), []
    except InputError as error:
        raise error.about("where") from None


def remove(gallery: WritableGallery, item_id: str) -> None:
    """Delete the row of an image; an uploaded image is deleted too.

    Raises:
        MissingRowError: there is no such row.
        BusyError: another process is writing.
        StorageError: it could not be written.
    """
    with gallery._writing(WAIT_S):
        gallery.remove_rows(row_of(gallery.store, item_id).ids)


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of images to delete.

    Args:
        deleted: rows that were deleted.
        missing: ids that no row has.
        remaining: rows that were not deleted since there are too many.
    """

    deleted: int
    missing: Sequence[str] = ()
    remaining: int = 0


def remove_all(
    gallery: WritableGallery,
    ids: Sequence[str] | None = None,
    where: Where | None = None,
    *,
    limit: int,
) -> Removal:
    """Delete rows together, and those of them that are uploaded images.

    Args:
        gallery: written to.
        ids: of the rows, also without the prefix of uploads.
        where: delete the rows that match a filter, instead.
        limit: rows that are deleted at a time.

    Raises:
        SettingError: not exactly one of ``ids`` and ``where`` is passed.
        InputError: the filter cannot be parsed or does not fit the metadata.
        BusyError: another process is writing.
        StorageError: they could not be deleted; some may be.
    """
    with gallery._writing(WAIT_S):  # so that what is chosen is still so when it is deleted
        chosen, missing = _choose(gallery, ids, where)
        deleted = gallery.remove_rows(chosen[:limit]) if chosen else 0
    return Removal(deleted, missing, max(0, len(chosen) - limit))


def _delete_file(gallery: WritableGallery, file: Path) -> None:
    """Delete a file that no row has any more, if it is in the gallery's folder."""
    if file.parent == (gallery.path / IMAGES).resolve():
        with contextlib.suppress(OSError):
            file.unlink()
