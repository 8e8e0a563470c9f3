"""Image corruptions of fixed strength, for measuring the robustness of encoders.

Each maps an image, ``(H, W)`` or ``(H, W, 3)`` uint8, to one of the same shape and dtype, and is
deterministic for a seeded generator. :mod:`lookalike.evaluation.robustness` measures whether a
corrupted image still retrieves its original; training has its own augmentations.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

from lookalike.errors import UnknownNameError
from lookalike.images.decode import resize_image
from lookalike.types import ImageArray

CROP_PERCENT = (60, 80)
ROTATION_DEGREES = (5, 15)
_BRIGHTNESS = (1.3, 1.8)
BLUR_PERCENT = 3
NOISE_LEVELS = 25
JPEG_QUALITY = 10
GRAY = 128

_MIN_BLUR = 0.5
_CORNER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Corruption:
    """A kind of corruption; ``summary`` states its strength.

    ``apply(image, rng)`` returns the corrupted image, of the same shape and dtype uint8.
    """

    name: str
    summary: str
    apply: Callable[[ImageArray, np.random.Generator], ImageArray]


def find_corruptions(names: Sequence[str] | None = None) -> tuple[Corruption, ...]:
    """Return corruptions by name in registry order; default all.

    Raises:
        UnknownNameError: no such corruption; the message suggests the nearest name.
    """
    for name in names or ():
        if name not in CORRUPTIONS:
            raise UnknownNameError("corruption", name, CORRUPTIONS)
    return tuple(c for c in CORRUPTIONS.values() if names is None or c.name in names)


def _crop(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Crop a window of the image's aspect ratio and resize it to the image's size.

    The size is kept because some encoders accept only their training size.
    """
    height, width = image.shape[:2]
    scale = np.sqrt(rng.uniform(*CROP_PERCENT) / 100)
    inner_height, inner_width = (max(1, round(side * scale)) for side in (height, width))
    top = int(rng.integers(height - inner_height + 1))
    left = int(rng.integers(width - inner_width + 1))
    window = image[top : top + inner_height, left : left + inner_width]
    return resize_image(np.ascontiguousarray(window), height, width)


def _rotation(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Rotate about the center and fill with the background color."""
    angle = rng.uniform(*ROTATION_DEGREES) * rng.choice([-1, 1])
    rotated = Image.fromarray(image).rotate(
        angle, Image.Resampling.BILINEAR, fillcolor=_background(image)
    )
    return np.asarray(rotated)


def _background(image: ImageArray) -> int | tuple[int, ...]:
    """Return the median color of the four corners, in Pillow's form."""
    side = max(1, round(_CORNER_SHARE * min(image.shape[:2])))
    ends = np.r_[:side, -side:0]
    rows, columns = ends % image.shape[0], ends % image.shape[1]
    corners = image[np.ix_(rows, columns)].reshape(4 * side * side, -1)
    levels = [round(level) for level in np.median(corners, axis=0).tolist()]
    return tuple(levels) if image.ndim == 3 else levels[0]


def _brightness(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Darken or lighten by a factor and a gamma curve of the same strength."""
    strength = rng.uniform(*_BRIGHTNESS) ** rng.choice([-1, 1])
    levels = 255 * strength * (np.arange(256) / 255) ** (1 / strength)
    return _as_pixels(levels)[image]


def _blur(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    del rng
    sigma = max(_MIN_BLUR, BLUR_PERCENT / 100 * min(image.shape[:2]))
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def _noise(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return _as_pixels(image + np.float32(NOISE_LEVELS) * noise)


def _jpeg(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    del rng
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer, formats=("JPEG",)) as saved:
        return np.asarray(saved)


def _occlusion(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Cover a gray rectangle of a third of the height and a third of the width."""
    height, width = image.shape[:2]
    covered_height, covered_width = (max(1, round(side / 3)) for side in (height, width))
    top = int(rng.integers(height - covered_height + 1))
    left = int(rng.integers(width - covered_width + 1))
    covered = image.copy()
    covered[top : top + covered_height, left : left + covered_width] = GRAY
    return covered


def _as_pixels(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> ImageArray:
    return np.asarray(np.rint(np.clip(values, 0, 255)), dtype=np.uint8)


def _range(ends: tuple[float, float], digits: int = 0) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


_ALL = (
    Corruption("crop", f"crop to {_range(CROP_PERCENT)} % of the area", _crop),
    Corruption("rotation", f"by {_range(ROTATION_DEGREES)} degrees in either direction", _rotation),
    Corruption("brightness", f"factor and gamma {_range(_BRIGHTNESS, 1)}, up or down", _brightness),
    Corruption("blur", f"Gaussian, sigma {BLUR_PERCENT} % of the shorter side", _blur),
    Corruption("noise", f"Gaussian, sigma {NOISE_LEVELS} of 255 levels", _noise),
    Corruption("jpeg", f"JPEG compression of quality {JPEG_QUALITY}", _jpeg),
    Corruption("occlusion", "gray rectangle over a ninth of the area", _occlusion),
)

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType({c.name: c for c in _ALL})
"""Every corruption by name, in display order."""
