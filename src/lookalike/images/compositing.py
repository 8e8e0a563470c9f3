"""Shop images made into street photographs: an item on other ground, in other light.

What separates the photograph that a person takes from the picture in a shop is made on purpose
and of stated strength: another ground, perspective, turning, lighting, blur, noise, something in
front of it, JPEG. Drawn with the same generator a view is the same again.
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


@dataclass(frozen=True, slots=True)
class PhotoParams:
    """How strong the corruptions are; amounts are drawn evenly between both values.

    Args:
        side: height and width of a view in pixels.
        size: the item's longer side, as a share of the view's.
        turn: degrees, either way.
        perspective: how far each corner of the item moves, as a share of its sides.
        gain: factor of all values.
        tint: logarithm of the factor of each channel, either way.
        shade: by how much the light falls off from one side of the view to the other.
        blur: standard deviation in pixels.
        noise: standard deviation in levels.
        covered: share of the item's height or width that something hides.
        quality: of the JPEG.
    """

    side: int = 320
    size: tuple[float, float] = (0.4, 0.75)
    turn: float = 20
    perspective: float = 0.12
    gain: tuple[float, float] = (0.6, 1.3)
    tint: float = 0.15
    shade: tuple[float, float] = (0, 0.5)
    blur: tuple[float, float] = (0, 1.5)
    noise: tuple[float, float] = (0, 12)
    covered: tuple[float, float] = (0, 0.3)
    quality: tuple[int, int] = (30, 80)


DEFAULT_PHOTO = PhotoParams()


@dataclass(frozen=True, slots=True)
class ComposedPhoto:
    """A street view ``(side, side, 3)`` uint8, and where the item is in it."""

    image: ImageArray
    box: Box


def compose_photo(
    item: ImageArray,
    ground: ImageArray,
    rng: np.random.Generator,
    *,
    mask: Mask | None = None,
    params: PhotoParams = DEFAULT_PHOTO,
) -> ComposedPhoto:
    """Put an item on a ground, as a photograph taken in passing would show it.

    Args:
        item: ``(H, W)`` or ``(H, W, 3)`` uint8.
        ground: an image of anything, of which a part is taken.
        rng: draws all that is drawn.
        mask: where the item is, ``(H, W)`` in [0, 1]; found by
            :func:`lookalike.images.foreground.foreground` unless given.
        params: how strong the corruptions are.
    """
    if mask is None:
        mask = find_foreground(item).mask
    pasted = _warped(_cut_out(item, mask), rng, params)
    view = _part(ground, params.side, rng).astype(np.float32)
    alpha = pasted[:, :, 3:] / np.float32(255)
    covered, box = _covered(alpha, _part(ground, params.side, rng), rng, params)
    view = view * (1 - alpha) + pasted[:, :, :3] * alpha
    view = np.where(covered[:, :, :1] < 0, view, covered).astype(np.float32)
    return ComposedPhoto(_photographed(view, rng, params), box)


def _cut_out(item: ImageArray, mask: Mask) -> ImageArray:
    """Return the item alone, ``(h, w, 4)`` uint8 with its mask as opacity."""
    rgba = np.dstack([to_channels(item, 3), np.rint(mask * 255).astype(np.uint8)])
    rows, columns = (np.flatnonzero((mask > 0.02).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return rgba
    return rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _warped(item: ImageArray, rng: np.random.Generator, params: PhotoParams) -> NDArray[np.float32]:
    """Place the item on an empty view, turned and in perspective: ``(side, side, 4)``."""
    height, width = item.shape[:2]
    longer = params.side * rng.uniform(*params.size)
    scale = longer / max(height, width)
    half = np.array([width, height]) * scale / 2
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    corners = corners + rng.uniform(-1, 1, (4, 2)) * params.perspective * 2 * half.min()
    angle = np.deg2rad(rng.uniform(-params.turn, params.turn))
    turning = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    corners = corners @ turning
    low, high = corners.min(axis=0), corners.max(axis=0)
    corners *= min(1.0, 0.98 * params.side / (high - low).max())
    low, high = corners.min(axis=0), corners.max(axis=0)
    corners += rng.uniform(-low, np.maximum(params.side - high, -low + 1e-6))
    before = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    if scale < 0.5:  # a perspective transform does not average what it skips
        reduced = max(1, round(height * scale * 1.5)), max(1, round(width * scale * 1.5))
        item = np.asarray(Image.fromarray(item).resize(reduced[::-1], Image.Resampling.BOX))
        before *= np.array([reduced[1] / width, reduced[0] / height])
    moved = Image.fromarray(_premultiplied(item)).transform(
        (params.side, params.side),
        Image.Transform.PERSPECTIVE,
        _homography(corners, before),
        Image.Resampling.BICUBIC,
    )
    found = np.asarray(moved, np.float32)
    alpha = found[:, :, 3:]
    found[:, :, :3] *= np.divide(255, alpha, out=np.zeros_like(alpha), where=alpha > 0)
    return np.clip(found, 0, 255)


def _premultiplied(rgba: ImageArray) -> ImageArray:
    """Return colors times opacity, so that what is outside the item does not bleed into it."""
    values = rgba.astype(np.float32)
    values[:, :, :3] *= values[:, :, 3:] / 255
    return np.rint(values).astype(np.uint8)


def _homography(after: NDArray[np.float64], before: NDArray[np.float64]) -> list[float]:
    """Return the eight numbers by which Pillow finds a point's place before a transform."""
    rows = []
    for (x, y), (u, v) in zip(after, before, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    found: list[float] = np.linalg.solve(np.array(rows), before.ravel()).tolist()
    return found


def _part(ground: ImageArray, side: int, rng: np.random.Generator) -> ImageArray:
    """Return a square part of a ground, mirrored half of the time."""
    height, width = ground.shape[:2]
    cut = round(min(height, width) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, length - cut + 1)) for length in (height, width))
    part = to_channels(ground[top : top + cut, left : left + cut], 3)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return resize_image(np.ascontiguousarray(part), side, side)


