"""lookalike: find the images that look like yours.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime tells its makers of each session unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from lookalike import figures
    from lookalike.adapting import AdaptOptions, adapt
    from lookalike.assessment import assess
    from lookalike.choosing import choose
    from lookalike.client import Client
    from lookalike.encoders.catalog import load_encoder, open_encoder, save_encoder
    from lookalike.encoders.wrappers import combine
    from lookalike.errors import LookalikeError
    from lookalike.evaluation import evaluate
    from lookalike.gallery import Gallery
    from lookalike.hit_judgements import evaluate_judgements
    from lookalike.invariance import self_retrieval
    from lookalike.sources import open_source
    from lookalike.training.loop import TrainingOptions
    from lookalike.training.run import train
    from lookalike.types import Hit, Hits, Metric

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
    "assess",
    "choose",
    "combine",
    "evaluate",
    "evaluate_judgements",
    "figures",
    "load_encoder",
    "open_encoder",
    "open_source",
    "save_encoder",
    "self_retrieval",
    "train",
]

_HOMES = {
    "lookalike.adapting": ("AdaptOptions", "adapt"),
    "lookalike.assessment": ("assess",),
    "lookalike.choosing": ("choose",),
    "lookalike.client": ("Client",),
    "lookalike.encoders.catalog": ("load_encoder", "open_encoder", "save_encoder"),
    "lookalike.encoders.wrappers": ("combine",),
    "lookalike.errors": ("LookalikeError",),
    "lookalike.evaluation": ("evaluate",),
    "lookalike.gallery": ("Gallery",),
    "lookalike.hit_judgements": ("evaluate_judgements",),
    "lookalike.invariance": ("self_retrieval",),
    "lookalike.sources": ("open_source",),
    "lookalike.training.loop": ("TrainingOptions",),
    "lookalike.training.run": ("train",),
    "lookalike.types": ("Hit", "Hits", "Metric"),
}


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module("lookalike.figures")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'lookalike' has no attribute {name!r}")
