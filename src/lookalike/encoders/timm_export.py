"""Networks of timm, loaded by name in torch for export to ONNX; needed for export only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lookalike.encoders.backbones import LoadedBackbone
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.pooling import MULTI_LAYER_POOLING
from lookalike.encoders.torchvision_repair import import_beside_torchvision, offline_hint
from lookalike.errors import InputError
from lookalike.images.decode import FILTERS

_RESIZE_MODES = {"center": "cover", "squash": "exact", "border": "contain"}
"""Modes of :class:`lookalike.images.decode.Resize` by timm's ``crop_mode``."""


def load_timm(name: str, pooling: str, size: int | None) -> LoadedBackbone:
    """Load a model through timm, which downloads its weights unless they are cached.

    Args:
        name: ``timm:NAME`` or ``hf-hub:NAME``.
        pooling: of the embeddings; chooses the kind of feature maps.
        size: input height and width in pixels; default the model's own.

    Raises:
        ModuleNotFoundError: timm is not installed.
        InputError: timm cannot load the model, it does not accept images of that size, or it has
            no feature maps to pool.
    """
    purpose = f"encoder {name!r}"
    timm = import_beside_torchvision("timm", purpose)
    network = _create(timm, name, pooling, size)
    config = import_beside_torchvision("timm.data", purpose).resolve_model_data_config(network)
    height, width = (size, size) if size is not None else config["input_size"][1:]
    from lookalike.encoders.timm_maps import features_of

    features = features_of(network, name, pooling, (int(height), int(width)))
    preprocessing = timm_preprocessing(config, (int(height), int(width)), purpose)
    model_license = str((network.pretrained_cfg or {}).get("license") or "see the model's page")
    return LoadedBackbone(features, preprocessing, {"source": name, "license": model_license})


def _create(timm: Any, name: str, pooling: str, size: int | None) -> Any:
    """Return timm's network with its weights, without its classifier."""
    options: dict[str, Any] = {"num_classes": 0}
    if pooling == MULTI_LAYER_POOLING:
        options = {"features_only": True, "out_indices": (-2, -1)}
    model_name = name.removeprefix("timm:")

    def create(**more: Any) -> Any:
        network = timm.create_model(model_name, pretrained=True, **options, **more).eval()
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # its strides are others than the exporter believes
        return network

    try:
        if size is None:
            return create()
        try:
            return create(img_size=size)  # whose position embeddings depend on it
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return create()
    except Exception as error:  # timm and the libraries that download raise many kinds
        reason = " ".join((str(error).strip() or type(error).__name__).split())[:300]
        at = "" if size is None else f" at {size} pixels"
        raise InputError(
            f"encoder {name!r}: timm cannot load it{at} ({reason}); timm.list_models("
            "pretrained=True) lists the names, and weights that are not cached need internet access"
            + offline_hint()
        ) from error


def timm_preprocessing(
    config: Mapping[str, Any], size: tuple[int, int], purpose: str
) -> Preprocessing:
    """Translate a data configuration of timm: images as ``timm.data.create_transform`` makes them.

    Args:
        config: the result of ``timm.data.resolve_model_data_config``.
        size: input height and width in pixels.
        purpose: names the encoder in messages.

    Raises:
        InputError: it crops or interpolates in a way that is not known here.
    """
    share = float(config["crop_pct"])
    mode, interpolation = str(config["crop_mode"]), str(config["interpolation"])
    if interpolation == "random":  # in training; timm's choice where nothing is said
        interpolation = "bicubic"
    if mode not in _RESIZE_MODES or interpolation not in FILTERS:
        raise InputError(
            f"{purpose}: its images are cropped in timm's mode {mode!r} and resized with the "
            f"filter {interpolation!r}, which lookalike does not know; export the model to ONNX, "
            "and open it as onnx:FILE"
        )
    mean = tuple(config["mean"])
    return Preprocessing(
        *size,
        3,
        filter=interpolation,
        resize=tuple(max(1, math.floor(side / share)) for side in size),
        resize_mode=_RESIZE_MODES[mode],
        fill=tuple(round(255 * level) for level in mean) if mode == "border" else (),
        round_offset=True,
        mean=mean,
        std=tuple(config["std"]),
    )
