"""Networks beyond the report's: a tower on directional gradients, and fine HOG as a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import Whitening

WIDTHS = (64, 128, 192, 256)
"""Channels of the tower's convolutions; one more stage for each doubling of the image."""


class GradientStem(nn.Module):
    """Images ``(n, c, h, w)`` in [0, 1] to ``(n, 8 + c, h / s, w / s)``: edges by direction.

    The response in each of 8 directions is the gradient's share in it times the squared cosine,
    so that it is sharp and smooth at once; of several channels the strongest gradient counts.
    Responses and the image itself are averaged over windows of 2 s pixels at every s (2 below 48
    pixels, 4 from there on), divided by the norm of the whole, rooted as histograms are (Hellinger)
    and batch-normalised.
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
        """Return the normalised responses."""
        x, y = gradients(framed(images))
        compass = self.compass.view(2, self.directions, 1, 1)
        along = (x * compass[0] + y * compass[1]).relu()  # (n, 8, h, w)
        # The ONNX exporter drops sums with anything below 1e-8; a grey level's square is 1.5e-5.
        sharp = along * along * along / (x * x + y * y + 1e-6)
        s = self.stride
        pooled = functional.avg_pool2d(torch.cat((sharp, images), 1), 2 * s, s, s // 2)
        whole = torch.linalg.vector_norm(pooled, dim=(1, 2, 3), keepdim=True)
        rooted: Tensor = self.norm((pooled * (10 / (whole + 1e-6)) + 1e-4).sqrt())
        return rooted


def framed(images: Tensor) -> Tensor:
    """Return ``(n, c, h + 2, w + 2)``: differences from the corners' mean, zero around."""
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(2)[:, :, None, None]
    return functional.pad(images - corners, (1, 1, 1, 1))


def gradients(padded: Tensor) -> tuple[Tensor, Tensor]:
    """Return [-1, 0, 1] differences in x and y, ``(n, 1, h, w)``, of ``(n, c, h + 2, w + 2)``.

    Of several channels, each pixel takes those of the one where the gradient is largest.
    """
    x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    if padded.shape[1] == 1:
        return x, y
    strongest = (x * x + y * y).argmax(dim=1, keepdim=True)
    return x.gather(1, strongest), y.gather(1, strongest)


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


class FineHogModule(nn.Module):
    """:class:`~lookalike.encoders.hog.FineHog` on tensors ``(n, c, h, w)`` in [0, 1]."""

    def __init__(self, encoder: FineHog) -> None:
        super().__init__()
        self.bins, self.stride = encoder.bins, encoder.stride
        self.mean: Tensor
        self.projection: Tensor
        self.register_buffer("mean", torch.from_numpy(encoder.mean.copy()))
        self.register_buffer("projection", torch.from_numpy(encoder.projection.copy()))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim)`` of unit length."""
        # Whole numbers, so that channels with equal gradients tie as they do there.
        x, y = gradients(framed((images * 255).round()))
        magnitude = (x * x + y * y).sqrt()
        # ONNX has no atan2 and takes it from y / x, which is no number where both are zero.
        position = torch.atan2(y, x + 1e-6) * (self.bins / (2 * math.pi))
        bins = torch.arange(self.bins, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
        # The distance to each bin on the circle, in bins; a magnitude goes to the two nearest.
        away = torch.remainder(position - bins + self.bins / 2, self.bins) - self.bins / 2
        split = magnitude * (1 - away.abs()).relu()  # (n, 16, h, w)
        s = self.stride
        pooled = functional.avg_pool2d(split, 2 * s, s, s // 2)
        cells = functional.normalize(pooled.permute(0, 2, 3, 1).flatten(1).sqrt())
        if not self.projection.numel():
            return cells
        return functional.normalize((cells - self.mean) @ self.projection)


class Unit(nn.Module):
    """Rows ``(n, dim)`` brought to unit length."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the same shape."""
        return functional.normalize(rows)


def affine(whitening: Whitening) -> nn.Linear:
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
        one = functional.normalize(self.first(images))
        other = functional.normalize(self.second(images)) * self.weight
        return functional.normalize(torch.cat((one, other), dim=1))
