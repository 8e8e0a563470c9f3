"""Backbones of timm, loaded by name in torch for export to ONNX; needed for export only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lookalike.encoders.backbones import MULTI_LAYER_POOLING, NATIVE_POOLING, LoadedBackbone
from lookalike.encoders.base import Preprocessing
from lookalike.errors import InputError

if TYPE_CHECKING:
    from torch import nn


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
