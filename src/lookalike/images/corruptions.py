"""Corruptions of one image by name, of stated strength: what an encoder is tried with.

Each takes an image, ``(H, W)`` or ``(H, W, 3)`` uint8, and gives one of the same shape and kind;
drawn with the same generator it is the same again. They are for measuring, not for training:
:mod:`lookalike.evaluation.robustness` asks whether a corrupted image still finds its original.
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

CROPPED_PERCENT = (60, 80)
ROTATION_DEGREES = (5, 15)
BRIGHTNESS = (1.3, 1.8)
BLUR_PERCENT = 3
NOISE_LEVELS = 25
JPEG_QUALITY = 10
GRAY = 128

_LEAST_BLUR = 0.5
_CORNER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Corruption:
    """One kind of corruption; ``summary`` says in words and numbers how strong it is.

    ``apply(image, rng)`` returns the corrupted image, of the same shape, uint8.
    """

    name: str
    summary: str
    apply: Callable[[ImageArray, np.random.Generator], ImageArray]


def find_corruptions(names: Sequence[str] | None = None) -> tuple[Corruption, ...]:
    """Return the corruptions of these names in the order of the registry; without names, all.

    Raises:
        UnknownNameError: there is none of that name; the nearest is offered.
    """
    for name in names or ():
        if name not in CORRUPTIONS:
            raise UnknownNameError("corruption", name, CORRUPTIONS)
    return tuple(d for d in CORRUPTIONS.values() if names is None or d.name in names)


def _crop(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Cut out a window in the image's own proportions and stretch it to the image's size.

    The size is kept since some encoders refuse any other than the one they were trained on.
    """
    height, width = image.shape[:2]
    scale = np.sqrt(rng.uniform(*CROPPED_PERCENT) / 100)
    inner_height, inner_width = (max(1, round(side * scale)) for side in (height, width))
    top = int(rng.integers(height - inner_height + 1))
    left = int(rng.integers(width - inner_width + 1))
    window = image[top : top + inner_height, left : left + inner_width]
    return resize_image(np.ascontiguousarray(window), height, width)


def _rotation(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Turn about the center; what comes into view has the color of the background."""
    angle = rng.uniform(*ROTATION_DEGREES) * rng.choice([-1, 1])
    turned = Image.fromarray(image).rotate(
        angle, Image.Resampling.BILINEAR, fillcolor=_background(image)
    )
    return np.asarray(turned)


def _background(image: ImageArray) -> int | tuple[int, ...]:
    """Estimate the background as the median of the four corners, as Pillow takes a color."""
    side = max(1, round(_CORNER_SHARE * min(image.shape[:2])))
    ends = np.r_[:side, -side:0]
    rows, columns = ends % image.shape[0], ends % image.shape[1]
    corners = image[np.ix_(rows, columns)].reshape(4 * side * side, -1)
    levels = [round(level) for level in np.median(corners, axis=0).tolist()]
    return tuple(levels) if image.ndim == 3 else levels[0]


def _brightness(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Make all of it darker or lighter, by a factor and by a gamma curve of the same strength."""
    strength = rng.uniform(*BRIGHTNESS) ** rng.choice([-1, 1])
    levels = 255 * strength * (np.arange(256) / 255) ** (1 / strength)
    return _as_pixels(levels)[image]


def _blur(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    del rng
    sigma = max(_LEAST_BLUR, BLUR_PERCENT / 100 * min(image.shape[:2]))
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
    """Cover a third of the height by a third of the width: a square where the image is one."""
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


_KINDS = (
    Corruption("crop", f"a window of {_range(CROPPED_PERCENT)} % of the area", _crop),
    Corruption("rotation", f"by {_range(ROTATION_DEGREES)} degrees, either way", _rotation),
    Corruption("brightness", f"factor and gamma {_range(BRIGHTNESS, 1)}, either way", _brightness),
    Corruption("blur", f"Gaussian, sigma {BLUR_PERCENT} % of the shorter side", _blur),
    Corruption("noise", f"Gaussian, sigma {NOISE_LEVELS} of 255 levels", _noise),
    Corruption("jpeg", f"saved as JPEG of quality {JPEG_QUALITY}", _jpeg),
    Corruption("occlusion", "a ninth of the area covered with gray", _occlusion),
)

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every corruption by name, in the order in which they are shown."""
