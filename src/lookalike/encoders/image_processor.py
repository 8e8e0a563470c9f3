"""Preprocessing of published models, from their ``preprocessor_config.json``.

What a field means depends on the kind of image processor that the file names, and on what that kind
does where a field is missing. A field that would change pixels and is not known here is refused by
its name, since embeddings of other pixels are wrong without looking so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lookalike.documents import Fields
from lookalike.encoders.base import MAX_SIDE, MAX_VALUE, MIN_STD, Preprocessing
from lookalike.errors import InputError, LookalikeError
from lookalike.images.decode import FILTERS

_FILTERS = {number.value: name for name, number in FILTERS.items()}
"""By Pillow's numbers."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a kind of image processor does by default.

    Args:
        shorter_side: a ``size`` of one number is that of the shorter side, not a square.
        center_crop: crops to ``crop_size``.
        filter: of resizing.
        scale: the shorter side is resized to ``size`` times this.
    """

    shorter_side: bool = False
    center_crop: bool = False
    filter: str = "bilinear"
    scale: float = 1.0


_KINDS: Mapping[str, _Kind] = {
    "Beit": _Kind(filter="bicubic"),
    "Bit": _Kind(shorter_side=True, center_crop=True, filter="bicubic"),
    "Blip": _Kind(filter="bicubic"),
    "CLIP": _Kind(shorter_side=True, center_crop=True, filter="bicubic"),
    "ChineseCLIP": _Kind(shorter_side=True, center_crop=True, filter="bicubic"),
    "ConvNext": _Kind(shorter_side=True, filter="bicubic"),
    "DINOv3ViT": _Kind(),
    "Deit": _Kind(center_crop=True, filter="bicubic"),
    "EfficientNet": _Kind(filter="bicubic"),
    "Levit": _Kind(shorter_side=True, center_crop=True, filter="bicubic", scale=256 / 224),
    "MobileNetV1": _Kind(shorter_side=True, center_crop=True),
    "MobileNetV2": _Kind(shorter_side=True, center_crop=True),
    "MobileViT": _Kind(shorter_side=True, center_crop=True),
    "Pvt": _Kind(),
    "Segformer": _Kind(),
    "Siglip": _Kind(filter="bicubic"),
    "ViT": _Kind(),
}
"""By the names of classes in transformers, without their endings."""

_BY_LOWER = {name.lower(): name for name in _KINDS}
_CROP_PCT = 224 / 256
_NO_CROP_FROM = 384
"""ConvNeXt stretches images to inputs of at least so many pixels."""

_JINA = "jinaclip"
_JINA_MODES = {"shortest": "cover", "longest": "contain", "squash": "exact"}

_READ = frozenset(
    {
        *("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std"),
        *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
    }
)
_SPECIAL: Mapping[str, frozenset[str]] = {
    "ConvNext": frozenset({"crop_pct"}),
    "EfficientNet": frozenset({"rescale_offset", "include_top"}),
}
_IRRELEVANT = frozenset(
    {
        *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
        *("do_convert_rgb", "do_convert_grayscale", "model_input_names", "num_channels"),
        *("_valid_processor_keys", "return_tensors", "data_format", "input_data_format"),
        *("disable_grouping", "device", "default_to_square", "do_reduce_labels", "reduce_labels"),
        *("transformers_version", "_name_or_path", "_commit_hash", "image_seq_length", "backend"),
        *("pad_size", "use_square_size"),
    }
)
"""Fields that change no pixels, or only together with another field."""


def read_image_processor(
    config: Mapping[str, Any], *, name: str, channels: int = 3
) -> Preprocessing:
    """Translate the configuration of an image processor of transformers.

    Args:
        config: the content of ``preprocessor_config.json``.
        name: of the encoder, for messages.
        channels: of the network's input.

    Raises:
        InputError: its kind is not known, it has a field that changes pixels in a way that is not
            known, or a field is invalid.
    """
    fields = Fields.of(
        dict(config),
        f"encoder {name!r}: its preprocessor_config.json",
        hint="describe the input in a JSON file beside the model and open that: onnx:FILE",
        error=InputError,
    )
    type_name = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    short = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(type_name))
    if short.lower() == _JINA:
        return _jina(fields, channels)
    kind = _BY_LOWER.get(short.lower())
    if kind is None:
        field = "image_processor_type"
        if not type_name:
            raise fields.invalid(field, "")
        raise InputError(
            f"encoder {name!r}: the image processor {str(type_name)[:80]!r} of its "
            f"preprocessor_config.json is not supported (supported: {', '.join(_KINDS)}); "
            f"{fields.hint}"
        )
    known = _READ | _IRRELEVANT | _SPECIAL.get(kind, frozenset())
    for field, value in config.items():
        if field not in known and value is not None and value is not False:
            raise _unknown(fields, field)
    return _translate(fields, kind, channels)


def _unknown(fields: Fields, field: str) -> LookalikeError:
    return InputError(
        f"{fields.place}: the field {field[:80]!r} is not supported, and could change what the "
        f"network sees; {fields.hint}"
    )


def _translate(fields: Fields, kind_name: str, channels: int) -> Preprocessing:
    kind = _KINDS[kind_name]
    if not fields.flag("do_resize", True):
        raise InputError(
            f"{fields.place}: do_resize is false, but all images must have one size; {fields.hint}"
        )
    mean, std = _normalization(fields, kind_name, channels)
    box, mode = _size(fields, kind)
    crop = None
    if _flag(fields, "do_center_crop", default=kind.center_crop):
        crop = _crop_size(fields)
    elif kind_name == "ConvNext":
        crop = box
        if box[0] < _NO_CROP_FROM:
            share = fields.number("crop_pct", 0.1, 1) if fields.has("crop_pct") else _CROP_PCT
            box = (int(box[0] / share),) * 2
        else:
            mode = "exact"
    if kind.scale != 1 and mode == "cover":
        box = (int(kind.scale * box[0]),) * 2
    if crop is None and mode != "exact":
        raise InputError(
            f"{fields.place}: size is that of the shorter side without a center crop, but all "
            f"images must have one size; {fields.hint}"
        )
    height, width = crop or box
    is_stretched = mode == "exact" and (height, width) == box
    return Preprocessing(
        height,
        width,
        channels,
        filter=_filter(fields, kind),
        mean=mean,
        std=std,
        resize=() if is_stretched else box,
        resize_mode="exact" if is_stretched else mode,
    )


def _flag(fields: Fields, name: str, *, default: bool) -> bool:
    return fields.flag(name) if fields.has(name) else default


def _filter(fields: Fields, kind: _Kind) -> str:
    if not fields.has("resample"):
        return kind.filter
    value = fields.values["resample"]
    if isinstance(value, str) and value.lower() in FILTERS:
        return value.lower()
    return _FILTERS[fields.integer("resample", min(_FILTERS), max(_FILTERS))]


def _size(fields: Fields, kind: _Kind) -> tuple[tuple[int, int], str]:
    """Return height and width to resize to, and one of the modes of resizing."""
    size = fields.values.get("size")
    if isinstance(size, int):
        side = fields.integer("size", 1, MAX_SIDE)
        return (side, side), "cover" if kind.shorter_side else "exact"
    if isinstance(size, list):
        sides = fields.integers("size", 1, MAX_SIDE)
        if len(sides) != 2:
            raise fields.invalid("size", "height and width")
        return (sides[0], sides[1]), "exact"
    inner = fields.object("size")
    present = {key for key, value in inner.values.items() if value is not None}
    if present == {"shortest_edge"}:
        side = inner.integer("shortest_edge", 1, MAX_SIDE)
        return (side, side), "cover"
    if present == {"height", "width"}:
        sides = (inner.integer("height", 1, MAX_SIDE), inner.integer("width", 1, MAX_SIDE))
        return (sides[0], sides[1]), "exact"
    raise fields.invalid("size", "pixels, shortest_edge, or height and width")


def _crop_size(fields: Fields) -> tuple[int, int]:
    if not isinstance(fields.values.get("crop_size"), dict):
        side = fields.integer("crop_size", 1, MAX_SIDE)
        return side, side
    inner = fields.object("crop_size")
    return inner.integer("height", 1, MAX_SIDE), inner.integer("width", 1, MAX_SIDE)


def _normalization(
    fields: Fields, kind: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for values in [0, 1], however the file scales them."""
    factor = 255.0
    if _flag(fields, "do_rescale", default=True):
        has_factor = fields.has("rescale_factor")
        factor = fields.number("rescale_factor", 1e-6, 1e6) * 255 if has_factor else 1.0
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    is_offset = kind == "EfficientNet" and _flag(fields, "rescale_offset", default=False)
    offset = 1.0 if is_offset else 0.0
    mean, std = (0.0,) * channels, (1.0,) * channels
    is_standardized = _flag(fields, "do_normalize", default=kind != "MobileViT")
    if is_standardized:
        mean = _numbers(fields, "image_mean", channels, -MAX_VALUE)
        std = _numbers(fields, "image_std", channels, MIN_STD)
    if kind == "EfficientNet" and _flag(fields, "include_top", default=True):
        divisor = _numbers(fields, "image_std", channels, MIN_STD)
        std = tuple(one * other for one, other in zip(std, divisor, strict=True))
    if (factor, offset) == (1, 0) and set(mean) == {0} and set(std) == {1}:
        return (), ()
    return (
        tuple((value + offset) / factor for value in mean),
        tuple(value / factor for value in std),
    )


