"""The encoder protocol, and the preprocessing that belongs to an encoder."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import ENCODER_MANIFEST
from lookalike.documents import Fields
from lookalike.errors import (
    TEXT_COMMAND,
    ArtifactError,
    ImageError,
    InputError,
    SettingError,
    UnknownNameError,
)
from lookalike.files import valid_text
from lookalike.formatting import printable
from lookalike.images.decode import (
    FILTERS,
    RESIZE_MODES,
    Resize,
    pad_image,
    resize_and_crop,
    resize_image,
    to_channels,
)
from lookalike.progress import ProgressOption, reporting
from lookalike.sources.inputs import (
    ManyImages,
    OneImage,
    ValueRange,
    count_of,
    stream_images,
)
from lookalike.types import MAX_DIM as MAX_DIM
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

MANIFEST = ENCODER_MANIFEST

FIT_MODES = ("crop", "stretch", "white", "border")
"""How an image is fitted to the input size: center crop, stretch, or pad with white or with the
border color."""

MAX_SIDE = 4096
"""Largest height and width of an encoder's input, in pixels."""

MIN_STD, MAX_VALUE = 1e-6, 1e6
"""Smallest divisor and largest size of ``mean`` and ``std``."""

MIN_CROP = 0.01
"""Smallest center crop that a file may ask for."""

NATIVE_LIMIT = 64
"""Images that all have one size of at most this many pixels a side are not resized."""


