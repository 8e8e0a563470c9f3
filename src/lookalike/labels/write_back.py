"""Propagated labels written into the metadata of a gallery."""

from __future__ import annotations

from dataclasses import replace

from lookalike.errors import InputError, SettingError
from lookalike.gallery.gallery import Gallery
from lookalike.labels.propagation import Propagation

_BATCH = 10_000


def check_column(gallery: Gallery, column: str) -> None:
    """Check that labels may be written into a column: it is new, or was written so before.

    Raises:
        SettingError: the name is empty.
        InputError: the column holds something else.
    """
    if not column.strip():
        raise SettingError("{column}: the name is empty", column=column)
    for record in gallery.store.records():
        if column in record.metadata and f"{column}_status" not in record.metadata:
            raise InputError(
                f"{gallery.path}: the metadata column {column!r} exists already and is not "
                "overwritten; choose another name for {column}",
                column=None,
            )


def write_labels(gallery: Gallery, propagation: Propagation, column: str) -> None:
    """Write accepted labels, confidences and statuses as three metadata columns.

    They stay with an image as long as its content does, also when its source is synced again.

    Raises:
        ReplacedError: the labels are of another gallery, which was in its place.
        StorageError: the write failed, or another process is writing.
    """
    if propagation.state is not None:
        gallery.check_identity(propagation.state.identity)
    metadata = propagation.metadata(column)
    for start in range(0, len(propagation.ids), _BATCH):
        rows = gallery.store.get(propagation.ids[start : start + _BATCH])
        merged = [
            {**old, **new}
            for old, new in zip(rows.metadata, metadata[start : start + _BATCH], strict=True)
        ]
        gallery.upsert(
            replace(rows, metadata=merged),
            fingerprint=gallery.fingerprint,
            written=frozenset(metadata[0]),
        )
