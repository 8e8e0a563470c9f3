"""The map of a gallery with clusters and outlier scores, saved in the gallery as ``map.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.artifacts import write_atomically
from lookalike.cancellation import check_cancelled
from lookalike.documents import Fields
from lookalike.errors import ArtifactError, InputError, StorageError
from lookalike.explore.clusters import UNCLUSTERED, Cluster, describe_clusters, find_clusters
from lookalike.explore.layout import (
    METHOD,
    MapQuality,
    Points,
    check_installed,
    compute_layout,
    measure_quality,
)
from lookalike.explore.lof import lof_scores
from lookalike.filters.encoded import EncodedColumn
from lookalike.filters.facets import MAX_COLUMNS, MAX_LISTED
from lookalike.formatting import format_count
from lookalike.gallery.derived import MAP, DerivedFile, Origin, Saved, decode_array, encode_array
from lookalike.gallery.gallery import Gallery, as_gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.labels import SEPARATOR, split_labels
from lookalike.sources.tables import data_frame
from lookalike.stores.row_index import vectors_of
from lookalike.types import Progress, ProgressCallback
from lookalike.vectors import VectorView

if TYPE_CHECKING:
    import pandas as pd

K = 8
"""Nearest neighbors of each image in the file."""

_MAX_COORDINATE = 65_535


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class CollectionMap(Saved):
    """The map of a gallery, saved in it; arrays are in the order of ``ids``.

    ``points`` is ``(n, 2)`` float32 in [0, 1], ``membership`` ``(n,)`` cluster numbers, -1 for
    unclustered images, ``lof_scores`` ``(n,)`` local outlier factors, and ``neighbors`` ``(n, k)``
    row numbers of the nearest images, nearest first. ``column`` is the metadata column that names
    the clusters; ``columns`` holds the value of each row for metadata columns with few distinct
    values. ``zero_embeddings`` are ids of rows that are not on the map: with the metric cosine, an
    embedding of zeros has no neighbors. ``unsaved``: why it is not saved in the gallery, empty if
    it is. ``gallery`` is where images for thumbnails are read.
    """

    ids: tuple[str, ...]
    points: Points
    membership: NDArray[np.int64]
    clusters: tuple[Cluster, ...]
    lof_scores: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    quality: MapQuality
    fingerprint: str
    embeddings_hash: str
    column: str = ""
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    zero_embeddings: tuple[str, ...] = ()

    unsaved: str = ""
    gallery: Gallery | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return (
            f"<CollectionMap of {format_count(len(self), 'image')}: "
            f"{format_count(len(self.clusters), 'cluster')}, {self.unclustered:,} unclustered>"
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unclustered(self) -> int:
        """The number of images in no cluster."""
        return int((self.membership == UNCLUSTERED).sum())

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a row for each image.

        Its columns are ``id``, ``x``, ``y`` (0 to 1), ``cluster`` (its number, -1 for none),
        ``name`` (of the cluster, null for none) and ``lof_score``.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        names = {each.number: each.name for each in self.clusters}
        columns = {
            "id": list(self.ids),
            "x": self.points[:, 0],
            "y": self.points[:, 1],
            "cluster": self.membership,
            "name": [names.get(number) for number in self.membership.tolist()],
            "lof_score": self.lof_scores,
        }
        return data_frame("CollectionMap.to_pandas", columns)

    def save_html(self, path: str | Path, *, thumbnails: int = 32) -> Path:
        """Write the map as one HTML file that needs no other, to explore in a browser.

        Args:
            path: of the file; an existing one is replaced.
            thumbnails: pixels per side of a thumbnail, at most 256; 0 for none.

        Raises:
            SettingError: ``thumbnails`` is out of range.
            InputError: the map has no gallery.
            StorageError: it could not be written.
        """
        from lookalike.explore.page import html

        if self.gallery is None:
            raise InputError("this map has no gallery to read thumbnails from; build or load it")
        write_atomically(Path(path), html(self, self.gallery, thumbnails=thumbnails).encode())
        return Path(path)

    def _repr_html_(self) -> str:
        """Return a picture of the map and its largest clusters, for a notebook."""
        from lookalike.explore.picture import map_html

        return map_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of the map; arrays are base64 of little-endian numbers."""
        return FILE.document(self) | {"stale": self.stale, "changes": self.changes}

    def _fields(self) -> dict[str, Any]:
        """Return the fields of the document, without those of the origin."""
        columns = []
        for name, values in self.columns.items():
            distinct = sorted({value for value in values if value is not None})
            code_of = {value: code for code, value in enumerate(distinct)} | {None: -1}
            codes = np.array([code_of[value] for value in values], "<i2")
            columns.append({"name": name, "values": distinct, "codes": encode_array(codes)})
        return {
            "fingerprint": self.fingerprint,
            "embeddings_hash": self.embeddings_hash,
            "method": METHOD,
            **asdict(self.quality),
            "ids": list(self.ids),
            "zero_embeddings": list(self.zero_embeddings),
            "points": encode_array(np.rint(self.points * _MAX_COORDINATE).astype("<u2")),
            "membership": encode_array(self.membership.astype("<i2")),
            "clusters": [{**asdict(each), "name": each.name} for each in self.clusters],
            "lof_scores": encode_array(self.lof_scores.astype("<f4")),
            "k": self.neighbors.shape[1],
            "neighbors": encode_array(self.neighbors.astype("<u4")),
            "column": self.column,
            "columns": columns,
        }


