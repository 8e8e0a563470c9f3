"""A collection seen whole: its duplicates, its map, its clusters and what fits nowhere."""

from lookalike.explore.atlas import Atlas, atlas, kept_atlas
from lookalike.explore.clusters import Cluster
from lookalike.explore.duplicates import RULES, Duplicate, Duplicates, Group, duplicates
from lookalike.explore.mapping import Faith
from lookalike.explore.outliers import outlying

__all__ = [
    "RULES",
    "Atlas",
    "Cluster",
    "Duplicate",
    "Duplicates",
    "Faith",
    "Group",
    "atlas",
    "duplicates",
    "kept_atlas",
    "outlying",
]
