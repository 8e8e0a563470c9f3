"""The encoder protocol, and the preprocessing that belongs to an encoder."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import manifest_bytes
from lookalike.documents import Fields
from lookalike.errors import ArtifactError, ImageError, InputError, UnknownNameError
from lookalike.images.decode import FILTERS, pad_image, resize_image, to_channels
from lookalike.types import Embeddings, ImageArray

MANIFEST = "encoder.json"

FIT_MODES = ("crop", "stretch", "white", "border")
"""How an image is fitted to the input size: center crop, stretch, or pad with white or with the
border color."""

MAX_DIM = 1_000_000
"""Longest embedding."""

MAX_SIDE = 4096
"""Largest height and width of an encoder's input, in pixels."""

MIN_STD, MAX_VALUE = 1e-6, 1e6
"""Smallest divisor and largest size of ``mean`` and ``std``."""

MIN_CROP = 0.01
"""Smallest center crop that a file may ask for."""

NATIVE_LIMIT = 64
"""Images that all have one size of at most this many pixels a side are not resized."""


class Encoder(ABC):
    """Maps images to embeddings. Subclasses implement :meth:`encode_batch` for decoded images.

    Encoding an image alone equals encoding it in a batch. ``normalized`` says whether embeddings
    have unit length; ``fingerprint`` is a SHA-256 over weights and preprocessing: encoders with
    equal fingerprints compute equal embeddings.
    """

    if TYPE_CHECKING:  # fields or properties of subclasses

        @property
        def name(self) -> str:
            """Name in the registry, or of the recipe that trained it."""

        @property
        def dim(self) -> int:
            """Length of an embedding."""

        @property
        def normalized(self) -> bool:
            """Whether every embedding has unit length (zero vectors excepted)."""

        @property
        def fingerprint(self) -> str:
            """SHA-256 of weights and preprocessing, as hexadecimal."""

    @abstractmethod
    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: the encoder does not accept an image's size.
        """

    @abstractmethod
    def files(self) -> Mapping[str, bytes]:
        """Return the weight files; :meth:`describe` and these restore the encoder."""

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Return the fields of ``encoder.json``: kind, preprocessing, parameters, origin."""

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return the embeddings of images."""
        return self.encode_batch(images)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resizes images to one size and converts their channels.

    Args:
        height: in pixels.
        width: in pixels.
        channels: 1 (gray, ITU-R 601 luma) or 3 (RGB).
        exact: refuse images of another size instead of resizing them.
        filter: ``bilinear`` or ``bicubic``, both antialiased.
        crop: center crop of this share of the shorter side, instead of stretching.
        mean: subtracted from each channel's values in [0, 1]; default 0.
        std: divisor of each channel after that; default 1.
        pad: keep the aspect ratio and pad both sides equally, with ``white`` or the median color
            of the ``border``, instead of stretching.
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
        if not 1 <= min(sizes) <= max(sizes) <= MAX_SIDE or self.channels not in (1, 3):
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
        cls,
        images: Sequence[ImageArray],
        *,
        size: int,
        min_size: int = 1,
        channels: int | None = None,
    ) -> Self:
        """Choose size and channels for a sample of a collection.

        Small images that share one size of at least ``min_size`` pixels keep it; others are
        stretched to ``size`` x ``size``. Gray stays gray unless ``channels`` says otherwise.

        Raises:
            InputError: the sample is empty.
        """
        if len(images) == 0:
            raise InputError("cannot fit an encoder: the sample has no images")
        shapes = {image.shape[:2] for image in images}
        height, width = shapes.pop() if len(shapes) == 1 else (0, 0)
        if not min_size <= min(height, width) <= max(height, width) <= NATIVE_LIMIT:
            height = width = size
        if channels is None:
            channels = 3 if any(image.ndim == 3 for image in images) else 1
        return cls(height, width, channels)

    @classmethod
    def restore(cls, fields: Fields) -> Self:
        """Restore from :meth:`as_dict`.

        Raises:
            ArtifactError: a field is missing, unknown or invalid.
        """
        fields.only([each.name for each in dataclass_fields(cls)])
        channels = fields.integer("channels", 1, 3)
        if channels == 2:
            raise fields.invalid("channels", "1 or 3")
        pad = fields.text("pad", allowed=("white", "border")) if fields.has("pad") else None
        crop = fields.number("crop", MIN_CROP, 1) if fields.has("crop") else None
        if pad is not None and crop is not None:
            raise fields.invalid("crop", "left out with pad")
        # Numbers stay as they were written: 1 and 1.0 have other fingerprints.
        mean = fields.numbers("mean", -MAX_VALUE, MAX_VALUE) if fields.has("mean") else ()
        std = fields.numbers("std", MIN_STD, MAX_VALUE) if fields.has("std") else ()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (0, channels):
                raise fields.invalid(name, f"a list of {channels} numbers")
        return cls(
            fields.integer("height", 1, MAX_SIDE),
            fields.integer("width", 1, MAX_SIDE),
            channels,
            exact=fields.flag("exact"),
            filter=fields.text("filter", "bilinear", allowed=FILTERS),
            crop=crop,
            mean=mean,
            std=std,
            pad=pad,
        )

    def with_fit(self, mode: str) -> Self:
        """Return a copy with another of :data:`FIT_MODES`; ``crop`` keeps an existing crop share.

        Raises:
            UnknownNameError: no such mode.
        """
        if mode not in FIT_MODES:
            raise UnknownNameError("fit", mode, FIT_MODES)
        if mode == "crop":
            return replace(self, pad=None, crop=self.crop or 1.0)
        return replace(self, crop=None, pad=None if mode == "stretch" else mode)

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
                    f"the image is {image.shape[1]}x{image.shape[0]} pixels, but the encoder "
                    f"accepts only {self.width}x{self.height}, its training size; resize the "
                    "image, or index with an encoder that accepts any size (see: lookalike "
                    "encoders)"
                )
            if self.pad is not None:
                image = pad_image(image, self.height / self.width, self.pad)
            scaled = resize_image(
                image, self.height, self.width, filter=self.filter, crop=self.crop
            )
            row[:] = to_channels(scaled, self.channels)
        return out

    def _is_ready(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> bool:
        """Return whether a stack of gray images needs only a channel axis."""
        if self.channels != 1 or self.crop not in (None, 1) or not isinstance(images, np.ndarray):
            return False
        return images.shape[1:] == (self.height, self.width)

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the result of :meth:`apply` as network input: ``(n, c, height, width)`` float32.

        Values are scaled to [0, 1], then standardized by ``mean`` and ``std``.
        """
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        values /= np.float32(255)
        if self.mean:
            values -= np.asarray(self.mean, np.float32)[:, None, None]
        if self.std:
            values /= np.asarray(self.std, np.float32)[:, None, None]
        return values

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, optional ones only where they differ from defaults."""
        always = ("height", "width", "channels", "exact")
        defaults = {field.name: field.default for field in dataclass_fields(self)}
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


def require_file(description: Fields, files: Mapping[str, bytes], name: str) -> bytes:
    """Return a file of an encoder.

    Raises:
        ArtifactError: it is missing.
    """
    if name not in files:
        encoder = description.text("name")
        raise ArtifactError(
            f"{description.place}: the file {name} of encoder {encoder!r} is missing; "
            f"{description.hint}"
        )
    return files[name]


def encoder_files(encoder: Encoder) -> dict[str, bytes]:
    """Return the files of an encoder's folder by name, ``encoder.json`` last."""
    files = dict(encoder.files())
    fields = {
        **encoder.describe(),
        "dim": encoder.dim,
        "normalized": encoder.normalized,
        "files": sorted(files),
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        "fingerprint": encoder.fingerprint,
    }
    return {**files, MANIFEST: manifest_bytes(fields)}
