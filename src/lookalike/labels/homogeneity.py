"""How similar the images of a group are to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.gallery.neighbors import NeighborGraph


def homogeneity(graph: NeighborGraph, rows: Sequence[int]) -> float:
    """Return the mean cosine similarity of all pairs of a group of images, from 0 to 1.

    1 for a group of one image; 0 also for a mean below 0. Computed from the sum of the embeddings
    of unit length, in O(n dim): the squared length of the sum is n plus twice the sum of all pairs.

    Args:
        graph: neighbor graph of the gallery, with its embeddings.
        rows: row numbers of the group, at least one.
    """
    if len(rows) < 2:
        return 1.0
    total = graph.embeddings.of_unit_length()[np.array(rows)].sum(axis=0, dtype=np.float64)
    return _mean_of_pairs(float(total @ total), len(rows))


def homogeneity_threshold(graph: NeighborGraph) -> float:
    """Return the homogeneity from which a group of a gallery counts as homogeneous, from 0 to 1.

    It is halfway between the mean cosine similarity of any two images and that of an image to its
    nearest neighbor: similarities of one encoder are all above .98, those of another one around
    .5, so no constant suits both (``docs/labeling.md``).

    Args:
        graph: neighbor graph of the gallery, with its embeddings.

    Raises:
        CancelledError: the work was cancelled, or took too long.
    """
    view = graph.embeddings.of_unit_length()
    total, nearest = np.zeros(view.dim), 0.0
    for part, block in view.blocks():
        total += block.sum(axis=0, dtype=np.float64)
        nearest += float(np.vdot(block, view[graph.rows[part, 0]]))
    any_two = _mean_of_pairs(float(total @ total), len(graph))
    return min(1.0, max(0.0, (any_two + nearest / len(graph)) / 2))


def _mean_of_pairs(squared_length: float, count: int) -> float:
    """Return the mean over pairs of unit vectors from the squared length of their sum."""
    return min(1.0, max(0.0, (squared_length - count) / (count * (count - 1))))
