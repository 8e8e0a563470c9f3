"""Pooling of feature maps to one vector per image, as torch modules; needed for export only.

Maps are ``(n, c, h, w)``. Multi-layer pooling takes a sequence of them, the deepest last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-12


class GeM(nn.Module):
    """Generalized mean pooling (Radenović et al. 2018, section 3.2); p = 1 is the average."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = p, eps

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``; negative values count as zero."""
        return maps.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Average(nn.Module):
    """Average pooling."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return maps.mean(dim=(2, 3))


class Max(nn.Module):
    """Max pooling (MAC, Tolias et al. 2016, section 3)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return maps.amax(dim=(2, 3))


class RMac(nn.Module):
    """R-MAC: the sum of unit-length MAC vectors of square regions at three scales.

    Tolias et al. 2016, section 4, without the whitening of each region.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return torch.stack([unit(maxima) for maxima, _ in _regions(maps)]).sum(dim=0)


class Attention(nn.Module):
    """R-MAC with each region weighted by its mean spatial attention.

    Attention is the norm of the features at each position, as the spatial weights of CroW
    (Kalantidis et al. 2016, section 3.2, square root included). Regions of plain background, which
    R-MAC weights like any other, count little.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        attention = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
        attention = (
            attention / attention.amax(dim=(2, 3), keepdim=True).clamp(min=_EPSILON)
        ).sqrt()
        parts = [unit(maxima) * mean(attention) for maxima, mean in _regions(maps)]
        return torch.stack(parts).sum(dim=0)


class GridPooling(nn.Module):
    """Average pooling over a grid of ``side`` x ``side`` overlapping cells, concatenated.

    Keeps the spatial layout, which helps for drawings and shop images whose item fills the image.
    Negative values count as zero.
    """

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c * side * side)`` of ``(n, c, h, w)``; fewer for smaller maps."""
        (height, down), (width, across) = (_windows(s, self.side) for s in maps.shape[2:])
        cells = functional.avg_pool2d(torch.relu(maps), (height, width), (down, across))
        return cells.flatten(1)


class MultiLayerPooling(nn.Module):
    """GeM and 3 x 3 grid of the deepest maps, concatenated with 4 x 4 grids of earlier layers.

    Each part has unit length. Deep layers encode what is shown, earlier ones its appearance;
    whitening or a learned projection weights them.
    """

    needs_layers = True

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, dim)`` of two or more maps ``(n, c, h, w)``, the deepest last."""
        parts = [GeM()(maps[-1]), GridPooling(3)(maps[-1])]
        parts += [GridPooling(3 if m.shape[2] < 12 else 4)(m) for m in maps[:-1]]
        return torch.cat([unit(part) for part in parts], dim=1)


MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "gem": GeM,
    "avg": Average,
    "max": Max,
    "rmac": RMac,
    "attention": Attention,
    "grid": GridPooling,
    "layers": MultiLayerPooling,
    "own": nn.Identity,
}
"""By the names of :data:`lookalike.encoders.pretrained.POOLINGS`; ``own`` returns its input."""


class Embedder(nn.Module):
    """A backbone with pooling, scaled to unit length."""

    def __init__(self, features: nn.Module, pooling: nn.Module) -> None:
        super().__init__()
        self.features, self.pooling = features, pooling

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim)`` of unit length."""
        return unit(self.pooling(self.features(images)))


def unit(rows: Tensor) -> Tensor:
    """Scale rows ``(n, dim)`` to unit length, with fewer operators than torch's normalize."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.div(rows, length.clamp(min=_EPSILON))


def _windows(length: int, count: int) -> tuple[int, int]:
    """Return length and stride of ``count`` overlapping windows, evenly spread."""
    if length <= count:
        return 1, 1
    stride = max(1, int(length / (count + 0.5)))
    return length - stride * (count - 1), stride


def _regions(maps: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Return for each region its maxima ``(n, c)``, and a function that averages maps over it."""
    regions: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
    for top, left, side in region_grid(maps.shape[2], maps.shape[3]):
        rows, columns = slice(top, top + side), slice(left, left + side)

        def mean(other: Tensor, rows: slice = rows, columns: slice = columns) -> Tensor:
            return other[:, :, rows, columns].mean(dim=(2, 3))

        regions.append((maps[:, :, rows, columns].amax(dim=(2, 3)), mean))
    return regions


def region_grid(height: int, width: int, scales: int = 3) -> list[tuple[int, int, int]]:
    """Return top, left and side of R-MAC's regions, in positions of the maps.

    At scale l the side is ``2 * min(height, width) / (l + 1)``; along the longer side there are
    as many more regions as make neighbors overlap by about 40 %.
    """
    shorter, longer = min(height, width), max(height, width)
    extra = 0
    if longer > shorter:
        overlaps = [(m, 1 - (longer - shorter) / (m * shorter)) for m in range(1, 7)]
        extra = min(overlaps, key=lambda pair: abs(pair[1] - 0.4))[0]
    regions = []
    for scale in range(1, scales + 1):
        side = max(1, 2 * shorter // (scale + 1))
        down = scale + (extra if height > width else 0)
        across = scale + (extra if width > height else 0)
        tops, lefts = _starts(height, side, down), _starts(width, side, across)
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def _starts(length: int, side: int, count: int) -> list[int]:
    slack = length - side
    return [round(i * slack / (count - 1)) for i in range(count)] if count > 1 else [slack // 2]
