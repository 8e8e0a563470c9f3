"""Looking up rows of which some may not exist."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import MissingRowError
from lookalike.gallery.ids import can_be_id, missing_row_error, possible_ids
from lookalike.stores.base import Record, RowReader, Rows

_READ_AT_ONCE = 1_000

_FEW = 8
"""Ids that are tried one by one, where not all have a row."""

_COMPARED = 2_000
"""Ids at the beginning and around an id that are compared to suggest one."""


def rows_of(store: RowReader, ids: Sequence[str]) -> Iterator[Rows]:
    """Yield the rows that exist of some distinct ids, in their order, a part at a time."""
    for start in range(0, len(ids), _READ_AT_ONCE):
        batch = ids[start : start + _READ_AT_ONCE]
        try:
            yield store.get(batch)
        except MissingRowError:
            if len(batch) > _FEW:
                yield from rows_of(store, existing_ids(store, batch))
            elif len(batch) > 1:
                for row_id in batch:
                    yield from rows_of(store, [row_id])


def existing_ids(store: RowReader, ids: Sequence[str]) -> list[str]:
    """Return the ids that rows have, in this order."""
    valid = list(filter(can_be_id, ids))
    numbers = store.row_numbers(valid).tolist()
    return [row_id for row_id, number in zip(valid, numbers, strict=True) if number >= 0]


def matching_ids(store: RowReader, wanted: Sequence[str]) -> list[str]:
    """Return the ids that are wanted, by themselves or by patterns, sorted.

    All ids are read only if some are patterns.

    Raises:
        MissingRowError: none is, by one of them.
    """
    matching = set(existing_ids(store, wanted))
    patterns = [each for each in wanted if each not in matching]
    ids = store.ids() if patterns else ()
    for pattern in patterns:
        matches = {row_id for row_id in ids if fnmatch.fnmatchcase(row_id, pattern)}
        if not matches:
            raise missing_row_error(pattern, ids_like(store, pattern))
        matching |= matches
    return sorted(matching)


def records_of(store: RowReader, ids: Sequence[str]) -> Iterator[Record]:
    """Yield the rows that exist of some distinct ids, without embeddings."""
    for rows in rows_of(store, ids):
        yield from rows.records()


def find_rows(
    store: RowReader, ids: Iterable[str]
) -> dict[str, tuple[Record, NDArray[np.float32]]]:
    """Return the rows that ids stand for (:func:`possible_ids`), and their embeddings, by id."""
    wanted = list(dict.fromkeys(filter(can_be_id, ids)))
    rows_by_id = _by_id(store, wanted)
    bare = {
        own: each for each in wanted if each not in rows_by_id for own in possible_ids(each)[1:]
    }
    for own, row in _by_id(store, list(bare)).items():
        rows_by_id[bare[own]] = row
    return rows_by_id


def row_of(store: RowReader, row_id: str) -> Rows:
    """Return the row that an id stands for.

    Raises:
        MissingRowError: there is none.
    """
    for each in possible_ids(row_id):
        with contextlib.suppress(MissingRowError):
            return store.get([each])
    raise missing_row_error(row_id)


def _by_id(store: RowReader, ids: Sequence[str]) -> dict[str, tuple[Record, NDArray[np.float32]]]:
    return {
        record.id: (record, embedding)
        for rows in rows_of(store, ids)
        for record, embedding in zip(rows.records(), rows.embeddings, strict=True)
    }


def ids_like(store: RowReader, wanted: str) -> list[str]:
    """Return a few ids among which the one that was meant may be; none of a large server."""
    near = [*store.ids_near("", _COMPARED)]
    for each in filter(can_be_id, possible_ids(wanted)):
        near += store.ids_near(each, _COMPARED // 2)
    return list(dict.fromkeys(near))
