"""Labels written into the metadata of a gallery's rows."""

from __future__ import annotations

from dataclasses import replace

from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.labels.propagation import Spread, spread_metadata

_BATCH = 10_000


def check_column(gallery: Gallery, column: str) -> None:
    """See that a column may be written: it is new, or was written so before.

    Raises:
        InputError: it holds something else.
    """
    if not column.strip():
        raise InputError("--write '': give the column a name")
    for record in gallery.store.records():
        if column in record.metadata and f"{column}_status" not in record.metadata:
            raise InputError(
                f"{gallery.path}: has a column {column!r} already, which is not overwritten; "
                "choose another name for --write"
            )


def write_labels(gallery: Gallery, found: Spread, column: str) -> None:
    """Write accepted labels, confidences and status as three columns.

    They stay with an image, also when its source is indexed again, as long as its content does.

    Raises:
        StorageError: it could not be written, or another process is writing.
    """
    added = spread_metadata(found, column)
    for start in range(0, len(found.ids), _BATCH):
        rows = gallery.store.get(found.ids[start : start + _BATCH])
        metadata = [
            {**old, **new}
            for old, new in zip(rows.metadata, added[start : start + _BATCH], strict=True)
        ]
        gallery.upsert(
            replace(rows, metadata=metadata),
            fingerprint=gallery.fingerprint,
            written=frozenset(added[0]),
        )