def _covered(
    alpha: NDArray[np.float32], cover: ImageArray, rng: np.random.Generator, params: PhotoParams
) -> tuple[NDArray[np.float32], Box]:
    """Return what hides a part of the item (-1 where nothing does), and where the item is."""
    out = np.full((*alpha.shape[:2], 3), -1, np.float32)
    rows, columns = (np.flatnonzero((alpha[:, :, 0] > 0.1).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return out, Box(0, 0, alpha.shape[1], alpha.shape[0])
    top, left = int(rows[0]), int(columns[0])
    box = Box(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)
    share = rng.uniform(*params.covered)
    inside = [slice(top, top + box.height), slice(left, left + box.width)]
    axis = int(rng.integers(2))
    length = (box.height, box.width)[axis]
    hidden = round(share * length)
    start = inside[axis].start if rng.random() < 0.5 else inside[axis].stop - hidden
    inside[axis] = slice(start, start + hidden)
    out[inside[0], inside[1]] = cover[inside[0], inside[1]]
    return out, box


def _photographed(
    view: NDArray[np.float32], rng: np.random.Generator, params: PhotoParams
) -> ImageArray:
    """Light, blur, noise and JPEG."""
    side = params.side
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    fall = 1 - rng.uniform(*params.shade) * (0.5 + x * np.cos(direction) + y * np.sin(direction))
    gain = rng.uniform(*params.gain) * np.exp(rng.uniform(-params.tint, params.tint, 3))
    lit = np.clip(view * fall[:, :, None] * gain, 0, 255).astype(np.uint8)
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
    """Make a cluttered ground of smooth colors and items of a collection, turned at will.

    Args:
        images: of the collection.
        masks: where their items are, in [0, 1].
        rng: draws all that is drawn.
        side: height and width in pixels.
    """
    colors = rng.uniform(0, 255, (*(int(rng.integers(2, 9)),) * 2, 3)).astype(np.uint8)
    ground = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
    for _ in range(int(rng.integers(*_PIECES))):
        index = int(rng.integers(len(images)))
        size = (int(side * rng.uniform(0.2, 0.8)),) * 2
        angle = float(rng.uniform(-180, 180))
        levels = np.rint(masks[index] * 255).astype(np.uint8)
        mask = Image.fromarray(levels).resize(size).rotate(angle)
        item = Image.fromarray(to_channels(images[index], 3)).resize(size).rotate(angle)
        left, top = (int(v) for v in rng.integers(-size[0] // 2, side - size[0] // 2, 2))
        ground.paste(item, (left, top), mask)
    return np.asarray(ground)


_PIECES = (4, 16)
"""Items on a cluttered_background, from and below."""
