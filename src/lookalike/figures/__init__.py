"""Every picture, as matplotlib figures made from real results; nothing here computes them."""

from lookalike.figures.charts import (
    class_distribution,
    confusion,
    ladder,
    network_table,
    precision_per_label,
    training_curve,
)
from lookalike.figures.pictures import hits, hits_grid, pipeline, reconstructions, sample_grid
from lookalike.figures.style import DPI, save

__all__ = [
    "DPI",
    "class_distribution",
    "confusion",
    "hits",
    "hits_grid",
    "ladder",
    "network_table",
    "pipeline",
    "precision_per_label",
    "reconstructions",
    "sample_grid",
    "save",
    "training_curve",
]
