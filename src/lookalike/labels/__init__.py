"""Labeling: which images to label next, label propagation to all images, and label issues.

``suggest_labels`` picks images to label (active learning), ``read_labels`` reads the labels,
``propagate_labels`` extends them along the neighbor graph to the whole gallery, and
``find_label_issues`` ranks existing labels that their neighborhood contradicts; ``suggest``,
``propagate`` and ``rank_labels`` do so on a neighbor graph. ``save_session`` and ``load_session``
keep suggestions in the gallery for the labeling page.
"""

from lookalike.gallery.neighbors import NeighborGraph, neighbor_graph
from lookalike.labels.issues import LabelIssue, LabelIssues, find_label_issues, rank_labels
from lookalike.labels.propagation import (
    PropagatedLabel,
    Propagation,
    propagate,
    propagate_labels,
)
from lookalike.labels.session import LabelingSession, load_session, save_session
from lookalike.labels.suggest import Suggestions, suggest, suggest_labels
from lookalike.sources.labels import UNKNOWN, LabelSet, read_labels, split_labels

__all__ = [
    "UNKNOWN",
    "LabelIssue",
    "LabelIssues",
    "LabelSet",
    "LabelingSession",
    "NeighborGraph",
    "PropagatedLabel",
    "Propagation",
    "Suggestions",
    "find_label_issues",
    "load_session",
    "neighbor_graph",
    "propagate",
    "propagate_labels",
    "rank_labels",
    "read_labels",
    "save_session",
    "split_labels",
    "suggest",
    "suggest_labels",
]
