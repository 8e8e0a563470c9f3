"""Figures as matplotlib objects; they draw results and compute none."""

from lookalike.plotting import render, save
from lookalike.report.figures.charts import (
    ERROR_BARS,
    Bar,
    Series,
    TradeOff,
    TrainingCurve,
    class_distribution,
    confusion,
    interval_chart,
    network_table,
    quality_by_speed,
    scores_per_label,
    training_curve,
)
from lookalike.report.figures.matching import matches
from lookalike.report.figures.pictures import (
    corruptions,
    pipeline,
    reconstructions,
    sample_grid,
)
from lookalike.search.contact_sheet import hits, hits_grid

__all__ = [
    "ERROR_BARS",
    "Bar",
    "Series",
    "TradeOff",
    "TrainingCurve",
    "class_distribution",
    "confusion",
    "corruptions",
    "hits",
    "hits_grid",
    "interval_chart",
    "matches",
    "network_table",
    "pipeline",
    "quality_by_speed",
    "reconstructions",
    "render",
    "sample_grid",
    "save",
    "scores_per_label",
    "training_curve",
]
