"""Configurations of image processors are translated to what transformers does with them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.image_processor import read_image_processor
from lookalike.errors import InputError
from lookalike.types import ImageArray
from tests.conftest import Require

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
STANDARD: dict[str, Any] = {"image_mean": MEAN, "image_std": STD}
SQUARE = {"height": 24, "width": 24}
_RNG = np.random.default_rng(0)
IMAGES: list[ImageArray] = [
    _RNG.integers(0, 256, shape, dtype=np.uint8)
    for shape in ((40, 61, 3), (61, 40, 3), (20, 21, 3))
]

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "clip": (
        "clip",
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 30}}
        | {"crop_size": SQUARE, "resample": 3, "do_convert_rgb": True},
    ),
    "clip, one number": (
        "clip",
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24},
    ),
    "clip, a crop larger than the image": (
        "clip",
        {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 20}}
        | {"crop_size": SQUARE, "resample": 2},
    ),
    "clip, not a square": (
        "clip",
        {"image_processor_type": "CLIPImageProcessor", "size": {"height": 30, "width": 26}}
        | {"crop_size": {"height": 28, "width": 20}, "resample": 1},
    ),
    "clip, not standardized": (
        "clip",
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}}
        | {"crop_size": SQUARE, "do_normalize": False},
    ),
    "clip, not rescaled": (
        "clip",
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}}
        | {"crop_size": SQUARE, "do_rescale": False},
    ),
    "bit": (
        "bit",
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 27}}
        | {"crop_size": SQUARE, "rescale_factor": 1 / 127.5},
    ),
    "vit": ("vit", {"image_processor_type": "ViTFeatureExtractor", "size": 24, "resample": 0}),
    "siglip": ("siglip", {"image_processor_type": "SiglipImageProcessor", "size": SQUARE}),
    "deit": (
        "deit",
        {"image_processor_type": "DeiTImageProcessor", "size": 28, "crop_size": 24},
    ),
    "beit": (
        "beit",
        {"image_processor_type": "BeitImageProcessor", "size": SQUARE, "do_reduce_labels": False},
    ),
    "levit": (
        "levit",
        {"feature_extractor_type": "LevitFeatureExtractor", "size": {"shortest_edge": 24}}
        | {"crop_size": SQUARE},
    ),
    "convnext": (
        "convnext",
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 24}}
        | {"crop_pct": 0.8},
    ),
    "convnext, large": (
        "convnext",
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    ),
    "efficientnet": (
        "efficientnet",
        {"image_processor_type": "EfficientNetImageProcessor", "size": SQUARE}
        | {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": False},
    ),
    "mobilenet": (
        "mobilenet_v2",
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 26}}
        | {"crop_size": SQUARE, "resample": 2},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGS)
def test_pixels_are_those_of_transformers(case: str, require: Require) -> None:
    require(find_spec("transformers"), "transformers is not installed")
    from tests.hub_models import pil_processor, processed

    module, fields = CONFIGS[case]
    config = {**STANDARD, **fields}
    current = dict(config)
    if isinstance(config["size"], int) and module in ("clip", "bit"):
        current["size"] = {"shortest_edge": config["size"]}
    expected = processed(pil_processor(module, current), IMAGES).numpy()
    preprocessing = read_image_processor(config, name="m")
    actual = preprocessing.scaled(preprocessing.apply(IMAGES))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_what_newer_files_say_in_vain_changes_nothing() -> None:
    config = {**STANDARD, "image_processor_type": "SiglipImageProcessor", "size": SQUARE}
    plain = read_image_processor(config, name="m")
    assert plain == Preprocessing(24, 24, 3, filter="bicubic", mean=tuple(MEAN), std=tuple(STD))
    more: dict[str, Any] = {
        "do_pad": None,
        "pad_size": None,
        "crop_size": None,
        "data_format": "channels_first",
    }
    more |= {"_valid_processor_keys": ["size"], "do_center_crop": None, "do_thumbnail": False}
    assert read_image_processor(config | more, name="m") == plain


JINA = {
    "image_processor_type": "JinaCLIPImageProcessor",
    "size": 24,
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def test_jina_has_its_own_names() -> None:
    shortest = read_image_processor(JINA, name="m")
    assert (shortest.resize, shortest.resize_mode) == ((24, 24), "cover")
    assert shortest.round_offset
    longest = read_image_processor(JINA | {"resize_mode": "longest", "fill_color": 9}, name="m")
    assert (longest.resize_mode, longest.fill) == ("contain", (9, 9, 9))
    squash = read_image_processor(JINA | {"resize_mode": "squash", "size": [24, 30]}, name="m")
    assert (squash.height, squash.width, squash.resize) == (24, 30, ())


CLIP = CONFIGS["clip"][1] | STANDARD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor' of its"),
        ({"image_processor_type": ""}, "field 'image_processor_type'"),
        ({"do_flip_channel_order": True}, "'do_flip_channel_order' is not supported"),
        ({"do_pad": True}, "the field 'do_pad' is not supported"),
        ({"crop_pct": 0.9}, "the field 'crop_pct' is not supported"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_center_crop": False}, "the shorter side without a center crop"),
        ({"size": {"longest_edge": 24}}, "field 'size' must be pixels, shortest_edge"),
        ({"size": "24"}, "field 'size' must be .*, not '24'"),
        ({"size": [24]}, "must be height and width, not"),
        ({"size": 100_000}, "'size' must be a whole number from 1 to 4,096, not 100000"),
        ({"crop_size": {"height": 24}}, "field 'crop_size.width' is missing"),
        ({"resample": 9}, "field 'resample' must be .*, not 9"),
        ({"image_std": [0.1, 0.2]}, "a list of 3"),
        ({"image_std": [0, 0, 0]}, "field 'image_std'"),
        ({"rescale_factor": "x"}, "field 'rescale_factor'"),
        ({**JINA, "resize_mode": "fit"}, "field 'resize_mode'"),
    ],
)
def test_what_would_change_pixels_unknown_is_refused(changes: dict[str, Any], message: str) -> None:
    config = changes if "resize_mode" in changes else CLIP | changes
    with pytest.raises(InputError, match=message):
        read_image_processor(config, name="m")
