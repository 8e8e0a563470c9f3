"""A labeling session: suggested images, saved in the gallery for the page that asks for labels."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.errors import ArtifactError, FormatVersionError, MissingRowError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import NeighborGraph
from lookalike.labels.label_set import LabelSet
from lookalike.labels.propagation_methods import GraphPropagation, LabelMatrix

FILE = "labeling.npz"

MIN_CONFIDENCE = 0.9
"""Labels cover an image if the raw confidence of its propagated label is at least this."""

_GROUP_SIZE = 8
_GRAPH_NEIGHBORS = 10
_FORMAT = 2


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


@dataclass(frozen=True)
class LabelingSession:
    """Images to label, in groups of similar ones, with the labels so far.

    ``groups`` hold row numbers of ``graph``; ``labels`` maps ids to labels. ``stale``: the
    gallery's rows or encoder have changed since the session was created.
    """

    graph: NeighborGraph
    groups: tuple[tuple[int, ...], ...]
    labels: Mapping[str, tuple[str, ...]]
    fingerprint: str
    created_at: str
    stale: bool = False

    @cached_property
    def _propagation(self) -> GraphPropagation:
        return GraphPropagation(self.graph, _GRAPH_NEIGHBORS)

    @cached_property
    def _known_ids(self) -> frozenset[str]:
        return frozenset(self.graph.ids)

    def coverage(self, labels: Mapping[str, tuple[str, ...]]) -> Coverage:
        """Return how many images labels by id cover along the neighbor graph.

        Raises:
            MissingRowError: the gallery has no row with one of the ids.
        """
        unknown = next((row_id for row_id in labels if row_id not in self._known_ids), None)
        if unknown is not None:
            raise MissingRowError(f"no image has the id {unknown!r}")
        matrix = LabelMatrix.of(self.graph, LabelSet("labels", dict(labels)))
        labeled = matrix.indicators.sum(axis=0)
        covered = np.zeros((len(self.graph), len(matrix.classes)), np.bool_)
        if len(matrix.classes) > 1:  # a single label would cover everything it is connected to
            every_row = np.arange(len(self.graph))
            predicted, confidence = matrix.predict(
                self._propagation(matrix, matrix.labeled, every_row)
            )
            covered = predicted & (confidence >= MIN_CONFIDENCE)[:, None]
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
        StorageError: the file could not be written.
    """
    session = LabelingSession(
        graph=graph,
        groups=_grouped(graph, rows),
        labels={} if labels is None else labels.by_id,
        fingerprint=gallery.fingerprint,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    header = {
        "format": _FORMAT,
        "groups": session.groups,
        "labels": session.labels,
        "fingerprint": session.fingerprint,
        "created_at": session.created_at,
        "ids": graph.ids,
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        rows=graph.rows.astype(np.int32),
        distances=graph.distances.astype(np.float32),
    )
    write_atomically(gallery.path / FILE, buffer.getvalue())
    return session


def load_session(gallery: Gallery) -> LabelingSession | None:
    """Return the session saved in the gallery, None if there is none.

    Raises:
        FormatVersionError: a newer lookalike wrote the file.
        ArtifactError: an older lookalike wrote the file, or it is damaged.
    """
    import zipfile

    name = f"{FILE} of {gallery.path.absolute().name}"
    hint = f"create it again: lookalike label suggest {gallery.path.name} --save"
    try:
        with np.load(gallery.path / FILE, allow_pickle=False) as file:
            if "header" not in file:
                raise ArtifactError(f"{name}: written by an older lookalike; {hint}")
            header: dict[str, Any] = json.loads(file["header"].tobytes())
            if header["format"] != _FORMAT:
                raise FormatVersionError(f"{name}: written by a newer lookalike; {hint}")
            ids = tuple(header["ids"])
            rows, distances = file["rows"].astype(np.int64), file["distances"].astype(np.float64)
        current = tuple(gallery.store.ids()), gallery.fingerprint
        return LabelingSession(
            graph=NeighborGraph(ids, np.empty((len(ids), 0), np.float32), rows, distances),
            groups=tuple(tuple(group) for group in header["groups"]),
            labels={row_id: tuple(labels) for row_id, labels in header["labels"].items()},
            fingerprint=header["fingerprint"],
            created_at=header["created_at"],
            stale=(ids, header["fingerprint"]) != current,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{name}: damaged ({type(error).__name__}); {hint}") from error


def _grouped(graph: NeighborGraph, rows: list[int]) -> tuple[tuple[int, ...], ...]:
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
