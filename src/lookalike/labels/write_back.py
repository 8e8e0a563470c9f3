"""Propagated labels written into the metadata of a gallery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lookalike.errors import InputError, SettingError
from lookalike.filters import AllOf, Filter, IsNull, Not
from lookalike.gallery.gallery import Gallery
from lookalike.labels.propagation import Propagation
from lookalike.metadata import check_metadata, plain
from lookalike.stores.base import RowReader, Rows

_BATCH = 10_000


def check_column(gallery: Gallery, column: str) -> None:
    """Check that labels may be written into a column: it is new, or was written so before.

    Raises:
        SettingError: the name is empty, or cannot be that of a column.
        InputError: the column holds something else.
    """
    if not column.strip():
        raise SettingError("{column}: the name is empty", column=column)
    try:
        check_metadata({column: None}, what="the name")
    except InputError as error:
        raise SettingError(f"{{column}}: {error}", column=None) from None
    has_value, status = Not(IsNull(column)), f"{column}_status"
    store = gallery.snapshot().store
    if _count(store, has_value) > _count(store, AllOf((has_value, Not(IsNull(status))))):
        raise InputError(
            f"{gallery.path}: the metadata column {column!r} exists already and is not "
            "overwritten; choose another name for {column}",
            column=None,
        )


def _count(store: RowReader, where: Filter) -> int:
    """Return the number of rows that a filter matches: none if there is no such column."""
    try:
        return store.count(where)
    except InputError:
        return 0


def write_labels(gallery: Gallery, propagation: Propagation, column: str) -> None:
    """Write accepted labels, confidences and statuses as three metadata columns.

    They stay with an image as long as its content does, also when its source is synced again. Rows
    that were removed since their labels were computed are left out.

    Raises:
        ReplacedError: the labels are of another gallery, which was in its place.
        StorageError: the write failed, or another process is writing.
    """
    fields = (
        {name: plain(value) for name, value in each.items()}
        for each in propagation.metadata(column)
    )
    metadata = dict(zip(propagation.ids, fields, strict=True))

    def labeled() -> Iterator[Rows]:  # read while no other process can write
        if propagation.state is not None:
            gallery.check_identity(propagation.state.identity)
        ids = [row_id for row_id in gallery.store.ids() if row_id in metadata]
        for start in range(0, len(ids), _BATCH):
            rows = gallery.store.get(ids[start : start + _BATCH])
            pairs = zip(rows.ids, rows.metadata, strict=True)
            yield replace(rows, metadata=[{**old, **metadata[row_id]} for row_id, old in pairs])

    columns = frozenset(name for fields in metadata.values() for name in fields)
    gallery.upsert(labeled(), fingerprint=gallery.fingerprint, written=columns)
