"""Random augmentations of image batches, as presets: the invariances that an encoder learns.

The preset must fit the images: it may only vary what does not distinguish them. Rotation and shear
like those of handwriting, for example, lower the precision on clothes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lookalike.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentations:
    """A preset of augmentations; each is off by default.

    A magnitude m stands for values drawn uniformly from [-m, m] for each image.

    Args:
        name: of the preset.
        summary: one line of help.
        rotation: magnitude in degrees.
        scale: magnitude of the logarithm of the factor.
        anisotropy: magnitude of the logarithm of the factor of width over height.
        shear: magnitude of the tangent of the angle.
        shift: magnitude as a fraction of the side.
        crop: minimum fraction of the area in a random crop.
        aspect: maximum aspect ratio of the crop.
        mirror: mirror with probability 0.5.
        elastic: standard deviation of a smooth displacement field, as a fraction of the side.
        thickness: magnitude of the blend with the dilated or eroded image.
        blur: probability of a binomial blur.
        gamma: magnitude of the logarithm of the exponent.
        brightness: magnitude of the offset, as a fraction of the full range.
        contrast: magnitude of the relative change of differences from the mean.
        saturation: magnitude of the relative change of differences from gray; color only.
        gray: probability of conversion to grayscale; color only.
        erase: probability that a window of .2 to .4 of either side becomes black.
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
        """Return a random view of each image.

        Args:
            images: ``(n, c, h, w)`` float32 in [0, 1], c = 1 (gray) or 3 (RGB).
            generator: on the same device.

        Returns:
            Views of the same shape, in [0, 1].
        """
        random = _Random(len(images), generator)
        images = functional.grid_sample(
            images, _sampling_grid(self, images, random), padding_mode="border", align_corners=False
        )
        if self.thickness:
            images = _change_thickness(images, random.symmetric(self.thickness))
        if self.blur:
            rows = random.bernoulli(self.blur).flatten().nonzero().flatten()
            images[rows] = _blur(images[rows])  # in place: grid_sample returned a new tensor
        images = _change_colors(self, images, random)
        return _erase(images, self.erase, random) if self.erase else images


class _Random:
    """Random numbers for n images, ``(n, 1, 1, 1)``."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float) -> Tensor:
        shape = (self.count, 1, 1, 1)
        values = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return values * (high - low) + low

    def symmetric(self, magnitude: float) -> Tensor:
        return self.uniform(-magnitude, magnitude)

    def bernoulli(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability


def _sampling_grid(preset: Augmentations, images: Tensor, random: _Random) -> Tensor:
    """Return the source position of each pixel, ``(n, h, w, 2)`` in [-1, 1]."""
    n, _, height, width = images.shape
    side = max(height, width)
    angle = random.symmetric(math.radians(preset.rotation))
    scale, stretch = random.symmetric(preset.scale), random.symmetric(preset.anisotropy)
    area = random.uniform(preset.crop, 1).sqrt()
    aspect = random.symmetric(math.log(preset.aspect) / 2).exp()
    wide, high = (area * aspect).clamp(max=1), (area / aspect).clamp(max=1)
    cos, sin, shear = angle.cos(), angle.sin(), random.symmetric(preset.shear)
    x, y = (scale + stretch).exp() * wide, (scale - stretch).exp() * high
    # A crop is placed at random within the image.
    right = random.symmetric(1) * (1 - wide) + random.symmetric(2 * preset.shift * side / width)
    down = random.symmetric(1) * (1 - high) + random.symmetric(2 * preset.shift * side / height)
    sign = torch.where(random.bernoulli(0.5 if preset.mirror else 0), -1.0, 1.0)
    rows = (x * cos * sign, x * (shear * cos - sin), right, y * sin * sign)
    matrix = torch.cat((*rows, y * (shear * sin + cos), down), dim=1).view(n, 2, 3)
    grid = functional.affine_grid(matrix, [n, 1, height, width], align_corners=False)
    if not preset.elastic:
        return grid
    field = torch.randn((n, 2, 5, 5), generator=random.generator, device=images.device)
    field = field * (2 * preset.elastic)
    smooth = functional.interpolate(field, (height, width), mode="bilinear", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 1)


def _change_thickness(images: Tensor, amount: Tensor) -> Tensor:
    """Blend with the dilation (amount > 0) or erosion (amount < 0) by about 1/28 of the side."""
    radius = max(1, round(min(images.shape[2:]) / 28))
    dilated = functional.max_pool2d(images, 2 * radius + 1, 1, radius)
    eroded = -functional.max_pool2d(-images, 2 * radius + 1, 1, radius)
    thicker = torch.lerp(images, dilated, amount.clamp(min=0))
    return torch.lerp(thicker, eroded, (-amount).clamp(min=0))


def _blur(images: Tensor) -> Tensor:
    """Blur with [1, 2, 1] / 4 in both directions, once per 28 pixels of the side."""
    channels = images.shape[1]
    row = torch.tensor([1.0, 2.0, 1.0], device=images.device) / 4
    kernel = (row[:, None] * row).expand(channels, 1, 3, 3)
    for _ in range(max(1, round(min(images.shape[2:]) / 28))):
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        images = functional.conv2d(padded, kernel, groups=channels)
    return images


def _change_colors(preset: Augmentations, images: Tensor, random: _Random) -> Tensor:
    if preset.gamma:
        images = images.clamp(1e-6, 1).pow(random.symmetric(preset.gamma).exp())
    if preset.contrast:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (1 + random.symmetric(preset.contrast))
    if preset.brightness:
        images = images + random.symmetric(preset.brightness)
    if preset.saturation and images.shape[1] == 3:
        factor = 1 + random.symmetric(preset.saturation)
        if preset.gray:
            factor = torch.where(random.bernoulli(preset.gray), 0.0, factor)
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        gray = (images * luma).sum(1, keepdim=True)
        images = gray + (images - gray) * factor
    return images.clamp(0, 1)


def _erase(images: Tensor, probability: float, random: _Random) -> Tensor:
    """Make a random window of an image black, with the given probability."""
    height, width = images.shape[2:]
    inside = random.bernoulli(probability)
    for axis, size in ((2, height), (3, width)):
        length = random.uniform(0.2, 0.4) * size
        start = random.uniform(0, 1) * (size - length)
        position = torch.arange(size, device=images.device).view(
            [-1 if i == axis else 1 for i in range(4)]
        )
        inside = inside & (position >= start) & (position < start + length)
    return images.masked_fill(inside, 0)


AUGMENTATIONS: Mapping[str, Augmentations] = {
    preset.name: preset
    for preset in (
        Augmentations(
            name="digits",
            summary="handwriting: rotation, shear, elastic deformation, stroke width; no mirroring",
            rotation=20,
            scale=0.2,
            anisotropy=0.1,
            shear=0.25,
            shift=0.09,
            elastic=0.043,
            thickness=0.7,
        ),
        Augmentations(
            name="objects",
            summary="one upright object per image: slight crops, mirroring, light, random erasing",
            crop=0.7,
            aspect=1.2,
            mirror=True,
            blur=0.3,
            gamma=0.3,
            contrast=0.2,
            erase=0.3,
        ),
        Augmentations(
            name="photos",
            summary="any photos: larger crops, mirroring, light and color",
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
    """Return an augmentation preset by name.

    Raises:
        UnknownNameError: no such preset; the message suggests the nearest name.
    """
    if name not in AUGMENTATIONS:
        raise UnknownNameError("augmentation preset", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
