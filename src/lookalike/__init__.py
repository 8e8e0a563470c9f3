"""lookalike: find the images that look like yours.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lookalike._version import __version__

if TYPE_CHECKING:
    from lookalike.client import Client
    from lookalike.encoders.composite import combine
    from lookalike.encoders.persistence import load_encoder, save_encoder
    from lookalike.encoders.registry import open_encoder
    from lookalike.errors import LookalikeError
    from lookalike.evaluation.evaluate import evaluate
    from lookalike.evaluation.human_judgements import evaluate_judgements
    from lookalike.evaluation.model_selection import choose
    from lookalike.evaluation.robustness import evaluate_robustness
    from lookalike.evaluation.sanity_check import sanity_check
    from lookalike.gallery.gallery import Gallery
    from lookalike.report import figures
    from lookalike.sources import open_source
    from lookalike.training.adapt import AdaptOptions, adapt
    from lookalike.training.loop import TrainingOptions
    from lookalike.training.train import train
    from lookalike.search.hits import Hits
    from lookalike.types import Hit, Metric

__all__ = [
    "AdaptOptions",
    "Client",
    "Gallery",
    "Hit",
    "Hits",
    "LookalikeError",
    "Metric",
    "TrainingOptions",
    "__version__",
    "adapt",
    "choose",
    "combine",
    "evaluate",
    "evaluate_judgements",
    "evaluate_robustness",
    "figures",
    "load_encoder",
    "open_encoder",
    "open_source",
    "sanity_check",
    "save_encoder",
    "train",
]

_HOMES = {
    "lookalike.client": ("Client",),
    "lookalike.encoders.composite": ("combine",),
    "lookalike.encoders.persistence": (
        "load_encoder",
        "save_encoder",
    ),
    "lookalike.encoders.registry": ("open_encoder",),
    "lookalike.errors": ("LookalikeError",),
    "lookalike.evaluation.evaluate": ("evaluate",),
    "lookalike.evaluation.human_judgements": ("evaluate_judgements",),
    "lookalike.evaluation.model_selection": ("choose",),
    "lookalike.evaluation.robustness": ("evaluate_robustness",),
    "lookalike.evaluation.sanity_check": ("sanity_check",),
    "lookalike.gallery.gallery": ("Gallery",),
    "lookalike.search.hits": ("Hits",),
    "lookalike.sources": ("open_source",),
    "lookalike.training.adapt": (
        "AdaptOptions",
        "adapt",
    ),
    "lookalike.training.loop": ("TrainingOptions",),
    "lookalike.training.train": ("train",),
    "lookalike.types": (
        "Hit",
        "Metric",
    ),
}


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module("lookalike.report.figures")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
