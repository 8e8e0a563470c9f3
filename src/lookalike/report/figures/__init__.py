"""Figures as matplotlib objects; they draw results and compute none."""

from lookalike.errors import requiring

with requiring("matplotlib", "a chart", "report"):
    from lookalike.report.figures.charts import (
        ERROR_BARS,
        Bar,
        Series,
        TradeOff,
        TrainingCurve,
        class_distribution,
        confusion,
        interval_chart,
        quality_by_speed,
        scores_per_label,
        training_curve,
    )
    from lookalike.report.figures.matching import matches
    from lookalike.report.figures.pipeline import pipeline
    from lookalike.report.figures.style import save

__all__ = [
    "ERROR_BARS",
    "Bar",
    "Series",
    "TradeOff",
    "TrainingCurve",
    "class_distribution",
    "confusion",
    "interval_chart",
    "matches",
    "pipeline",
    "quality_by_speed",
    "save",
    "scores_per_label",
    "training_curve",
]
