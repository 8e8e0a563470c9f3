"""From a few labels to all: what to name first, labels spread to the rest, and labels checked."""

from lookalike.gallery.neighbors import Graph, neighbor_graph
from lookalike.labels.issues import Check, LabelIssue, check
from lookalike.labels.label_set import LabelSet, read_given, separate
from lookalike.labels.propagation import UNKNOWN, Spread, spread
from lookalike.labels.suggest import suggest

__all__ = [
    "UNKNOWN",
    "Check",
    "Graph",
    "LabelIssue",
    "LabelSet",
    "Spread",
    "check",
    "neighbor_graph",
    "read_given",
    "separate",
    "spread",
    "suggest",
]
