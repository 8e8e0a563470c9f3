"""From feature maps to one vector an image, as torch modules; imported only to export a network.

Maps are ``(n, c, h, w)``. What takes the maps of several layers takes a sequence of them, the
deepest last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST = 1e-12


class GeM(nn.Module):
    """Generalized mean over places (Radenović et al. 2018, section 3.2): p = 1 is the average."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = p, eps

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``; negative values count as zero."""
        return maps.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Average(nn.Module):
    """The mean over places."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return maps.mean(dim=(2, 3))


class Max(nn.Module):
    """The largest value over places (MAC, Tolias et al. 2016, section 3)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return maps.amax(dim=(2, 3))


class RMac(nn.Module):
    """MAC of square regions at three scales, each of unit length, summed.

    R-MAC of Tolias et al. 2016, section 4, without the whitening of each region.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        return torch.stack([unit(maxima) for maxima, _ in _regions(maps)]).sum(dim=0)


class Attention(nn.Module):
    """The regions of R-MAC, each weighted by the attention that it holds.

    Attention is the length of the features at each place (as the spatial weights of CroW,
    Kalantidis et al. 2016, section 3.2, square root included), averaged over the region. Regions
    of plain ground, which R-MAC counts like any other, so count little.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c)`` of ``(n, c, h, w)``."""
        attention = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
        attention = (attention / attention.amax(dim=(2, 3), keepdim=True).clamp(min=_LEAST)).sqrt()
        parts = [unit(maxima) * place(attention) for maxima, place in _regions(maps)]
        return torch.stack(parts).sum(dim=0)


class Places(nn.Module):
    """Averages of ``side`` x ``side`` overlapping parts of the maps, side by side.

    Where something is then counts too: for drawings and shop images, whose item fills the image.
    Negative values count as zero.
    """

    def __init__(self, side: int = 3) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """Return ``(n, c * side * side)`` of ``(n, c, h, w)``; fewer of maps smaller than that."""
        (height, down), (width, across) = (_steps(s, self.side) for s in maps.shape[2:])
        found = functional.avg_pool2d(torch.relu(maps), (height, width), (down, across))
        return found.flatten(1)


class Layers(nn.Module):
    """GeM and 3 x 3 places of the deepest maps beside 4 x 4 places of those before them.

    Each part has unit length. Deep maps say what is to be seen, those before them what it looks
    like; which of it counts is for whitening, or what is learned from views, to find.
    """

    needs_layers = True

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, dim)`` of two or more maps ``(n, c, h, w)``, the deepest last."""
        parts = [GeM()(maps[-1]), Places(3)(maps[-1])]
        parts += [Places(3 if m.shape[2] < 12 else 4)(m) for m in maps[:-1]]
        return torch.cat([unit(part) for part in parts], dim=1)


MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "gem": GeM,
    "avg": Average,
    "max": Max,
    "rmac": RMac,
    "attention": Attention,
    "places": Places,
    "layers": Layers,
    "own": nn.Identity,
}
"""By the names of :data:`lookalike.encoders.pretrained.POOLINGS`; ``own`` leaves rows alone."""


class Embedder(nn.Module):
    """Features, pooling, unit length."""

    def __init__(self, features: nn.Module, pooling: nn.Module) -> None:
        super().__init__()
        self.features, self.pooling = features, pooling

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, dim)`` of unit length."""
        return unit(self.pooling(self.features(images)))


def unit(rows: Tensor) -> Tensor:
    """Return rows ``(n, dim)`` brought to unit length, with fewer operators than torch's own."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.div(rows, length.clamp(min=_LEAST))


def _steps(length: int, parts: int) -> tuple[int, int]:
    """Return length and stride of so many overlapping parts, evenly spread."""
    if length <= parts:
        return 1, 1
    stride = max(1, int(length / (parts + 0.5)))
    return length - stride * (parts - 1), stride


def _regions(maps: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Return the maxima ``(n, c)`` of each region, and what averages other maps over it."""
    found: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
    for top, left, side in region_grid(maps.shape[2], maps.shape[3]):
        rows, columns = slice(top, top + side), slice(left, left + side)

        def mean(other: Tensor, rows: slice = rows, columns: slice = columns) -> Tensor:
            return other[:, :, rows, columns].mean(dim=(2, 3))

        found.append((maps[:, :, rows, columns].amax(dim=(2, 3)), mean))
    return found


def region_grid(height: int, width: int, scales: int = 3) -> list[tuple[int, int, int]]:
    """Return top, left and side of R-MAC's regions, in places of the maps.

    At scale l the side is ``2 * min(height, width) / (l + 1)``; along the longer side there are
    as many more regions as make neighbors overlap by about 40 %.
    """
    shorter, longer = min(height, width), max(height, width)
    more = 0
    if longer > shorter:
        overlaps = [(m, 1 - (longer - shorter) / (m * shorter)) for m in range(1, 7)]
        more = min(overlaps, key=lambda pair: abs(pair[1] - 0.4))[0]
    found = []
    for scale in range(1, scales + 1):
        side = max(1, 2 * shorter // (scale + 1))
        down = scale + (more if height > width else 0)
        across = scale + (more if width > height else 0)
        tops, lefts = _starts(height, side, down), _starts(width, side, across)
        found += [(top, left, side) for top in tops for left in lefts]
    return found


def _starts(length: int, side: int, count: int) -> list[int]:
    spare = length - side
    return [round(i * spare / (count - 1)) for i in range(count)] if count > 1 else [spare // 2]
