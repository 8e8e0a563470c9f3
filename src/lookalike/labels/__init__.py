"""Labeling: which images to label next, label propagation to all images, and label issues.

``suggest`` picks images to label (active learning), ``read_labels`` reads the labels,
``propagate`` extends them along the neighbor graph to the whole gallery, and
``find_label_issues`` ranks existing labels that their neighborhood contradicts.
``save_session`` and ``load_session`` keep suggestions in the gallery for the labeling page.
"""

from lookalike.gallery.neighbors import NeighborGraph, neighbor_graph
from lookalike.labels.issues import LabelIssue, LabelIssues, find_label_issues
from lookalike.labels.propagation import Propagation, propagate
from lookalike.labels.session import LabelingSession, load_session, save_session
from lookalike.labels.suggest import suggest
from lookalike.sources.labels import UNKNOWN, LabelSet, read_labels, split_labels

__all__ = [
    "UNKNOWN",
    "LabelIssue",
    "LabelIssues",
    "LabelSet",
    "LabelingSession",
    "NeighborGraph",
    "Propagation",
    "find_label_issues",
    "load_session",
    "neighbor_graph",
    "propagate",
    "read_labels",
    "save_session",
    "split_labels",
    "suggest",
]
