"""The map with all that is shown on it, as a document kept in the gallery's folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError, InputError
from lookalike.explore.clusters import Cluster, cluster, described
from lookalike.explore.layout import METHOD, MapQuality, Points, faith, lay_out
from lookalike.explore.outliers import lof_scores
from lookalike.gallery.facets import MAX_LISTED
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.types import Progress, ProgressCallback, ignore_progress

FILE = "map.json"

NEAR = 8
"""Neighbors of each image that the document holds."""

_FORMAT = 1
_STEPS = 65_535


@dataclass(frozen=True, slots=True)
class CollectionMap:
    """A collection seen whole; rows are numbered as ``ids``, in their order.

    ``points`` is ``(n, 2)`` float32 in 0 to 1, ``numbers`` ``(n,)`` of clusters, -1 for none,
    ``lof_scores`` ``(n,)`` local outlier factors, ``near`` ``(n, k)`` row numbers of the nearest,
    nearest first. ``columns`` maps a column of few values to the value of each row. ``stale``:
    the gallery's rows or encoder are others by now.
    """

    ids: tuple[str, ...]
    points: Points
    numbers: NDArray[np.int64]
    clusters: tuple[Cluster, ...]
    lof_scores: NDArray[np.float32]
    near: NDArray[np.int64]
    faith: MapQuality
    fingerprint: str
    made: str
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    stale: bool = False

    def document(self) -> dict[str, Any]:
        """Return it as JSON values; arrays are base64 of little-endian numbers."""
        columns = []
        for name, values in self.columns.items():
            listed = sorted({value for value in values if value is not None})
            place = {value: number for number, value in enumerate(listed)} | {None: -1}
            codes = np.array([place[value] for value in values], "<i2")
            columns.append({"name": name, "values": listed, "codes": _text(codes)})
        return {
            "format": _FORMAT,
            "made": self.made,
            "fingerprint": self.fingerprint,
            "method": METHOD,
            "stale": self.stale,
            **asdict(self.faith),
            "ids": list(self.ids),
            "points": _text(np.rint(self.points * _STEPS).astype("<u2")),
            "numbers": _text(self.numbers.astype("<i2")),
            "clusters": [{**asdict(each), "name": each.name} for each in self.clusters],
            "outlying": _text(self.lof_scores.astype("<f4")),
            "neighbors": self.near.shape[1],
            "near": _text(self.near.astype("<u4")),
            "columns": columns,
        }


def build_map(
    gallery: Gallery,
    *,
    column: str = "label",
    fresh: bool = False,
    seed: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> CollectionMap:
    """Return the map that the gallery keeps or, if there is none of its rows, make and keep one.

    Args:
        gallery: whose rows are drawn.
        column: whose values name clusters, if there is such a column.
        fresh: make it anew in any case.
        seed: of the map.
        on_progress: told after each piece.

    Raises:
        InputError: fewer than three rows.
        MissingDependencyError: openTSNE is not installed.
        StorageError: it could not be kept.
    """
    kept = None if fresh else _readable(gallery)
    if kept is not None and not kept.stale:
        return _named(kept, gallery, column)
    if len(gallery) < 3:
        raise InputError(f"{gallery.path}: has {len(gallery)} rows; a map takes at least three")
    graph = neighbor_graph(gallery, on_progress=on_progress)
    points = lay_out(graph, seed=seed, on_progress=on_progress)
    on_progress(Progress("clusters", 0, len(graph), "images"))
    made = CollectionMap(
        ids=graph.ids,
        points=points,
        numbers=cluster(points),
        clusters=(),
        lof_scores=lof_scores(graph),
        near=graph.rows[:, :NEAR],
        faith=faith(graph, points, seed=seed),
        fingerprint=gallery.fingerprint,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    on_progress(Progress("clusters", len(graph), len(graph), "images"))
    named = _named(made, gallery, column)
    write_atomically(gallery.path / FILE, json.dumps(named.document()).encode())
    return named


def load_map(gallery: Gallery) -> CollectionMap | None:
    """Return the map that the gallery keeps, None if there is none.

    Raises:
        ArtifactError: the file is broken.
    """
    try:
        found = json.loads((gallery.path / FILE).read_bytes())
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}")
        ids = tuple(found["ids"])
        now = tuple(gallery.store.ids()), gallery.fingerprint
        return CollectionMap(
            ids=ids,
            points=(_numbers(found["points"], "<u2").reshape(len(ids), 2) / _STEPS).astype(
                np.float32
            ),
            numbers=_numbers(found["numbers"], "<i2").astype(np.int64),
            clusters=tuple(
                Cluster(*(each[name] for name in ("number", "size", "medoid", "label", "share")))
                for each in found["clusters"]
            ),
            lof_scores=_numbers(found["outlying"], "<f4"),
            near=_numbers(found["near"], "<u4").reshape(len(ids), -1).astype(np.int64),
            faith=MapQuality(*(found[name] for name in ("trustworthiness", "kept", "judged"))),
            fingerprint=found["fingerprint"],
            made=found["made"],
            columns={each["name"]: _column(each) for each in found["columns"]},
            stale=(ids, found["fingerprint"]) != now,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ArtifactError(
            f"{FILE} of {gallery.path.absolute().name}: is no map ({type(error).__name__}); "
            "make it again with lookalike explore map --fresh"
        ) from error


def _readable(gallery: Gallery) -> CollectionMap | None:
    """Return the kept map; a broken one is made again."""
    try:
        return load_map(gallery)
    except ArtifactError:
        return None


def _named(found: CollectionMap, gallery: Gallery, column: str) -> CollectionMap:
    """Return a map whose clusters have their names of a column, and the columns to color by."""
    rows = [record.metadata for record in gallery.store.records()]
    labels = [_said(row.get(column)) for row in rows]
    columns: dict[str, list[str | None]] = {}
    for name in sorted(
        {name for row in rows for name in row}, key=lambda name: (name != column, name)
    ):
        values = [_said(row.get(name)) for row in rows]
        if 1 < len({*values} - {None}) <= MAX_LISTED:
            columns[name] = values
    embeddings = gallery.store.get(found.ids).embeddings
    clusters = described(found.numbers, embeddings, labels)
    return replace(found, clusters=clusters, columns=columns)


def _said(value: object) -> str | None:
    """Return a value as it is shown; lists have no one color."""
    if value is None or isinstance(value, list | dict | float):
        return None
    return str(value)


def _column(found: Mapping[str, Any]) -> list[str | None]:
    codes = _numbers(found["codes"], "<i2")
    return [None if code < 0 else found["values"][code] for code in codes]


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _numbers(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)