class Encoder(ABC):
    """Maps images to embeddings.

    Users call :meth:`encode`. Subclasses implement :meth:`encode_batch` for decoded images,
    :meth:`files` and :meth:`describe`; the rest is written once, here.

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

    @property
    def is_available(self) -> bool:
        """Whether it can encode; not if it is a function of the user's that is not here."""
        return True

    @property
    def supports_text(self) -> bool:
        """Whether it embeds texts too, so that a text finds images."""
        return type(self).encode_text_batch is not Encoder.encode_text_batch

    def encode(
        self,
        images: OneImage | ManyImages,
        *,
        batch_size: int = 64,
        show_progress: ProgressOption | None = None,
        value_range: ValueRange | None = None,
        allow_urls: bool = False,
        allow_private_urls: bool = False,
    ) -> Embeddings:
        """Return the embedding of an image, ``(dim,)`` float32, or of n images, ``(n, dim)``.

        Images are decoded in threads; no more than a batch and what is read ahead is in memory.

        Args:
            images: one image or several, in any of the forms of
                :data:`lookalike.sources.inputs.OneImage`: paths, bytes, file objects, PIL images,
                uint8 arrays, tensors, items of a source. An array ``(H, W, 3)`` is one image,
                ``(N, H, W, 3)`` are several.
            batch_size: images that are encoded at a time, at least 1.
            show_progress: True, False, or a callback; None shows it for more than one batch, on a
                terminal or in a notebook.
            value_range: values of black and white in arrays that are not uint8, as ``(0, 1)``.
            allow_urls: fetch URLs.
            allow_private_urls: fetch URLs also from hosts that are not on the public internet.

        Raises:
            InputError: not images, none at all, or arrays that are not uint8 without
                ``value_range``.
            ImageError: an image cannot be decoded, or the encoder does not accept it.
            SettingError: a parameter is out of range.
        """
        from lookalike.encoders.batching import encode_inputs

        check_batch_size(batch_size)
        batch_size = int(batch_size)
        single, inputs = stream_images(
            images,
            value_range=value_range,
            allow_urls=allow_urls,
            allow_private_urls=allow_private_urls,
        )
        total = 1 if single else count_of(images)
        show = total is None or total > batch_size if show_progress is None else show_progress
        with reporting(show) as on_progress:
            rows = encode_inputs(self, inputs, batch_size, total, on_progress)
        return rows[0] if single else rows

    def encode_text(
        self, texts: str | Sequence[str], *, templates: Sequence[str] = ()
    ) -> Embeddings:
        """Return the embedding of a text, ``(dim,)`` float32, or of n texts, ``(n, dim)``.

        Args:
            texts: one text or several.
            templates: sentences such as ``"a photo of a {}"``. The embedding of a text is then the
                mean of its embeddings in each of them, as a direction (Radford et al. 2021, section
                3.1.4). Whether that helps depends on network and images: measure it.

        Raises:
            InputError: the encoder supports images only, or ``texts`` is no text and no texts, or a
                text is empty.
            SettingError: ``templates`` are not texts that have ``{}`` once.
            MissingDependencyError: a package for texts is not installed.
        """
        if not self.supports_text:
            return self.encode_text_batch(())
        several = [texts] if isinstance(texts, str) else texts
        if isinstance(several, bytes | Mapping | Set) or not isinstance(several, Iterable):
            raise InputError(
                f"texts: expected a text or a list of texts, not {type(texts).__name__}"
            )
        several = list(several)
        for number, text in enumerate(several):
            if not isinstance(text, str):
                raise InputError(f"texts[{number}]: expected a text, not {type(text).__name__}")
            if not text.strip():
                raise InputError("the text query is empty")
            if valid_text(text) != text:
                raise InputError(f"the text query has bytes that are no text: {printable(text)}")
        if not several:
            raise InputError("texts: has no texts; pass a text or a list of texts")
        rows = self._encode_in_templates(several, templates)
        return rows[0] if isinstance(texts, str) else rows

    def _encode_in_templates(self, texts: Sequence[str], templates: Sequence[str]) -> Embeddings:
        """Return the embeddings of texts; with templates, the directions of their means."""
        if isinstance(templates, str) or not all(
            isinstance(each, str) and each.count("{}") == 1 for each in templates
        ):
            raise SettingError(
                "{templates} must be a list of texts with one {} each, as 'a photo of a {}'",
                templates=None,
            )
        if not templates:
            return self.encode_text_batch(texts)
        sentences = [template.replace("{}", text) for template in templates for text in texts]
        rows = unit_rows(self.encode_text_batch(sentences))
        return unit_rows(rows.reshape(len(templates), len(texts), -1).mean(axis=0))

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n texts, none of them empty.

        Subclasses that embed texts implement it; :meth:`encode_text` is what others call.

        Raises:
            InputError: the encoder supports images only.
        """
        del texts
        raise InputError(
            f"encoder {self.name!r} supports images only; for text queries: {TEXT_COMMAND}"
        )

    def __repr__(self) -> str:
        normalized = " normalized" if self.normalized else ""
        return (
            f"<Encoder {self.name!r} dim={self.dim}{normalized} "
            f"fingerprint={self.fingerprint[:8]}…>"
        )


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resizes images to one size and converts their channels.

    Args:
        height: in pixels.
        width: in pixels.
        channels: 1 (gray, ITU-R 601 luma) or 3 (RGB).
        exact: refuse images of another size instead of resizing them.
        filter: one of :data:`lookalike.images.decode.FILTERS`, such as ``bilinear`` or
            ``bicubic``, all antialiased but ``nearest``.
        crop: center crop of this share of the shorter side, instead of stretching.
        mean: subtracted from each channel's values in [0, 1]; default 0.
        std: divisor of each channel after that; default 1.
        pad: keep the aspect ratio and pad both sides equally, with ``white`` or the median color
            of the ``border``, instead of stretching.
        resize: height and width to resize to before a center crop of ``height`` x ``width``, as
            networks are trained, instead of stretching.
        resize_mode: one of :data:`lookalike.images.decode.RESIZE_MODES`.
        fill: levels from 0 to 255 of what the crop has outside of the resized image, one for each
            channel; default 0.
        round_offset: round the place of the crop as torchvision does
            (:class:`lookalike.images.decode.Resize`).
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
    resize: Sequence[int] = ()
    resize_mode: str = "exact"
    fill: Sequence[int] = ()
    round_offset: bool = False

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
        if (self.pad is not None) + (self.crop is not None) + bool(self.resize) > 1:
            raise ValueError("crop, pad and resize exclude each other")
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode {self.resize_mode!r}, expected {RESIZE_MODES}")
        if self.resize and (len(self.resize) != 2 or not 1 <= min(self.resize) <= MAX_SIDE):
            raise ValueError(f"resize {self.resize!r}, expected height and width")

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
        resize = fields.integers("resize", 1, MAX_SIDE) if fields.has("resize") else ()
        if resize and (len(resize) != 2 or pad is not None or crop is not None):
            raise fields.invalid("resize", "height and width, without crop and pad")
        fill = fields.integers("fill", 0, 255) if fields.has("fill") else ()
        # Numbers stay as they were written: 1 and 1.0 have other fingerprints.
        mean = fields.numbers("mean", -MAX_VALUE, MAX_VALUE) if fields.has("mean") else ()
        std = fields.numbers("std", MIN_STD, MAX_VALUE) if fields.has("std") else ()
        for name, values in (("mean", mean), ("std", std), ("fill", fill)):
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
            resize=resize,
            resize_mode=fields.text("resize_mode", "exact", allowed=RESIZE_MODES),
            fill=fill,
            round_offset=fields.flag("round_offset", False),
        )

    def with_size(self, height: int, width: int) -> Self:
        """Return a copy with another input size; ``resize`` keeps its ratio to it.

        Raises:
            SettingError: the size is out of range.
        """
        sizes = (height, width)
        resize: tuple[int, ...] = ()
        if self.resize:
            before = (self.height, self.width)
            resize = tuple(
                max(1, round(side * new / old))
                for side, new, old in zip(self.resize, sizes, before, strict=True)
            )
        if not 1 <= min(*sizes, *resize) <= max(*sizes, *resize) <= MAX_SIDE:
            raise SettingError(f"{{size}} must be from 1 to {MAX_SIDE} pixels", size=max(sizes))
        return replace(self, height=height, width=width, resize=resize)

    def with_fit(self, mode: str) -> Self:
        """Return a copy with another of :data:`FIT_MODES`; ``crop`` keeps an existing crop.

        Raises:
            UnknownNameError: no such mode.
        """
        if mode not in FIT_MODES:
            raise UnknownNameError("fit", mode, FIT_MODES)
        if mode == "crop" and self.resize and self.resize_mode == "cover":
            return self
        plain = replace(self, resize=(), resize_mode="exact", fill=(), round_offset=False)
        if mode == "crop":
            return replace(plain, pad=None, crop=self.crop or 1.0)
        return replace(plain, crop=None, pad=None if mode == "stretch" else mode)

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
            row[:] = to_channels(self._fitted(image), self.channels)
        return out

    def _fitted(self, image: ImageArray) -> ImageArray:
        """Return an image of the input's height and width."""
        if self.resize:
            height, width = self.resize
            resize = Resize(height, width, self.resize_mode, self.fill or (0,), self.round_offset)
            return resize_and_crop(image, resize, (self.height, self.width), filter=self.filter)
        if self.pad is not None:
            image = pad_image(image, self.height / self.width, self.pad)
        return resize_image(image, self.height, self.width, filter=self.filter, crop=self.crop)

    def _is_ready(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> bool:
        """Return whether a stack of gray images needs only a channel axis."""
        if self.channels != 1 or self.crop not in (None, 1) or not isinstance(images, np.ndarray):
            return False
        if self.resize:
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


def check_batch_size(batch_size: int) -> None:
    """Check a number of images that are encoded at a time.

    Raises:
        SettingError: it is no number of at least 1.
    """
    is_number = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if not is_number or batch_size < 1:
        raise SettingError("{batch_size} must be a number of at least 1", batch_size=batch_size)


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
