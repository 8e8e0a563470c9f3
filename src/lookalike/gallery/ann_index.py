"""The approximate (ANN) index of a very large gallery: building it, and keeping it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lookalike.errors import InputError, LookalikeError, StorageError, require
from lookalike.progress import notice

if TYPE_CHECKING:
    from pathlib import Path

    from lookalike.stores.base import RowReader
    from lookalike.types import Metric, ProgressCallback

MIN_ROWS = 100_000
"""Rows below which exact search is as fast."""

SUGGESTED_ROWS = 2_000_000
"""Rows from which an index is suggested."""

_ATTEMPTS = 3

_LINKS = 160
"""Bytes of a row's links in the index, beside two for each value of its vector."""

_ROW_S = 100e-6
_VALUE_S = 1.5e-6
"""Seconds that adding a row takes, and more for each value of its vector, on a slow core."""


def estimate(rows: int, dim: int) -> tuple[float, int]:
    """Return about how many seconds an index takes to build, and how many bytes."""
    return rows * (_ROW_S + dim * _VALUE_S), rows * (2 * dim + _LINKS)


def facts(store: RowReader, metric: Metric) -> dict[str, Any]:
    """Return facts about the index of a store as JSON values, under ``index``; {} without one."""
    from lookalike.stores.embedded.snapshot import EmbeddedSnapshot
    from lookalike.stores.embedded.store import EmbeddedStore

    if not isinstance(store, EmbeddedStore | EmbeddedSnapshot):
        return {}
    state = store.graph_state(metric)
    return {} if state is None else {"index": state.as_dict()}


def check(store: RowReader, metric: Metric) -> None:
    """Check that an index can be built.

    Raises:
        InputError: there are too few rows, or they are on a server.
        MissingDependencyError: usearch is missing.
    """
    from lookalike.stores.embedded.store import EmbeddedStore

    if not isinstance(store, EmbeddedStore):
        raise InputError("the server of the rows has an approximate index of its own")
    require("usearch", "an approximate index", "ann")
    rows = store.count()
    if rows < MIN_ROWS and store.graph_state(metric, verify=False) is None:
        raise InputError(
            f"exact search is as fast in {rows:,} rows; an approximate index pays from "
            f"{MIN_ROWS:,} on"
        )


def build(store: RowReader, metric: Metric, on_progress: ProgressCallback) -> None:
    """Build the index, or add the rows that it lacks; see :meth:`Gallery.build_ann_index`."""
    from lookalike.stores.embedded.store import EmbeddedStore

    check(store, metric)
    assert isinstance(store, EmbeddedStore)
    for _ in range(_ATTEMPTS):
        if store.build_graph(metric, on_progress):
            return
    raise StorageError(
        "the approximate index was not built, since others compacted the rows again and again; "
        "try again later"
    )


def note_if_unused(gallery: Path, store: RowReader, metric: Metric) -> None:
    """Say that there is an index which is not used, as after a compaction, and what to do."""
    from lookalike.stores.embedded.graph import not_used
    from lookalike.stores.embedded.store import EmbeddedStore

    state = store.graph_state(metric, verify=False) if isinstance(store, EmbeddedStore) else None
    if state is not None and state.problem is not None:
        notice(not_used(gallery, state.problem))


def drop(store: RowReader, metric: Metric) -> bool:
    """Delete the index; return whether there was one."""
    from lookalike.stores.embedded.store import EmbeddedStore

    return isinstance(store, EmbeddedStore) and store.drop_graph(metric)


def update(store: RowReader, metric: Metric, on_progress: ProgressCallback) -> None:
    """Build an index again that is not valid any more, or add rows if it lacks many.

    There must have been one. What fails is noticed, and search is exact then.
    """
    from lookalike.stores.embedded.store import EmbeddedStore

    try:
        if not isinstance(store, EmbeddedStore):
            return
        state = store.graph_state(metric, verify=False)
        if state is not None and state.is_due:
            build(store, metric, on_progress)
    except LookalikeError as error:
        notice(f"the approximate index was not brought up to date: {error}")
