"""Local outlier factors on the neighbor graph of a gallery."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.gallery.neighbors import NeighborGraph


def lof_scores(graph: NeighborGraph) -> NDArray[np.float32]:
    """Return the local outlier factor of each row, ``(n,)``: about 1 for inliers, higher outside.

    Breunig et al. 2000, definitions 5 to 7, on the neighbors in the graph, which scikit-learn's
    LocalOutlierFactor would search again. Distances below a thousandth of the mean distance are
    raised to it, so that groups of identical images have finite densities.
    """
    floor = max(1e-3 * float(graph.distances.mean()), 1e-12)
    distances = np.maximum(graph.distances, floor)
    reachability = np.maximum(distances, distances[:, -1][graph.rows])
    density = 1 / reachability.mean(axis=1)
    return np.asarray(density[graph.rows].mean(axis=1) / density, np.float32)
