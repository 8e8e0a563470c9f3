"""Random views of images, on tensors, in batches: what an encoder is to see as the same thing.

Views must fit the images: those made for digits cost clothes ten points of precision
(``docs/experiments.md``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lookalike.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Augmentations:
    """How images are distorted; each distortion is off at its default.

    Amounts are drawn evenly from -amount to amount for each image, chances are shares of images.

    Args:
        name: what selects it.
        summary: one line for people.
        rotation: degrees.
        scale: logarithm of the factor.
        anisotropy: logarithm of the factor between width and height.
        shear: tangent of the angle.
        shift: share of the image's side.
        crop: least share of the area that a random window keeps.
        aspect: largest factor between the sides of the window.
        mirror: whether half of the images are mirrored.
        elastic: standard deviation of a smooth displacement, as a share of the side.
        thickness: how far towards their dilation or erosion strokes are blended.
        blur: chance of a binomial blur.
        gamma: logarithm of the exponent.
        brightness: share of the full range that is added.
        contrast: share by which differences from the mean change.
        saturation: share by which differences from gray change; color only.
        gray: chance of losing all color; color only.
        erase: chance that a window of .2 to .4 of either side becomes black.
    """

    name: str
    summary: str
    rotation: float = 0
    scale: float = 0
    anisotropy: float = 0
    shear: float = 0
    shift: float = 0
    crop: float = 1
    aspect: float = 1
    mirror: bool = False
    elastic: float = 0
    thickness: float = 0
    blur: float = 0
    gamma: float = 0
    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    gray: float = 0
    erase: float = 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a view of each image.

        Args:
            images: ``(n, c, h, w)`` floats in [0, 1], c being 1 (gray) or 3 (RGB).
            generator: on the same device.

        Returns:
            The same shape, in [0, 1].
        """
        draw = _Draw(len(images), generator)
        images = functional.grid_sample(
            images, _grid(self, images, draw), padding_mode="border", align_corners=False
        )
        if self.thickness:
            images = _thickened(images, draw.amount(self.thickness))
        if self.blur:
            images = torch.where(draw.chance(self.blur), _blurred(images), images)
        images = _recolored(self, images, draw)
        return _erased(images, self.erase, draw) if self.erase else images


