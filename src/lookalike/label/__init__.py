"""From a few labels to all: what to name first, labels spread to the rest, and labels checked."""

from lookalike.graph import Graph, neighbour_graph
from lookalike.label.checking import Check, Suspect, check
from lookalike.label.given import Given, read_given, separate
from lookalike.label.spreading import UNKNOWN, Spread, spread
from lookalike.label.suggesting import suggest

__all__ = [
    "UNKNOWN",
    "Check",
    "Given",
    "Graph",
    "Spread",
    "Suspect",
    "check",
    "neighbour_graph",
    "read_given",
    "separate",
    "spread",
    "suggest",
]
