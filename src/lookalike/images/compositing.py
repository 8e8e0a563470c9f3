"""Synthetic street photographs: an item composited on another background, in other light.

Simulates the gap between a shop's product image and a customer's photograph (street-to-shop
retrieval, Hadi Kiapour et al. 2015) with stated strength: background, perspective, rotation,
lighting, blur, noise, occlusion and JPEG. A seeded generator makes results reproducible.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lookalike.images.decode import resize_image, to_channels
from lookalike.images.foreground import Box, Mask, find_foreground
from lookalike.types import ImageArray

_ITEMS_PER_BACKGROUND = (4, 16)
"""Items on a cluttered background: at least the first, fewer than the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoParams:
    """Strength of each effect; values are drawn uniformly between the two given.

    Args:
        side: height and width of the photograph in pixels.
        size: longer side of the item as a share of ``side``.
        rotation: largest rotation in degrees, in either direction.
        perspective: largest shift of each corner of the item, as a share of its shorter side.
        gain: brightness factor.
        tint: largest logarithm of the factor of each channel, up or down.
        shading: brightness lost from one side of the photograph to the other.
        blur: standard deviation in pixels.
        noise: standard deviation in levels of 255.
        occlusion: share of the item's height or width that is covered.
        quality: of the JPEG compression.
    """

    side: int = 320
    size: tuple[float, float] = (0.4, 0.75)
    rotation: float = 20
    perspective: float = 0.12
    gain: tuple[float, float] = (0.6, 1.3)
    tint: float = 0.15
    shading: tuple[float, float] = (0, 0.5)
    blur: tuple[float, float] = (0, 1.5)
    noise: tuple[float, float] = (0, 12)
    occlusion: tuple[float, float] = (0, 0.3)
    quality: tuple[int, int] = (30, 80)


DEFAULT_PHOTO = PhotoParams()


@dataclass(frozen=True, slots=True)
class ComposedPhoto:
    """A photograph ``(side, side, 3)`` uint8 and the bounding box of the item in it."""

    image: ImageArray
    box: Box


def compose_photo(
    item: ImageArray,
    background: ImageArray,
    rng: np.random.Generator,
    *,
    mask: Mask | None = None,
    params: PhotoParams = DEFAULT_PHOTO,
) -> ComposedPhoto:
    """Composite an item on a background, as in a casual photograph.

    Args:
        item: ``(H, W)`` or ``(H, W, 3)`` uint8.
        background: any image, of which a random square is used.
        rng: source of all randomness.
        mask: of the item, ``(H, W)`` in [0, 1]; default
            :func:`lookalike.images.foreground.find_foreground`.
        params: strength of each effect.
    """
    if mask is None:
        mask = find_foreground(item).mask
    warped = _warp(_cut_out(item, mask), rng, params)
    canvas = _random_square(background, params.side, rng).astype(np.float32)
    alpha = warped[:, :, 3:] / np.float32(255)
    cover, box = _occlude(alpha, _random_square(background, params.side, rng), rng, params)
    canvas = canvas * (1 - alpha) + warped[:, :, :3] * alpha
    canvas = np.where(cover[:, :, :1] < 0, canvas, cover).astype(np.float32)
    return ComposedPhoto(_degrade(canvas, rng, params), box)


