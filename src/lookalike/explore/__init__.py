"""Exploring a whole gallery: near-duplicates, a 2-D map, clusters and outliers.

``find_duplicates`` groups identical files and near-duplicates. ``outliers`` lists the images that
fit in least. ``build_map`` places all images on a map by t-SNE, finds its clusters, scores
outliers, and saves the result in the gallery (``load_map``); :mod:`lookalike.explore.page` writes
it as one HTML file, :mod:`lookalike.explore.picture` draws it.
"""

from lookalike.explore.clusters import UNCLUSTERED, Cluster
from lookalike.explore.copy_threshold import CopyThreshold
from lookalike.explore.duplicates import (
    Duplicate,
    DuplicateGroup,
    Duplicates,
    find_duplicates,
)
from lookalike.explore.keep_rules import KEEP_RULES
from lookalike.explore.layout import MapQuality
from lookalike.explore.lof import lof_scores
from lookalike.explore.map import CollectionMap, build_map, load_map
from lookalike.explore.outliers import Outliers

__all__ = [
    "KEEP_RULES",
    "UNCLUSTERED",
    "Cluster",
    "CollectionMap",
    "CopyThreshold",
    "Duplicate",
    "DuplicateGroup",
    "Duplicates",
    "MapQuality",
    "Outliers",
    "build_map",
    "find_duplicates",
    "load_map",
    "lof_scores",
]
