"""What an encoder is, and how images are brought to the size and channels that it works on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import manifest_bytes
from lookalike.errors import ImageError, InputError, UnknownNameError
from lookalike.images.decode import FILTERS, pad_image, resize_image, to_channels
from lookalike.types import Embeddings, ImageArray

MANIFEST = "encoder.json"

FIT_MODES = ("crop", "stretch", "white", "border")
"""How an image becomes a square: its middle, all of it stretched, or all of it with white beside
it, or with the color of its border."""

NATIVE_LIMIT = 64
"""Images that all share one size of at most this many pixels a side are used as they are."""


class Encoder(Protocol):
    """Images in, embeddings out. An image alone gets the embedding it gets inside a batch.

    ``normalized`` says whether embeddings have unit length; ``fingerprint`` is a SHA-256 over
    weights and preprocessing, so that two encoders with the same one give the same embeddings.
    """

    @property
    def name(self) -> str:
        """Its name in the registry, or that of the recipe it was trained by."""
        ...

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def normalized(self) -> bool:
        """Whether every embedding has unit length (zero vectors excepted)."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of what it computes, as hexadecimal."""
        ...

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: an image is not of a size that the encoder takes.
        """
        ...

    def files(self) -> Mapping[str, bytes]:
        """Return the files that, with :meth:`describe`, make it again."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what ``encoder.json`` holds: kind, preprocessing, parameters, origin."""
        ...


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Brings images to one size and number of channels.

    Args:
        height: rows, in pixels.
        width: columns, in pixels.
        channels: 1 (gray, ITU-R 601 luma) or 3 (RGB).
        exact: refuse images of another size rather than stretch them to this one.
        filter: ``bilinear`` or ``bicubic``, both antialiased.
        crop: instead of stretching the whole image, take the middle of it: this share of its
            shorter side.
        mean: taken from each channel's values in [0, 1] (0 unless given).
        std: what they are divided by then (1 unless given).
        pad: instead of stretching the whole image, keep its proportions and fill what is left, in
            equal parts on both sides, with ``white`` or the middle color of its ``border``.
    """

    height: int
    width: int
    channels: int
    exact: bool = False
    filter: str = "bilinear"
    crop: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    pad: str | None = None

    def __post_init__(self) -> None:
        sizes = (self.height, self.width)
        if min(sizes) < 1 or self.channels not in (1, 3):
            raise ValueError(f"size {sizes} with {self.channels} channels")
        if self.filter not in FILTERS:
            raise ValueError(f"filter {self.filter!r}, expected {' or '.join(FILTERS)}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop {self.crop}, expected a share above 0 and at most 1")
        if self.pad not in (None, "white", "border"):
            raise ValueError(f"pad {self.pad!r}, expected white or border")
        if self.pad is not None and self.crop is not None:
            raise ValueError("crop and pad exclude each other")

    @classmethod
    def for_sample(
        cls, images: Sequence[ImageArray], *, size: int, min_size: int = 1, channels: int | None = None
    ) -> Self:
        """Choose for a sample of a collection.

        Small images of one size keep it, unless that is below ``min_size`` pixels; others are
        stretched to ``size`` x ``size``. Gray stays gray unless ``channels`` says otherwise.

        Raises:
            InputError: the sample is empty.
        """
        if len(images) == 0:
            raise InputError("an encoder was to be fitted to no images at all")
        shapes = {image.shape[:2] for image in images}
        height, width = shapes.pop() if len(shapes) == 1 else (0, 0)
        if not min_size <= min(height, width) <= max(height, width) <= NATIVE_LIMIT:
            height = width = size
        if channels is None:
            channels = 3 if any(image.ndim == 3 for image in images) else 1
        return cls(height, width, channels)

    def with_fit(self, fit: str) -> Self:
        """Return the same with another of :data:`FIT_MODES`; ``crop`` keeps a crop that is set.

        Raises:
            UnknownNameError: no such fit.
        """
        if fit not in FIT_MODES:
            raise UnknownNameError("fit", fit, FIT_MODES)
        if fit == "crop":
            return replace(self, pad=None, crop=self.crop or 1.0)
        return replace(self, crop=None, pad=None if fit == "stretch" else fit)

    def apply(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return ``(n, height, width, channels)`` uint8.

        Raises:
            ImageError: ``exact`` is set and an image has another size.
        """
        if self._is_ready(images):
            return np.asarray(images)[..., None]
        out = np.empty((len(images), self.height, self.width, self.channels), np.uint8)
        for row, image in zip(out, images, strict=True):
            if self.exact and image.shape[:2] != (self.height, self.width):
                raise ImageError(
                    f"the image is {image.shape[1]}x{image.shape[0]} pixels; this encoder takes "
                    f"{self.width}x{self.height} only, the size it was trained on: crop or scale "
                    "the image to it, or index with an encoder that takes any size "
                    "(lookalike encoders)"
                )
            size = (self.height, self.width)
            if self.pad is not None:
                image = pad_image(image, self.height / self.width, self.pad)
            scaled = resize_image(image, *size, filter=self.filter, crop=self.crop)
            row[:] = to_channels(scaled, self.channels)
        return out

    def _is_ready(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> bool:
        """Tell whether a stack of gray images needs nothing but a channel axis."""
        if self.channels != 1 or self.crop not in (None, 1) or not isinstance(images, np.ndarray):
            return False
        return images.shape[1:] == (self.height, self.width)

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return ``(n, channels, height, width)`` float32 of what :meth:`apply` returned."""
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        values /= np.float32(255)
        if self.mean:
            values -= np.asarray(self.mean, np.float32)[:, None, None]
        if self.std:
            values /= np.asarray(self.std, np.float32)[:, None, None]
        return values

    def as_dict(self) -> dict[str, Any]:
        """Return as JSON values the fields that are not what they are unless given."""
        always = ("height", "width", "channels", "exact")
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in always or value != defaults[name]
        }


def fingerprint(description: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Hash a description (as canonical JSON) and files (by name) with SHA-256."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def encoder_files(encoder: Encoder) -> dict[str, bytes]:
    """Return what an encoder's folder holds, by name, ``encoder.json`` last."""
    files = dict(encoder.files())
    facts = {"dim": encoder.dim, "normalized": encoder.normalized}
    said = {**encoder.describe(), **facts, "files": sorted(files)}
    manifest = manifest_bytes({**said, "fingerprint": encoder.fingerprint})
    return {**files, MANIFEST: manifest}
