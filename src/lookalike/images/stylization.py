"""Synthetic drawings: an item restyled with flat colors, outlines, another palette and shape.

Keeps what drawings of one item by two illustrators share, and changes what differs between their
styles. A seeded generator makes results reproducible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lookalike.images.decode import resize_image, shrink_image, to_channels
from lookalike.images.foreground import Mask, find_foreground
from lookalike.images.pixel_filters import dilate, erode, gaussian_blur, sample_bilinear, sobel
from lookalike.types import ImageArray

MAX_SIDE = 160
"""Largest longer side of a drawing in pixels."""

_WHITE = 255.0

_P_FLAT_COLORS, _P_SHADING, _P_GRAY, _P_OUTLINES, _P_ELASTIC = 0.6, 0.4, 0.1, 0.5, 0.7
"""Probability of each effect; without flat colors, the colors are shifted."""


def restyle(image: ImageArray, rng: np.random.Generator, *, mask: Mask | None = None) -> ImageArray:
    """Return the item of an image in another style on white: RGB, at most 160 pixels a side.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        rng: source of all randomness.
        mask: of the item, ``(H, W)`` in [0, 1]; default
            :func:`lookalike.images.foreground.find_foreground`.
    """
    image = to_channels(shrink_image(image, MAX_SIDE), 3)
    if mask is None:
        mask = find_foreground(image).mask
    elif mask.shape != image.shape[:2]:
        mask = _resize_mask(mask, image.shape[:2])
    alpha = mask[:, :, None]
    values = image * alpha + _WHITE * (1 - alpha)
    values = (
        _flatten_colors(values, rng) if rng.random() < _P_FLAT_COLORS else _shift_all(values, rng)
    )
    if rng.random() < _P_SHADING:
        values = _shade(values, rng)
    if rng.random() < _P_GRAY:
        values = np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < _P_OUTLINES:
        values = _draw_outlines(values, mask, rng)
    values = values * alpha + _WHITE * (1 - alpha)
    drawn = np.clip(values, 0, 255).astype(np.uint8)
    return _warp(drawn, rng)


def _resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    levels = resize_image(np.rint(mask * 255).astype(np.uint8), shape[0], shape[1])
    return np.asarray(levels / np.float32(255), np.float32)


def _flatten_colors(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Quantize to a few flat colors and shift each of them independently."""
    height, width = values.shape[:2]
    size = 1 + 2 * max(1, round(max(height, width) * rng.uniform(0.005, 0.018)))
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.MedianFilter(min(size, 9)))
    quantized = picture.quantize(
        int(rng.integers(4, 14)), Image.Quantize.MEDIANCUT, Image.Dither.NONE
    )
    palette = np.asarray(quantized.getpalette("RGB"), np.float32).reshape(-1, 3)
    shifted = np.stack([_shift_colors(color[None], rng, 0.06, 0.3)[0] for color in palette])
    return np.asarray(shifted[np.asarray(quantized)], np.float32)


def _shift_all(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.reshape(_shift_colors(values.reshape(-1, 3), rng, 0.06, 0.35), values.shape)


def _shift_colors(
    colors: NDArray[np.float32], rng: np.random.Generator, hue: float, amount: float
) -> NDArray[np.float32]:
    """Shift the hue by up to ``hue`` of the circle, saturation and value by up to ``amount``."""
    pixels = Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8)[None])
    hsv = np.asarray(pixels.convert("HSV"), np.float32)[0].copy()
    factor = 3 if rng.random() < 0.15 else 1
    hsv[:, 0] = (hsv[:, 0] + 255 * factor * rng.uniform(-hue, hue)) % 256
    hsv[:, 1:] *= 1 + rng.uniform(-amount, amount, 2).astype(np.float32)
    shifted = Image.fromarray(np.clip(hsv, 0, 255).astype(np.uint8)[None], "HSV").convert("RGB")
    rgb: NDArray[np.float32] = np.asarray(shifted, np.float32)[0]
    return rgb


def _shade(values: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Add a brightness gradient."""
    height, width = values.shape[:2]
    y, x = np.mgrid[0:height, 0:width] / max(height, width) - 0.5
    direction = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.1, 0.6) * (x * np.cos(direction) + y * np.sin(direction))
    return np.asarray(values * light[:, :, None], np.float32)


def _draw_outlines(
    values: NDArray[np.float32], mask: Mask, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw dark lines around the item and along its color edges."""
    side = max(mask.shape)
    smooth = gaussian_blur(values, (side * 0.01, side * 0.01))
    slope = np.hypot(sobel(smooth, 0), sobel(smooth, 1)).max(axis=2)
    edge = slope > rng.uniform(80, 240)
    inside = mask > 0.5
    edge |= inside & ~erode(inside)
    thickness = max(1, round(side * rng.uniform(0.003, 0.011)))
    edge = dilate(edge, thickness)
    ink = values.min(axis=2, keepdims=True) * rng.uniform(0, 0.4)
    soft = gaussian_blur(edge.astype(np.float32), (0.7, 0.7))[:, :, None]
    return np.asarray(values * (1 - soft) + ink * soft, np.float32)


def _warp(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Change proportions and shape: rotation, stretch, shear, and often an elastic distortion."""
    height, width = image.shape[:2]
    angle = np.deg2rad(rng.uniform(-10, 10))
    stretch = np.exp(rng.uniform(0, 0.25, 2))
    shear = rng.uniform(-0.08, 0.08)
    linear = np.array([(np.cos(angle), np.sin(angle) + shear), (-np.sin(angle), np.cos(angle))])
    linear = linear * stretch[:, None]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    center = np.array([width, height]) / 2
    shift = rng.uniform(-0.04, 0.04, 2) * (width, height)
    u = linear[0, 0] * (x - center[0]) + linear[0, 1] * (y - center[1]) + center[0] + shift[0]
    v = linear[1, 0] * (x - center[0]) + linear[1, 1] * (y - center[1]) + center[1] + shift[1]
    if rng.random() < _P_ELASTIC:
        u += _displacement((height, width), rng) * width
        v += _displacement((height, width), rng) * height
    return sample_bilinear(image, u, v, int(_WHITE))


def _displacement(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a smooth random displacement, as shares of a side."""
    coarse = rng.normal(0, 0.025, (5, 5)).astype(np.float32)
    return np.asarray(
        Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC), np.float32
    )
