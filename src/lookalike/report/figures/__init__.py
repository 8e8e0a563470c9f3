"""Figures as matplotlib objects; they draw results and compute none."""

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
    hits,
    hits_grid,
    pipeline,
    reconstructions,
    sample_grid,
)
from lookalike.report.figures.style import render, save

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
