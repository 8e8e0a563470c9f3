"""Networks beyond the report's: a tower on directional gradients, and fine HOG as a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookalike.encoders.hog import FineHog
from lookalike.encoders.pooling import unit
from lookalike.encoders.whitening import LinearProjection

WIDTHS = (64, 128, 192, 256)
"""Channels of the tower's convolutions; one more stage for each doubling of the image."""


class GradientStem(nn.Module):
    """Images ``(n, c, h, w)`` in [0, 1] to ``(n, 8 + c, h / s, w / s)``: edges by direction.

    The response in each of 8 directions is the gradient's share in it times the squared cosine,
    so that it is sharp and smooth at once; of several channels the strongest gradient counts.
    Responses and the image itself are averaged over windows of 2 s pixels at every s (2 below 48
    pixels, 4 from there on), divided by the norm of the whole, rooted as histograms are (Hellinger)
    and batch-normalized.
    """

    directions = 8

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.stride = 2 if side < 48 else 4
        angles = torch.arange(self.directions) * (2 * math.pi / self.directions)
        self.compass: Tensor
        self.register_buffer("compass", torch.stack((angles.cos(), angles.sin())))
        self.norm = nn.BatchNorm2d(self.directions + channels)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalized responses."""
        x, y = gradients(images)
        compass = self.compass.view(2, self.directions, 1, 1)
        along = (x * compass[0] + y * compass[1]).relu()  # (n, 8, h, w)
        # The ONNX exporter drops sums with anything below 1e-8; a gray level's square is 1.5e-5.
        sharp = along * along * along / (x * x + y * y + 1e-6)
        pooled = overlapping_means(torch.cat((sharp, images), 1), self.stride)
        whole = torch.linalg.vector_norm(pooled, dim=(1, 2, 3), keepdim=True)
        rooted: Tensor = self.norm((pooled * (10 / (whole + 1e-6)) + 1e-4).sqrt())
        return rooted


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return [-1, 0, 1] differences in x and y, ``(n, 1, h, w)``, of ``(n, c, h, w)``.

    The image goes on beyond its border in the mean of its corners. Of several channels, each pixel
    takes those of the one where the gradient is largest.
    """
    height, width = images.shape[-2:]
    corners = images[:, :, :: height - 1, :: width - 1].mean(dim=(2, 3), keepdim=True)
    framed = images - corners
    beside = functional.pad(framed, (1, 1, 0, 0))
    above = functional.pad(framed, (0, 0, 1, 1))
    x, y = beside[..., 2:] - beside[..., :-2], above[..., 2:, :] - above[..., :-2, :]
    if images.shape[1] == 1:
        return x, y
    strongest = (x * x + y * y).argmax(dim=1, keepdim=True)
    return x.gather(1, strongest), y.gather(1, strongest)