def _cut_out(item: ImageArray, mask: Mask) -> ImageArray:
    """Return the item cropped to its mask, ``(h, w, 4)`` uint8 with the mask as alpha."""
    rgba = np.dstack([to_channels(item, 3), np.rint(mask * 255).astype(np.uint8)])
    rows, columns = (np.flatnonzero((mask > 0.02).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return rgba
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _warp(item: ImageArray, rng: np.random.Generator, params: PhotoParams) -> NDArray[np.float32]:
    """Place the item on an empty canvas, rotated and in perspective: ``(side, side, 4)``."""
    height, width = item.shape[:2]
    longer = params.side * rng.uniform(*params.size)
    scale = longer / max(height, width)
    half = np.array([width, height]) * scale / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    corners = corners + rng.uniform(-1, 1, (4, 2)) * params.perspective * 2 * half.min()
    angle = np.deg2rad(rng.uniform(-params.rotation, params.rotation))
    rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    corners = corners @ rotation
    low, high = corners.min(axis=0), corners.max(axis=0)
    corners *= min(1.0, 0.98 * params.side / (high - low).max())
    low, high = corners.min(axis=0), corners.max(axis=0)
    corners += rng.uniform(-low, np.maximum(params.side - high, -low + 1e-6))
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    if scale < 0.5:  # Pillow's perspective transform does not antialias
        reduced = max(1, round(height * scale * 1.5)), max(1, round(width * scale * 1.5))
        item = np.asarray(Image.fromarray(item).resize(reduced[::-1], Image.Resampling.BOX))
        source *= np.array([reduced[1] / width, reduced[0] / height])
    transformed = Image.fromarray(_premultiply(item)).transform(
        (params.side, params.side),
        Image.Transform.PERSPECTIVE,
        _homography(corners, source),
        Image.Resampling.BICUBIC,
    )
    canvas = np.asarray(transformed, np.float32)
    alpha = canvas[:, :, 3:]
    canvas[:, :, :3] *= np.divide(255, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    return np.clip(canvas, 0, 255)


def _premultiply(rgba: ImageArray) -> ImageArray:
    """Return colors times alpha, so that colors outside the item do not bleed into it."""
    values = rgba.astype(np.float32)
    values[:, :, :3] *= values[:, :, 3:] / 255
    return np.rint(values).astype(np.uint8)


def _homography(target: NDArray[np.float64], source: NDArray[np.float64]) -> list[float]:
    """Return Pillow's eight perspective coefficients, which map target to source points."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    coefficients: list[float] = np.linalg.solve(np.array(rows), source.ravel()).tolist()
    return coefficients


def _random_square(image: ImageArray, side: int, rng: np.random.Generator) -> ImageArray:
    """Return a random square of an image, resized to ``side`` and mirrored half of the time."""
    height, width = image.shape[:2]
    length = round(min(height, width) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, size - length + 1)) for size in (height, width))
    square = to_channels(image[top : top + length, left : left + length], 3)
    if rng.random() < 0.5:
        square = square[:, ::-1]
    return resize_image(np.ascontiguousarray(square), side, side)


def _occlude(
    alpha: NDArray[np.float32], cover: ImageArray, rng: np.random.Generator, params: PhotoParams
) -> tuple[NDArray[np.float32], Box]:
    """Return what covers a part of the item (-1 elsewhere), and the item's bounding box."""
    out = np.full((*alpha.shape[:2], 3), -1, np.float32)
    rows, columns = (np.flatnonzero((alpha[:, :, 0] > 0.1).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return out, Box(0, 0, alpha.shape[1], alpha.shape[0])
    top, left = int(rows[0]), int(columns[0])
    box = Box(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
    share = rng.uniform(*params.occlusion)
    region = [slice(top, top + box.height), slice(left, left + box.width)]
    axis = int(rng.integers(2))
    length = (box.height, box.width)[axis]
    covered = round(share * length)
    start = region[axis].start if rng.random() < 0.5 else region[axis].stop - covered
    region[axis] = slice(start, start + covered)
    out[region[0], region[1]] = cover[region[0], region[1]]
    return out, box


def _degrade(
    canvas: NDArray[np.float32], rng: np.random.Generator, params: PhotoParams
) -> ImageArray:
    """Apply lighting, blur, noise and JPEG compression."""
    side = params.side
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    light = 1 - rng.uniform(*params.shading) * (0.5 + x * np.cos(direction) + y * np.sin(direction))
    gain = rng.uniform(*params.gain) * np.exp(rng.uniform(-params.tint, params.tint, 3))
    lit = np.clip(canvas * light[:, :, None] * gain, 0, 255).astype(np.uint8)
    radius = rng.uniform(*params.blur)
    blurred = np.asarray(Image.fromarray(lit).filter(ImageFilter.GaussianBlur(radius)), np.float32)
    noisy = blurred + rng.normal(0, rng.uniform(*params.noise), blurred.shape)
    file = io.BytesIO()
    quality = int(rng.integers(params.quality[0], params.quality[1] + 1))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def cluttered_background(
    images: Sequence[ImageArray],
    masks: Sequence[Mask],
    rng: np.random.Generator,
    *,
    side: int = DEFAULT_PHOTO.side,
) -> ImageArray:
    """Return a collage of smooth colors and rotated items of a collection, as a background.

    Args:
        images: of the collection.
        masks: of their items, in [0, 1].
        rng: source of all randomness.
        side: height and width in pixels.
    """
    colors = rng.uniform(0, 255, (*(int(rng.integers(2, 9)),) * 2, 3)).astype(np.uint8)
    background = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(*_ITEMS_PER_BACKGROUND))):
        index = int(rng.integers(len(images)))
        size = (int(side * rng.uniform(0.2, 0.8)),) * 2
        angle = float(rng.uniform(-180, 180))
        levels = np.rint(masks[index] * 255).astype(np.uint8)
        mask = Image.fromarray(levels).resize(size).rotate(angle)
        item = Image.fromarray(to_channels(images[index], 3)).resize(size).rotate(angle)
        left, top = (int(v) for v in rng.integers(-size[0] // 2, side - size[0] // 2, 2))
        background.paste(item, (left, top), mask)
    return np.asarray(background)
