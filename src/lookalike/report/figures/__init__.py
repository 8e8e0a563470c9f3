"""Every picture, as matplotlib figures made from real results; nothing here computes them."""

from lookalike.report.figures.charts import (
    choice,
    class_distribution,
    confusion,
    invariance,
    judged_hits,
    ladder,
    network_table,
    precision_per_label,
    preferences,
    training_curve,
)
from lookalike.report.figures.matching import matches
from lookalike.report.figures.pictures import (
    distortions,
    hits,
    hits_grid,
    pipeline,
    reconstructions,
    sample_grid,
)
from lookalike.report.figures.style import DPI, save

__all__ = [
    "DPI",
    "choice",
    "class_distribution",
    "confusion",
    "distortions",
    "hits",
    "hits_grid",
    "invariance",
    "judged_hits",
    "ladder",
    "matches",
    "network_table",
    "pipeline",
    "precision_per_label",
    "preferences",
    "reconstructions",
    "sample_grid",
    "save",
    "training_curve",
]