class _Draw:
    """Random numbers for n images, each ``(n, 1, 1, 1)``."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def between(self, low: float, high: float) -> Tensor:
        shape = (self.count, 1, 1, 1)
        values = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return values * (high - low) + low

    def amount(self, most: float) -> Tensor:
        return self.between(-most, most)

    def chance(self, share: float) -> Tensor:
        return self.between(0, 1) < share


def _grid(preset: Augmentations, images: Tensor, draw: _Draw) -> Tensor:
    """Return where each pixel of the views is taken from, ``(n, h, w, 2)`` in [-1, 1]."""
    n, _, height, width = images.shape
    side = max(height, width)
    angle = draw.amount(math.radians(preset.rotation))
    scale, stretch = draw.amount(preset.scale), draw.amount(preset.anisotropy)
    area = draw.between(preset.crop, 1).sqrt()
    aspect = draw.amount(math.log(preset.aspect) / 2).exp()
    wide, high = (area * aspect).clamp(max=1), (area / aspect).clamp(max=1)
    cos, sin, shear = angle.cos(), angle.sin(), draw.amount(preset.shear)
    x, y = (scale + stretch).exp() * wide, (scale - stretch).exp() * high
    # Of a window that is smaller than the image, the place is drawn too.
    right = draw.amount(1) * (1 - wide) + draw.amount(2 * preset.shift * side / width)
    down = draw.amount(1) * (1 - high) + draw.amount(2 * preset.shift * side / height)
    turn = torch.where(draw.chance(0.5 if preset.mirror else 0), -1.0, 1.0)
    rows = (x * cos * turn, x * (shear * cos - sin), right, y * sin * turn)
    matrix = torch.cat((*rows, y * (shear * sin + cos), down), dim=1).view(n, 2, 3)
    grid = functional.affine_grid(matrix, [n, 1, height, width], align_corners=False)
    if not preset.elastic:
        return grid
    coarse = torch.randn((n, 2, 5, 5), generator=draw.generator, device=images.device)
    coarse = coarse * (2 * preset.elastic)
    smooth = functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 1)


def _thickened(images: Tensor, amount: Tensor) -> Tensor:
    """Blend towards the dilation (amount above 0) or erosion by about a 28th of the side."""
    reach = max(1, round(min(images.shape[2:]) / 28))
    dilated = functional.max_pool2d(images, 2 * reach + 1, 1, reach)
    eroded = -functional.max_pool2d(-images, 2 * reach + 1, 1, reach)
    grown = torch.lerp(images, dilated, amount.clamp(min=0))
    return torch.lerp(grown, eroded, (-amount).clamp(min=0))


def _blurred(images: Tensor) -> Tensor:
    """Blur by [1, 2, 1] / 4 in both directions, once for each 28 pixels of the side."""
    channels = images.shape[1]
    row = torch.tensor([1.0, 2.0, 1.0], device=images.device) / 4
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    for _ in range(max(1, round(min(images.shape[2:]) / 28))):
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        images = functional.conv2d(padded, kernel, groups=channels)
    return images


def _recolored(preset: Augmentations, images: Tensor, draw: _Draw) -> Tensor:
    if preset.gamma:
        images = images.clamp(1e-6, 1).pow(draw.amount(preset.gamma).exp())
    if preset.contrast:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1 + draw.amount(preset.contrast))
    if preset.brightness:
        images = images + draw.amount(preset.brightness)
    if preset.saturation and images.shape[1] == 3:
        keep = 1 + draw.amount(preset.saturation)
        if preset.gray:
            keep = torch.where(draw.chance(preset.gray), 0.0, keep)
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        gray = (images * luma).sum(1, keepdim=True)
        images = gray + (images - gray) * keep
    return images.clamp(0, 1)


def _erased(images: Tensor, share: float, draw: _Draw) -> Tensor:
    """Make a window black in a share of the images."""
    height, width = images.shape[2:]
    inside = draw.chance(share)
    for axis, size in ((2, height), (3, width)):
        length = draw.between(0.2, 0.4) * size
        start = draw.between(0, 1) * (size - length)
        place = torch.arange(size, device=images.device).view(
            [-1 if i == axis else 1 for i in range(4)]
        )
        inside = inside & (place >= start) & (place < start + length)
    return images.masked_fill(inside, 0)


AUGMENTATIONS: Mapping[str, Augmentations] = {
    preset.name: preset
    for preset in (
        Augmentations(
            "digits",
            "strokes: turned, sheared, bent, thicker and thinner; never mirrored",
            rotation=20,
            scale=0.2,
            anisotropy=0.1,
            shear=0.25,
            shift=0.09,
            elastic=0.043,
            thickness=0.7,
        ),
        Augmentations(
            "objects",
            "one upright thing filling the image: slight crops, mirrored, light, parts hidden",
            crop=0.7,
            aspect=1.2,
            mirror=True,
            blur=0.3,
            gamma=0.3,
            contrast=0.2,
            erase=0.3,
        ),
        Augmentations(
            "photos",
            "anything: larger crops, mirrored, light and color",
            crop=0.4,
            aspect=1.33,
            mirror=True,
            blur=0.3,
            gamma=0.3,
            brightness=0.15,
            contrast=0.4,
            saturation=0.4,
            gray=0.2,
        ),
    )
}


def find_augmentations(name: str) -> Augmentations:
    """Return the preset of that name.

    Raises:
        UnknownNameError: there is none; the nearest is offered.
    """
    if name not in AUGMENTATIONS:
        raise UnknownNameError("augmentation preset", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
