"""A collection seen whole: its duplicates, its map, its clusters and what fits nowhere."""

from lookalike.explore.clusters import Cluster
from lookalike.explore.duplicates import RULES, Duplicate, Duplicates, Group, duplicates
from lookalike.explore.layout import MapQuality
from lookalike.explore.map import CollectionMap, build_map, load_map
from lookalike.explore.outliers import lof_scores

__all__ = [
    "RULES",
    "Cluster",
    "CollectionMap",
    "Duplicate",
    "Duplicates",
    "Group",
    "MapQuality",
    "build_map",
    "duplicates",
    "load_map",
    "lof_scores",
]