@checked
def build_map(
    gallery: Gallery,
    *,
    column: str = "label",
    fresh: bool = False,
    seed: int = 0,
    progress: ProgressOption = True,
) -> CollectionMap:
    """Return the map of a gallery: the saved one if it is up to date, else a new one, saved.

    If only metadata have changed, such as labels, the points of the saved map are kept, and the
    names and columns are new.

    A new map that cannot be saved, in a gallery that may only be read or on a full disk, is
    returned all the same; its ``unsaved`` is the reason.

    Args:
        gallery: whose rows are mapped.
        column: metadata column whose values name the clusters, if it exists.
        fresh: recompute the map in any case.
        seed: of the layout.
        progress: True shows it on a terminal or in a notebook; False does not; a callback gets it.

    Raises:
        InputError: fewer than three rows, or fewer with an embedding but zeros.
        MissingDependencyError: openTSNE is not installed.
    """
    with reporting(progress) as on_progress:
        result = _build(as_gallery(gallery).snapshot(), column, seed, fresh, on_progress)
    return replace(result, gallery=gallery)


def _build(
    gallery: Gallery, column: str, seed: int, fresh: bool, on_progress: ProgressCallback
) -> CollectionMap:
    saved = None if fresh else _load_if_usable(gallery)
    if saved is not None and not saved.stale:
        return saved if saved.column == column else _with_columns(saved, gallery, column)
    if len(gallery) < 3:
        size = format_count(len(gallery), "image")
        raise InputError(f"{gallery.path}: has {size}; a map needs at least three")
    ids = tuple(gallery.store.ids())
    embeddings_hash = _hash(vectors_of(gallery.store, ids))
    origin = Origin.now(gallery.state)
    shown = () if saved is None else tuple(sorted((*saved.ids, *saved.zero_embeddings)))
    if saved is not None and (shown, saved.embeddings_hash) == (ids, embeddings_hash):
        result = replace(saved, origin=replace(origin, created_at=saved.origin.created_at))
    else:
        check_installed()
        graph = neighbor_graph(gallery, on_progress=on_progress)
        if len(graph) < 3:
            raise InputError(
                f"{gallery.path}: only {format_count(len(graph), 'image')} with an embedding but "
                "zeros; a map needs at least three"
            )
        points = compute_layout(graph, seed=seed, on_progress=on_progress)
        on_progress(Progress("clusters", 0, len(graph), "images"))
        result = CollectionMap(
            ids=graph.ids,
            points=points,
            membership=find_clusters(points),
            clusters=(),
            lof_scores=lof_scores(graph),
            neighbors=graph.rows[:, :K],
            quality=measure_quality(graph, points, seed=seed),
            fingerprint=gallery.fingerprint,
            embeddings_hash=embeddings_hash,
            origin=origin,
            zero_embeddings=graph.zero_embeddings,
        )
        on_progress(Progress("clusters", len(graph), len(graph), "images"))
    result = _with_columns(result, gallery, column)
    try:
        FILE.save(gallery, result)
    except StorageError as error:
        return replace(result, unsaved=str(error))
    return result


def load_map(gallery: Gallery) -> CollectionMap | None:
    """Return the map saved in the gallery, None if there is none.

    Raises:
        FormatVersionError: a newer lookalike wrote the file.
        ArtifactError: an older lookalike wrote the file, or it is damaged.
    """
    saved = FILE.load(gallery)
    return None if saved is None else replace(saved, gallery=gallery)


def load_current_map(gallery: Gallery) -> CollectionMap | None:
    """Return the map saved in the gallery if it can be read and is up to date, else None."""
    saved = _load_if_usable(gallery)
    return None if saved is None or saved.stale else saved


