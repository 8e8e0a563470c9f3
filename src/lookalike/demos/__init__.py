"""End-to-end demos on real data, one module each; ``lookalike demo NAME`` runs one.

``digits`` (with ``mnist`` and ``fashion-mnist``) trains encoders on a labeled data set, ``photos``
keeps a gallery of a folder in sync, and ``products`` adapts an encoder to a shop's images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from lookalike.demos import digits, photos, products
from lookalike.demos.result import DemoResult
from lookalike.errors import UnknownNameError
from lookalike.types import ProgressCallback, ignore_progress

__all__ = ["DEMOS", "DemoResult", "run_demo"]

DEMOS: Mapping[str, str] = MappingProxyType(
    {
        "mnist": "handwritten digits: train without labels, index, search, evaluate",
        "fashion-mnist": "the same on images of clothes",
        "digits": "the same on 1,797 small digits; no download",
        photos.NAME: "a folder of photographs: index, rename a file, filter, search, evaluate",
        products.NAME: "find the item of a photograph among the images of a shop",
    }
)
"""Every demo by name, with a short description."""


def run_demo(
    name: str,
    out: Path,
    log: Callable[[str], None],
    on_progress: ProgressCallback = ignore_progress,
) -> DemoResult:
    """Run a demo in the folder ``out/name``; finished steps of an earlier run are reused.

    Args:
        name: a key of :data:`DEMOS`.
        out: parent folder of everything that the demo writes.
        log: called with each line of text about the steps.
        on_progress: called on progress within the steps.

    Raises:
        UnknownNameError: no such demo.
        FetchError: the data could not be downloaded.
        MissingDependencyError: a package that the demo needs is not installed.
    """
    if name == photos.NAME:
        return photos.run_demo(out, log, on_progress)
    if name == products.NAME:
        return products.run_demo(out, log, on_progress)
    if name in digits.DATASETS:
        return digits.run_demo(name, out, log, on_progress)
    raise UnknownNameError("demo", name, DEMOS)