def _numbers(fields: Fields, name: str, channels: int, low: float) -> tuple[float, ...]:
    if not isinstance(fields.values.get(name), list):
        return (float(fields.number(name, low, MAX_VALUE)),) * channels
    values = fields.numbers(name, low, MAX_VALUE)
    if len(values) != channels:
        raise fields.invalid(name, f"a number, or a list of {channels}")
    return tuple(map(float, values))


def _jina(fields: Fields, channels: int) -> Preprocessing:
    """Translate the fields of jina-clip, whose images are prepared as in open_clip."""
    read = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
    for field, value in fields.values.items():
        if field not in (*read, *_IRRELEVANT) and value is not None and value is not False:
            raise _unknown(fields, field)
    (height, width), _ = _size(fields, _Kind())
    mode = _JINA_MODES[fields.text("resize_mode", "shortest", allowed=_JINA_MODES)]
    fill = fields.values.get("fill_color", 0)
    color = (fill,) * channels if isinstance(fill, int) else fields.integers("fill_color", 0, 255)
    if len(color) != channels or not 0 <= min(color) <= max(color) <= 255:
        raise fields.invalid("fill_color", "a level from 0 to 255, or one for each channel")
    is_exact = mode == "exact"
    return Preprocessing(
        height,
        width,
        channels,
        filter=fields.text("interpolation", "bicubic", allowed=("bicubic", "bilinear")),
        mean=_numbers(fields, "mean", channels, -MAX_VALUE),
        std=_numbers(fields, "std", channels, MIN_STD),
        resize=() if is_exact else (height, width),
        resize_mode=mode,
        fill=color if mode == "contain" and any(color) else (),
        round_offset=not is_exact,
    )