def _from_document(document: Fields, origin: Origin) -> CollectionMap:
    ids = document.texts("ids")
    count = len(ids)
    k = document.integer("k", 0, count)
    points = decode_array(document, "points", "<u2", count=2 * count).reshape(count, 2)
    neighbors = decode_array(document, "neighbors", "<u4", count=count * k, below=count)
    clusters = document.objects("clusters")
    membership = decode_array(
        document, "membership", "<i2", count=count, below=max(1, len(clusters))
    )
    if count and membership.min() < UNCLUSTERED:
        raise document.invalid("membership", "an array of cluster numbers")
    return CollectionMap(
        ids=ids,
        points=(points / _MAX_COORDINATE).astype(np.float32),
        membership=membership.astype(np.int64),
        clusters=tuple(_cluster(each, number, ids) for number, each in enumerate(clusters)),
        lof_scores=decode_array(document, "lof_scores", "<f4", count=count),
        neighbors=neighbors.reshape(count, k).astype(np.int64),
        quality=MapQuality(
            _share(document, "trustworthiness"),
            _share(document, "neighborhood_preservation"),
            document.integer("sampled", 0, count),
        ),
        fingerprint=document.text("fingerprint"),
        embeddings_hash=document.text("embeddings_hash"),
        origin=origin,
        zero_embeddings=document.texts("zero_embeddings"),
        column=document.text("column", ""),
        columns={each.text("name"): _column(each, count) for each in document.objects("columns")},
    )


FILE = DerivedFile(
    MAP,
    3,
    "recompute it: lookalike explore map {gallery} --fresh",
    CollectionMap._fields,
    _from_document,
)


def _share(document: Fields, name: str) -> float | None:
    return document.number(name, 0, 1) if document.has(name) else None


def _cluster(document: Fields, number: int, ids: Sequence[str]) -> Cluster:
    return Cluster(
        document.integer("number", number, number),
        document.integer("size", 0, len(ids)),
        document.integer("medoid", 0, len(ids) - 1),
        document.text("label") if document.has("label") else None,
        _share(document, "share"),
    )


def _load_if_usable(gallery: Gallery) -> CollectionMap | None:
    """Return the saved map; None also if it is damaged or of another format."""
    try:
        return load_map(gallery)
    except ArtifactError:
        return None


def _with_columns(result: CollectionMap, gallery: Gallery, column: str) -> CollectionMap:
    """Return a map with clusters named by a metadata column, and the columns to color by."""
    store = gallery.store
    every, numbers = store.columns(), store.row_numbers(result.ids)
    columns: dict[str, list[str | None]] = {}
    for name in sorted(every.names, key=lambda name: (name != column, name))[:MAX_COLUMNS]:
        check_cancelled()
        values = _texts(every.encoded(name), numbers, _display_text, MAX_LISTED)
        if values is not None and len({*values} - {None}) > 1:
            columns[name] = values
    labels: Sequence[str | None] = [None] * len(result)
    if column in every.names:
        labels = _texts(every.encoded(column), numbers, _label) or labels
    embeddings = vectors_of(store, result.ids)
    clusters = describe_clusters(result.membership, embeddings, labels)
    return replace(result, clusters=clusters, column=column, columns=columns)


def _texts(
    column: EncodedColumn,
    numbers: NDArray[np.int64],
    text_of: Callable[[object], str | None],
    most: int | None = None,
) -> list[str | None] | None:
    """Return the values of rows as texts; None if more than ``most`` are different."""
    codes = column.codes[numbers].astype(np.int64)
    texts: dict[int, str | None] = {-1: None}
    different: set[str | None] = {None}
    for code in np.unique(codes[codes >= 0]).tolist():
        texts[code] = text_of(column.values[code])
        different.add(texts[code])
        if most is not None and len(different) > most + 1:
            return None
    return [texts[code] for code in codes.tolist()]


def _display_text(value: object) -> str | None:
    """Return a metadata value as text; None for values that do not form classes."""
    if value is None or isinstance(value, list | dict | float):
        return None
    return str(value)


def _label(value: object) -> str | None:
    """Return the labels in a metadata value as one text; None without, or for a measurement."""
    if isinstance(value, dict | float):
        return None
    return SEPARATOR.join(split_labels(value)) or None


def _column(document: Fields, count: int) -> list[str | None]:
    values = document.texts("values")
    codes = decode_array(document, "codes", "<i2", count=count, below=max(1, len(values)))
    if not values and count and codes.max() >= 0:
        raise document.invalid("values", "a list of texts for each code")
    return [None if code < 0 else values[code] for code in codes]


def _hash(embeddings: VectorView) -> str:
    digest = hashlib.sha256()
    for _, block in embeddings.blocks():
        digest.update(block.tobytes())
    return digest.hexdigest()
