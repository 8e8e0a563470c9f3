"""A labeling session: suggested images, saved in the gallery for the page that asks for labels."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.cancellation import holding
from lookalike.documents import Fields
from lookalike.errors import InputError, MissingRowError
from lookalike.gallery.derived import (
    LABELING,
    DerivedFile,
    Origin,
    Saved,
    decode_array,
    encode_array,
)
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import NeighborGraph
from lookalike.labels.homogeneity import homogeneity, homogeneity_threshold
from lookalike.labels.propagation_methods import GraphPropagation, LabelMatrix
from lookalike.sources.labels import LabelSet
from lookalike.vectors import VectorView

MIN_CONFIDENCE = 0.9
"""Labels cover an image if the raw confidence of its propagated label is at least this."""

MAX_LABELS = 1_000
"""Different labels whose coverage is estimated at a time."""

MAX_CELLS = 10_000_000
"""Images times different labels of such an estimate: each of them has a score (40 MB)."""

_GROUP_SIZE = 8
_GRAPH_NEIGHBORS = 10


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many images have a label, and how many more it covers by propagation."""

    label: str
    labeled: int
    covered: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of all ``images``, how many are ``labeled`` and how many are ``covered`` by the labels."""

    images: int
    labeled: int
    covered: int
    labels: tuple[LabelCount, ...]


@dataclass(frozen=True, kw_only=True)
class LabelingSession(Saved):
    """Images to label, in groups of similar ones, with the labels so far; saved in the gallery.

    ``groups`` hold row numbers of ``graph``; ``labels`` maps ids to labels. ``homogeneity`` has a
    number for each group (:func:`~lookalike.labels.homogeneity.homogeneity`); groups below
    ``min_homogeneity`` are mixed.
    """

    graph: NeighborGraph
    groups: tuple[tuple[int, ...], ...]
    homogeneity: tuple[float, ...]
    min_homogeneity: float
    labels: Mapping[str, tuple[str, ...]]

    @cached_property
    def _propagation(self) -> GraphPropagation:
        return GraphPropagation(self.graph, _GRAPH_NEIGHBORS)

    @cached_property
    def _estimating(self) -> threading.Lock:
        return threading.Lock()

    @cached_property
    def _known_ids(self) -> frozenset[str]:
        return frozenset((*self.graph.ids, *self.graph.zero_embeddings))

    def coverage(self, labels: Mapping[str, tuple[str, ...]]) -> Coverage:
        """Return how many images labels by id cover along the neighbor graph.

        One estimate of a session is computed at a time, within some 100 MB.

        Raises:
            MissingRowError: the gallery has no row with one of the ids.
            InputError: over 1,000 different labels, or 10 million labels times images.
            CancelledError: the work was cancelled, or took too long.
        """
        different = len({label for each in labels.values() for label in each})
        if different > MAX_LABELS or different * len(self.graph) > MAX_CELLS:
            limit = min(MAX_LABELS, MAX_CELLS // max(1, len(self.graph)))
            raise InputError(
                f"{different:,} different labels; the limit for {len(self.graph):,} images is "
                f"{limit:,}"
            )
        unknown = next((row_id for row_id in labels if row_id not in self._known_ids), None)
        if unknown is not None:
            raise MissingRowError(f"no image has the id {unknown!r}")
        with holding(self._estimating):
            return self._coverage(labels)

    def _coverage(self, labels: Mapping[str, tuple[str, ...]]) -> Coverage:
        matrix = LabelMatrix.of(self.graph, LabelSet("labels", dict(labels)))
        labeled = matrix.indicators.sum(axis=0)
        covered = np.zeros((len(self.graph), len(matrix.classes)), np.bool_)
        if len(matrix.classes) > 1:  # a single label would cover everything it is connected to
            every_row = np.arange(len(self.graph))
            predicted, confidence = matrix.predict(
                self._propagation(matrix, matrix.labeled, every_row)
            )
            predicted[~(confidence >= MIN_CONFIDENCE)] = False
            covered = predicted
        return Coverage(
            images=len(self.graph),
            labeled=len(labels),
            covered=int(covered.any(axis=1).sum()),
            labels=tuple(
                LabelCount(label, int(labeled[place]), int(covered[:, place].sum()))
                for place, label in enumerate(matrix.classes)
            ),
        )


def save_session(
    gallery: Gallery, graph: NeighborGraph, rows: list[int], labels: LabelSet | None
) -> LabelingSession:
    """Create a session from suggested rows, grouped by similarity, and save it in the gallery.

    Raises:
        ArtifactError: the gallery is gone, or was replaced since the graph was computed.
        StorageError: the file could not be written.
    """
    groups = _group_by_similarity(graph, rows)
    session = LabelingSession(
        graph=graph,
        groups=groups,
        homogeneity=tuple(homogeneity(graph, group) for group in groups),
        min_homogeneity=homogeneity_threshold(graph),
        labels={} if labels is None else labels.by_id,
        origin=Origin.now(graph.state or gallery.state),
    )
    FILE.save(gallery, session)
    return session


def load_session(gallery: Gallery) -> LabelingSession | None:
    """Return the session saved in the gallery, None if there is none.

    Raises:
        FormatVersionError: a newer lookalike wrote the file.
        ArtifactError: an older lookalike wrote the file, or it is damaged.
    """
    return FILE.load(gallery)


def _fields(session: LabelingSession) -> dict[str, Any]:
    graph = session.graph
    return {
        "groups": session.groups,
        "homogeneity": session.homogeneity,
        "min_homogeneity": session.min_homogeneity,
        "labels": session.labels,
        "ids": graph.ids,
        "zero_embeddings": graph.zero_embeddings,
        "k": graph.rows.shape[1],
        "rows": encode_array(graph.rows.astype("<u4")),
        "distances": encode_array(graph.distances.astype("<f4")),
    }


def _from_document(document: Fields, origin: Origin) -> LabelingSession:
    ids = document.texts("ids")
    k = document.integer("k", 0, len(ids))
    count = len(ids) * k
    rows = decode_array(document, "rows", "<u4", count=count, below=len(ids)).astype(np.int64)
    distances = decode_array(document, "distances", "<f4", count=count).astype(np.float64)
    graph = NeighborGraph(
        ids,
        VectorView.of(np.empty((len(ids), 0), np.float32)),
        rows.reshape(len(ids), k),
        distances.reshape(len(ids), k),
        origin.state,
        document.texts("zero_embeddings"),
    )
    groups = document.integer_lists("groups", 0, len(ids) - 1)
    values = document.numbers("homogeneity", 0, 1)
    if len(values) != len(groups):
        raise ValueError(f"{len(values):,} homogeneities of {len(groups):,} groups")
    return LabelingSession(
        graph=graph,
        groups=groups,
        homogeneity=values,
        min_homogeneity=document.number("min_homogeneity", 0, 1),
        labels=document.texts_mapping("labels"),
        origin=origin,
    )


FILE = DerivedFile(
    LABELING,
    4,
    "create it again: lookalike label suggest {gallery} --save",
    _fields,
    _from_document,
)


def _group_by_similarity(graph: NeighborGraph, rows: list[int]) -> tuple[tuple[int, ...], ...]:
    """Return rows in groups of about eight similar images, in the order of their first row."""
    count = -(-len(rows) // _GROUP_SIZE)
    numbers: NDArray[np.int64] = np.zeros(len(rows), np.int64)
    if count > 1:
        from sklearn.cluster import AgglomerativeClustering

        numbers = AgglomerativeClustering(count).fit_predict(graph.embeddings[rows])
    groups: dict[int, list[int]] = {}
    for row, number in zip(rows, numbers.tolist(), strict=True):
        groups.setdefault(number, []).append(row)
    return tuple(map(tuple, groups.values()))
