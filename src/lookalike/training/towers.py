"""Networks beyond the report's: a convolutional tower on image gradients, fine HOG as a module."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import LinearProjection

WIDTHS = (64, 128, 192, 256)
"""Channels of the tower's convolutions; larger images get more stages of the last width."""

_QUARTERS = 4 * 255.0


class GradientStem(nn.Module):
    """Images ``(n, c, h, w)`` in [0, 1] to edge responses by direction, ``(n, 8 + c, h/s, w/s)``.

    The response in each of 8 directions is the gradient's component times its squared cosine,
    which is both selective and smooth; of several channels the strongest gradient counts.
    Responses and image are averaged over windows of 2 s pixels with stride s (2 for sides below 48
    pixels, else 4), divided by the norm over all of them, square-rooted (Hellinger) and
    batch-normalized.
    """

    directions = 8

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.stride = 2 if side < 48 else 4
        angles = torch.arange(self.directions) * (2 * math.pi / self.directions)
        self.compass: Tensor  # unit vectors, (2, 8)
        self.register_buffer("compass", torch.stack((angles.cos(), angles.sin())))
        self.norm = nn.BatchNorm2d(self.directions + channels)

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalized responses."""
        x, y = gradients(images)
        compass = self.compass.view(2, self.directions, 1, 1)
        along = (x * compass[0] + y * compass[1]).relu()  # (n, 8, h, w)
        # The ONNX exporter drops terms below 1e-8; the square of one gray level is 1.5e-5.
        selective = along * along * along / (x * x + y * y + 1e-6)
        pooled = overlapping_means(torch.cat((selective, images), 1), self.stride)
        norm = torch.linalg.vector_norm(pooled, dim=(1, 2, 3), keepdim=True)
        rooted: Tensor = self.norm((pooled * (10 / (norm + 1e-6)) + 1e-4).sqrt())
        return rooted


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return [-1, 0, 1] differences in x and y, ``(n, 1, h, w)``, of ``(n, c, h, w)``.

    The image is padded with the mean of its corners. Of several channels, each pixel takes the
    differences of the one with the largest gradient, the first of equal ones.
    """
    height, width = images.shape[-2:]
    corners = images[:, :, :: height - 1, :: width - 1].mean(dim=(2, 3), keepdim=True)
    centered = images - corners
    wide = functional.pad(centered, (1, 1, 0, 0))
    high = functional.pad(centered, (0, 0, 1, 1))
    x, y = wide[..., 2:] - wide[..., :-2], high[..., 2:, :] - high[..., :-2, :]
    if images.shape[1] == 1:
        return x, y
    exact_x, exact_y = quarter_levels(x), quarter_levels(y)
    strongest = (exact_x * exact_x + exact_y * exact_y).argmax(dim=1, keepdim=True)
    return x.gather(1, strongest), y.gather(1, strongest)


def quarter_levels(values: Tensor) -> Tensor:
    """Return values in [-1, 1] in quarters of a gray level, rounded to integers up to 1,020.

    For 8-bit images the gradients, at the border too, are such integers up to rounding errors of
    float32, and their squares are exact. What is decided by comparing them, such as the strongest
    of several channels, therefore does not depend on the order of operations in torch or ONNX
    Runtime: on smooth photographs thousands of pixels have equal gradients in two channels.
    """
    return (values * _QUARTERS).round()


def overlapping_means(maps: Tensor, stride: int) -> Tensor:
    """Return means over windows of ``2 * stride`` pixels with stride ``stride``, zero-padded.

    Computed as means of four means over ``stride`` pixels, with a quarter of the additions.
    """
    means = functional.avg_pool2d(maps, stride, stride, stride // 2)
    return functional.avg_pool2d(means, 2, 1)


def tower(channels: int, height: int, width: int, dim: int = 128) -> nn.Sequential:
    """Return a network from images ``(n, channels, height, width)`` to ``(n, dim)`` embeddings.

    Gradient stem, 3x3 convolutions of stride 2 down to at most 8 rows and columns, max-pooling, a
    linear layer; batch norm after each layer.
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
    """Crop to the first rows and columns."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, : self.height, : self.width]


_LARGE = 2.0**18

_ROUNDING = 1e-5
"""Shares of a gradient's magnitude, up to this one, that are rounding errors of its angle.

Where all edges run at 45 degrees, those errors are all that falls into the neighboring bins, and
the square root would make 3e-4 of 1e-7. Other angles of 8-bit gradients have shares above 2e-5."""


class FineHogModule(nn.Module):
    """:class:`~lookalike.encoders.hog.FineHog` on tensors ``(n, c, h, w)`` in [0, 1]."""

    def __init__(self, encoder: FineHog) -> None:
        super().__init__()
        self.bins, self.stride = encoder.bins, encoder.stride
        self.mean: Tensor
        self.projection: Tensor
        self.positions: Tensor
        half = self.bins // 2
        positions = (torch.arange(self.bins) + half) % self.bins - half  # from -8 to 7
        self.register_buffer("positions", positions.view(1, -1, 1, 1).float())
        self.register_buffer("mean", torch.from_numpy(encoder.mean.copy()))
        self.register_buffer("projection", torch.from_numpy(encoder.projection.copy()))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim)`` of unit length."""
        # Integers, as in FineHog; large ones, so that 1e-6 below is negligible.
        x, y = (quarter_levels(each) * _LARGE for each in gradients(images))
        magnitude = (x * x + y * y).sqrt()
        # atan2 by the half-angle formula: its ONNX export takes 20 operators. For y = 0 and x < 0
        # the angle is pi, the limit from above.
        half = torch.atan((y + 1e-6) / (magnitude + x).clamp(min=1e-20))
        # Circular distance to each bin, in bins; a magnitude is split between the two nearest.
        distance = (half * (self.bins / math.pi) - self.positions).abs()
        distance = torch.minimum(distance, self.bins - distance)
        split = magnitude * (1 - _ROUNDING - distance).relu()  # (n, 16, h, w)
        pooled = overlapping_means(split, self.stride)
        cells = unit(pooled.permute(0, 2, 3, 1).flatten(1).sqrt())
        if not self.projection.numel():
            return cells
        return unit((cells - self.mean) @ self.projection)


def unit(rows: Tensor) -> Tensor:
    """Scale rows ``(n, dim)`` to unit length, with fewer operators than torch's normalize."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.div(rows, length.clamp(min=1e-12))


class UnitLength(nn.Module):
    """Scale rows ``(n, dim)`` to unit length; zero rows stay zero."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the same shape."""
        return unit(rows)


def projection_layer(projection: LinearProjection) -> nn.Linear:
    """Return a linear projection as a layer."""
    layer = nn.Linear(*projection.projection.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(projection.projection.T))
        layer.bias.copy_(torch.from_numpy(-projection.mean @ projection.projection))
    return layer


class Concatenated(nn.Module):
    """The unit-length embeddings of two networks, concatenated with a weight for the second.

    The result has unit length.
    """

    def __init__(self, first: nn.Module, second: nn.Module, weight: float) -> None:
        super().__init__()
        self.first, self.second, self.weight = first, second, weight

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, first dim + second dim)``."""
        first = unit(self.first(images))
        second = unit(self.second(images)) * self.weight
        return unit(torch.cat((first, second), dim=1))
