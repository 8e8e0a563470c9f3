"""Given labels that their neighborhood contradicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.gallery.neighbors import Graph
from lookalike.labels.label_set import SEPARATOR, LabelSet

K = 10


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A labeled image, what its neighbors say it is, and how strongly they contradict: 0 to 1.

    ``agreeing`` of ``asked`` labeled neighbors share a label with it.
    """

    row: int
    id: str
    given: tuple[str, ...]
    proposed: tuple[str, ...]
    contradiction: float
    agreeing: int
    asked: int


@dataclass(frozen=True, slots=True)
class Check:
    """All images with a labeled neighbor, the most contradicted first."""

    suspects: tuple[LabelIssue, ...]
    labeled: int

    @property
    def contradicted(self) -> tuple[LabelIssue, ...]:
        """Those whose neighbors propose something else."""
        return tuple(s for s in self.suspects if s.proposed != s.given and s.contradiction > 0.5)

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield a row of the CSV for each contradicted one."""
        for suspect in self.contradicted:
            yield {
                "id": suspect.id,
                "label": SEPARATOR.join(suspect.given),
                "proposed": SEPARATOR.join(suspect.proposed),
                "contradiction": f"{suspect.contradiction:.4f}",
                "agreeing": f"{suspect.agreeing} of {suspect.asked}",
            }

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document of ``lookalike label issues --json``."""
        return {
            "labeled": self.labeled,
            "asked": len(self.suspects),
            "contradicted": list(self.rows()),
        }


def check(graph: Graph, given: LabelSet) -> Check:
    """Rank labeled images by how much the labels of their neighbors contradict theirs.

    Among the nearest labeled neighbors (at most ten of the graph's) each speaks for its labels
    with the weight ``exp(-d^2 / s^2)``, ``s`` the distance to the furthest of them. Contradiction
    is the weight that does not share the label, out of all. Equal ones are ordered by how near
    the contradicting neighbors are.

    Raises:
        InputError: no labels, or all the same.
    """
    given.check()
    found = []
    for row, row_id in enumerate(graph.ids):
        if row_id not in given.of:
            continue
        near = [
            (graph.ids[other], distance)
            for other, distance in zip(graph.rows[row], graph.distances[row], strict=True)
            if graph.ids[other] in given.of
        ][:K]
        if near:
            found.append(_suspect(row, row_id, given, near))
    found.sort(key=lambda pair: (-pair[0].contradiction, pair[1], pair[0].id))
    return Check(tuple(suspect for suspect, _ in found), len(given.of))


def _suspect(
    row: int, row_id: str, given: LabelSet, near: list[tuple[str, float]]
) -> tuple[LabelIssue, float]:
    own = given.of[row_id]
    distances = np.array([distance for _, distance in near])
    weights = np.exp(-((distances / max(float(distances[-1]), 1e-12)) ** 2))
    votes: dict[tuple[str, ...], float] = {}
    agreeing = 0
    for (other, _), weight in zip(near, weights, strict=True):
        labels = given.of[other]
        votes[labels] = votes.get(labels, 0) + float(weight)
        agreeing += bool(set(labels) & set(own))
    shared = sum(weight for labels, weight in votes.items() if set(labels) & set(own))
    proposed = max(votes, key=lambda labels: (votes[labels], labels))
    contradiction = 1 - shared / float(weights.sum())
    suspect = LabelIssue(row, row_id, own, proposed, contradiction, agreeing, len(near))
    return suspect, float(distances.mean())
