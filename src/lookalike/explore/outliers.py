"""Outliers: images that lie farther from their neighbors than these from theirs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.gallery.neighbors import Graph


def lof_scores(graph: Graph) -> NDArray[np.float32]:
    """Return the local outlier factor of each row, ``(n,)``: about 1 inside, more outside.

    Breunig et al. 2000, definitions 5 to 7, on the graph's own neighbors. scikit-learn's would
    look for these again. Where many images are equal, distances count as no less than a thousandth
    of their mean.
    """
    apart = np.maximum(graph.distances, max(1e-3 * float(graph.distances.mean()), 1e-12))
    reach = np.maximum(apart, apart[:, -1][graph.rows])
    density = 1 / reach.mean(axis=1)
    return np.asarray(density[graph.rows].mean(axis=1) / density, np.float32)
