"""What is to be named next, kept in the gallery's folder for the page on which people name it."""

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
from lookalike.errors import ArtifactError, MissingRowError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import Graph
from lookalike.labels.label_set import LabelSet
from lookalike.labels.propagation_methods import OnGraph, Problem

FILE = "labeling.npz"

SURE = 0.9
"""An image counts as reached where so much of what reaches it speaks for one label."""

_GROUP = 8
_NEAR = 10
_FORMAT = 1


@dataclass(frozen=True)
class Round:
    """Suggested images in groups that look alike, and labels that were given before.

    ``groups`` hold row numbers; ``given`` maps ids to labels. ``stale``: the gallery's rows or
    encoder are others by now.
    """

    graph: Graph
    groups: tuple[tuple[int, ...], ...]
    given: Mapping[str, tuple[str, ...]]
    fingerprint: str
    made: str
    stale: bool = False

    @cached_property
    def _spread(self) -> OnGraph:
        return OnGraph(self.graph, _NEAR)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.graph.ids)

    def reach(self, labels: Mapping[str, tuple[str, ...]]) -> Reach:
        """Return how far labels by id reach along the neighbor graph.

        Raises:
            MissingRowError: an id is not there.
        """
        missing = next((row_id for row_id in labels if row_id not in self._known), None)
        if missing is not None:
            raise MissingRowError(f"there is no row with the id {missing!r}")
        counts: dict[str, list[int]] = {
            label: [0, 0] for label in sorted({each for of in labels.values() for each in of})
        }
        for of in labels.values():
            for label in of:
                counts[label][0] += 1
        sure = np.zeros(len(self.graph), np.bool_)
        if len(counts) > 1:  # one label alone reaches everything, which says nothing
            problem = Problem.of(self.graph, LabelSet("labels", dict(labels)))
            every = np.arange(len(self.graph))
            guesses, shares = problem.read(self._spread(problem, problem.labeled, every))
            sure = shares >= SURE
            for place, label in enumerate(problem.names):
                counts[label][1] = int((guesses[:, place] & sure).sum())
        return Reach(len(self.graph), len(labels), int(sure.sum()), counts)


@dataclass(frozen=True, slots=True)
class Reach:
    """Of ``images``, so many are labeled and ``sure``; ``labels`` says both of each label."""

    images: int
    labeled: int
    sure: int
    labels: Mapping[str, list[int]]


def keep_round(gallery: Gallery, graph: Graph, rows: list[int], given: LabelSet | None) -> Round:
    """Put suggested rows into groups that look alike, and keep them.

    Raises:
        StorageError: it could not be written.
    """
    found = Round(
        graph=graph,
        groups=_grouped(graph, rows),
        given={} if given is None else given.of,
        fingerprint=gallery.fingerprint,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    facts = {
        "format": _FORMAT,
        "groups": found.groups,
        "given": found.given,
        "fingerprint": found.fingerprint,
        "made": found.made,
        "ids": graph.ids,
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        rows=graph.rows.astype(np.int32),
        distances=graph.distances.astype(np.float32),
    )
    write_atomically(gallery.path / FILE, buffer.getvalue())
    return found


def kept_round(gallery: Gallery) -> Round | None:
    """Return the round that the gallery keeps, None if there is none.

    Raises:
        ArtifactError: the file is broken.
    """
    import zipfile

    try:
        with np.load(gallery.path / FILE, allow_pickle=False) as file:
            facts: dict[str, Any] = json.loads(file["facts"].tobytes())
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']}")
            ids = tuple(facts["ids"])
            rows, distances = file["rows"].astype(np.int64), file["distances"].astype(np.float64)
        now = tuple(gallery.store.ids()), gallery.fingerprint
        return Round(
            graph=Graph(ids, np.empty((len(ids), 0), np.float32), rows, distances),
            groups=tuple(tuple(group) for group in facts["groups"]),
            given={row_id: tuple(labels) for row_id, labels in facts["given"].items()},
            fingerprint=facts["fingerprint"],
            made=facts["made"],
            stale=(ids, facts["fingerprint"]) != now,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{FILE} of {gallery.path.absolute().name}: cannot be read ({type(error).__name__}); "
            "make it again with lookalike label suggest --save"
        ) from error


def _grouped(graph: Graph, rows: list[int]) -> tuple[tuple[int, ...], ...]:
    """Return rows in groups of about eight that look alike, in the order of their first."""
    count = -(-len(rows) // _GROUP)
    numbers: NDArray[np.int64] = np.zeros(len(rows), np.int64)
    if count > 1:
        from sklearn.cluster import AgglomerativeClustering

        numbers = AgglomerativeClustering(count).fit_predict(graph.embeddings[rows])
    groups: dict[int, list[int]] = {}
    for row, number in zip(rows, numbers.tolist(), strict=True):
        groups.setdefault(number, []).append(row)
    return tuple(map(tuple, groups.values()))