def overlapping_means(maps: Tensor, stride: int) -> Tensor:
    """Return the means over windows of ``2 * stride`` pixels at every ``stride``, zero around.

    They are taken as means over four of the means over ``stride``, for a quarter of the additions.
    """
    apart = functional.avg_pool2d(maps, stride, stride, stride // 2)
    return functional.avg_pool2d(apart, 2, 1)


def tower(channels: int, height: int, width: int, dim: int = 128) -> nn.Sequential:
    """Return a network from images ``(n, channels, height, width)`` to ``(n, dim)`` embeddings.

    Stem, 3x3 convolutions that halve the map until it has at most 8 rows or columns, max-pooling,
    a linear layer; batch norm throughout.
    """
    stem = GradientStem(channels, min(height, width))
    layers: list[nn.Module] = [stem, *_stage(stem.directions + channels, WIDTHS[0], 1)]
    rows, columns = (max(1, side // stem.stride) for side in (height, width))
    inputs = WIDTHS[0]
    for outputs in (*WIDTHS[1:], WIDTHS[-1], WIDTHS[-1]):
        layers += _stage(inputs, outputs, 2)
        rows, columns, inputs = (rows + 1) // 2, (columns + 1) // 2, outputs
        if max(rows, columns) <= 8:
            break
    layers += [nn.MaxPool2d(2, padding=1), nn.Flatten()]
    pooled = (rows // 2 + 1) * (columns // 2 + 1) * inputs
    return nn.Sequential(*layers, nn.Linear(pooled, dim, bias=False), nn.BatchNorm1d(dim))


def _stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def mirror_tower(channels: int, height: int, width: int, dim: int = 128) -> nn.Sequential:
    """Return a decoder from ``(n, dim)`` embeddings to images ``(n, channels, height, width)``."""
    doublings = max(1, math.ceil(math.log2(max(height, width) / 8)))
    rows, columns = (math.ceil(side / 2**doublings) for side in (height, width))
    layers: list[nn.Module] = [
        *(nn.ReLU(), nn.Linear(dim, 64 * rows * columns), nn.ReLU()),
        nn.Unflatten(1, (64, rows, columns)),
    ]
    for depth in range(doublings):
        last = depth == doublings - 1
        layers.append(
            nn.ConvTranspose2d(64 if depth == 0 else 32, channels if last else 32, 4, 2, 1)
        )
        layers.append(nn.Sigmoid() if last else nn.ReLU())
    return nn.Sequential(*layers, _Crop(height, width))


class _Crop(nn.Module):
    """Cut to the first rows and columns."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, : self.height, : self.width]


_LARGE = 2.0**20


class FineHogModule(nn.Module):
    """:class:`~lookalike.encoders.hog.FineHog` on tensors ``(n, c, h, w)`` in [0, 1]."""

    def __init__(self, encoder: FineHog) -> None:
        super().__init__()
        self.bins, self.stride = encoder.bins, encoder.stride
        self.mean: Tensor
        self.projection: Tensor
        self.places: Tensor
        half = self.bins // 2
        places = (torch.arange(self.bins) + half) % self.bins - half  # from -8 to 7
        self.register_buffer("places", places.view(1, -1, 1, 1).float())
        self.register_buffer("mean", torch.from_numpy(encoder.mean.copy()))
        self.register_buffer("projection", torch.from_numpy(encoder.projection.copy()))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim)`` of unit length."""
        # Whole numbers, so that channels with equal gradients tie as they do there; large ones,
        # beside which 1e-6 is nothing.
        x, y = gradients((images * 255).round() * _LARGE)
        magnitude = (x * x + y * y).sqrt()
        # The angle as twice that of half of it: ONNX has no atan2, and takes 20 operators for it.
        # Where y is 0 and x negative, the angle is pi, as the limit from above.
        half = torch.atan((y + 1e-6) / (magnitude + x).clamp(min=1e-20))
        # The distance to each bin on the circle, in bins; a magnitude goes to the two nearest.
        straight = (half * (self.bins / math.pi) - self.places).abs()
        away = torch.minimum(straight, self.bins - straight)
        split = magnitude * (1 - away).relu()  # (n, 16, h, w)
        pooled = overlapping_means(split, self.stride)
        cells = unit(pooled.permute(0, 2, 3, 1).flatten(1).sqrt())
        if not self.projection.numel():
            return cells
        return unit((cells - self.mean) @ self.projection)


class Unit(nn.Module):
    """Rows ``(n, dim)`` brought to unit length."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the same shape."""
        return unit(rows)


def affine(whitening: LinearProjection) -> nn.Linear:
    """Return a whitening as a layer."""
    layer = nn.Linear(*whitening.projection.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whitening.projection.T))
        layer.bias.copy_(torch.from_numpy(-whitening.mean @ whitening.projection))
    return layer


class Joined(nn.Module):
    """Unit-length embeddings of two networks side by side, the second one weighted, unit length."""

    def __init__(self, first: nn.Module, second: nn.Module, weight: float) -> None:
        super().__init__()
        self.first, self.second, self.weight = first, second, weight

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim + dim)``."""
        one = unit(self.first(images))
        other = unit(self.second(images)) * self.weight
        return unit(torch.cat((one, other), dim=1))
