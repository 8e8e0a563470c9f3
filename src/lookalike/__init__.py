"""lookalike: find the images that look like yours.

The names below load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from lookalike._version import __version__

TYPE_CHECKING = False  # not that of typing, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from lookalike import encoders
    from lookalike.client import Client, RemoteGallery, RemoteListing
    from lookalike.encoders.base import Encoder
    from lookalike.encoders.composite import combine
    from lookalike.encoders.persistence import load_encoder, save_encoder
    from lookalike.encoders.registry import open_encoder
    from lookalike.errors import (
        ArtifactError,
        BusyError,
        CancelledError,
        FetchError,
        FingerprintError,
        FormatVersionError,
        ImageError,
        InputError,
        LookalikeError,
        MissingDependencyError,
        MissingRowError,
        ReplacedError,
        ServiceError,
        SettingError,
        SourceError,
        StorageError,
        TimeLimitError,
        UnknownNameError,
        UnreachableError,
    )
    from lookalike.evaluation.candidates import ChooseOptions
    from lookalike.evaluation.evaluate import evaluate
    from lookalike.evaluation.human_judgements import evaluate_judgements
    from lookalike.evaluation.model_selection import choose
    from lookalike.evaluation.results import Evaluation
    from lookalike.evaluation.robustness import evaluate_robustness
    from lookalike.evaluation.sanity_check import sanity_check
    from lookalike.explore.duplicates import find_duplicates as duplicates
    from lookalike.explore.map import build_map as map  # noqa: A004 - as in la.map
    from lookalike.explore.outliers import outliers
    from lookalike.gallery.gallery import Gallery
    from lookalike.gallery.items import GalleryItem
    from lookalike.gallery.listing import Listing
    from lookalike.gallery.on_demand import open_on_demand
    from lookalike.labels.issues import find_label_issues
    from lookalike.labels.propagation import propagate_labels
    from lookalike.labels.suggest import suggest_labels
    from lookalike.report import figures
    from lookalike.search.contact_sheet import ContactSheet, contact_sheet
    from lookalike.search.hits import Hits
    from lookalike.search.request import SearchRequest
    from lookalike.sources.base import Source
    from lookalike.sources.labels import read_labels
    from lookalike.sources.opening import open_source
    from lookalike.sources.options import SourceOptions
    from lookalike.stores.base import VectorStore
    from lookalike.training.adapt import AdaptOptions, adapt
    from lookalike.training.options import TrainingOptions
    from lookalike.training.recipe import Recipe
    from lookalike.training.train import train
    from lookalike.types import Hit, Metric

__all__ = [
    "AdaptOptions",
    "ArtifactError",
    "BusyError",
    "CancelledError",
    "ChooseOptions",
    "Client",
    "ContactSheet",
    "Encoder",
    "Evaluation",
    "FetchError",
    "FingerprintError",
    "FormatVersionError",
    "Gallery",
    "GalleryItem",
    "Hit",
    "Hits",
    "ImageError",
    "InputError",
    "Listing",
    "LookalikeError",
    "Metric",
    "MissingDependencyError",
    "MissingRowError",
    "Recipe",
    "RemoteGallery",
    "RemoteListing",
    "ReplacedError",
    "SearchRequest",
    "ServiceError",
    "SettingError",
    "Source",
    "SourceError",
    "SourceOptions",
    "StorageError",
    "TimeLimitError",
    "TrainingOptions",
    "UnknownNameError",
    "UnreachableError",
    "VectorStore",
    "__version__",
    "adapt",
    "choose",
    "combine",
    "contact_sheet",
    "duplicates",
    "encoders",
    "evaluate",
    "evaluate_judgements",
    "evaluate_robustness",
    "figures",
    "find_label_issues",
    "load_encoder",
    "map",
    "open_encoder",
    "open_on_demand",
    "open_source",
    "outliers",
    "propagate_labels",
    "read_labels",
    "sanity_check",
    "save_encoder",
    "suggest_labels",
    "train",
]

_ORIGINS = {
    "AdaptOptions": "lookalike.training.adapt",
    "ArtifactError": "lookalike.errors",
    "BusyError": "lookalike.errors",
    "CancelledError": "lookalike.errors",
    "ChooseOptions": "lookalike.evaluation.candidates",
    "Client": "lookalike.client",
    "ContactSheet": "lookalike.search.contact_sheet",
    "Encoder": "lookalike.encoders.base",
    "Evaluation": "lookalike.evaluation.results",
    "FetchError": "lookalike.errors",
    "FingerprintError": "lookalike.errors",
    "FormatVersionError": "lookalike.errors",
    "Gallery": "lookalike.gallery.gallery",
    "GalleryItem": "lookalike.gallery.items",
    "Hit": "lookalike.types",
    "Hits": "lookalike.search.hits",
    "ImageError": "lookalike.errors",
    "InputError": "lookalike.errors",
    "Listing": "lookalike.gallery.listing",
    "LookalikeError": "lookalike.errors",
    "Metric": "lookalike.types",
    "MissingDependencyError": "lookalike.errors",
    "MissingRowError": "lookalike.errors",
    "Recipe": "lookalike.training.recipe",
    "RemoteGallery": "lookalike.client",
    "RemoteListing": "lookalike.client",
    "ReplacedError": "lookalike.errors",
    "SearchRequest": "lookalike.search.request",
    "ServiceError": "lookalike.errors",
    "SettingError": "lookalike.errors",
    "Source": "lookalike.sources.base",
    "SourceError": "lookalike.errors",
    "SourceOptions": "lookalike.sources.options",
    "StorageError": "lookalike.errors",
    "TimeLimitError": "lookalike.errors",
    "TrainingOptions": "lookalike.training.options",
    "UnknownNameError": "lookalike.errors",
    "UnreachableError": "lookalike.errors",
    "VectorStore": "lookalike.stores.base",
    "adapt": "lookalike.training.adapt",
    "choose": "lookalike.evaluation.model_selection",
    "combine": "lookalike.encoders.composite",
    "contact_sheet": "lookalike.search.contact_sheet",
    "duplicates": "lookalike.explore.duplicates:find_duplicates",
    "evaluate": "lookalike.evaluation.evaluate",
    "evaluate_judgements": "lookalike.evaluation.human_judgements",
    "evaluate_robustness": "lookalike.evaluation.robustness",
    "find_label_issues": "lookalike.labels.issues",
    "load_encoder": "lookalike.encoders.persistence",
    "map": "lookalike.explore.map:build_map",
    "open_encoder": "lookalike.encoders.registry",
    "open_on_demand": "lookalike.gallery.on_demand",
    "open_source": "lookalike.sources.opening",
    "outliers": "lookalike.explore.outliers",
    "propagate_labels": "lookalike.labels.propagation",
    "read_labels": "lookalike.sources.labels",
    "sanity_check": "lookalike.evaluation.sanity_check",
    "save_encoder": "lookalike.encoders.persistence",
    "suggest_labels": "lookalike.labels.suggest",
    "train": "lookalike.training.train",
    "encoders": "lookalike.encoders:",
    "figures": "lookalike.report.figures:",
}
"""The module of each name; after a colon, what it is called there, nothing for a module itself."""


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # so that type checkers refuse names that do not exist

    def __getattr__(name: str) -> Any:
        origin = _ORIGINS.get(name)
        if origin is None:
            raise AttributeError(_unknown(name), name=name, obj=None)
        from importlib import import_module

        module, colon, attribute = origin.partition(":")
        value: Any = import_module(module)
        if attribute or not colon:
            value = getattr(value, attribute or name)
        globals()[name] = value
        return value


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    nearest = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"module 'lookalike' has no attribute {name!r}{hint}"
