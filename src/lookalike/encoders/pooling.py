"""From feature maps to one vector an image, as torch modules; imported only to export a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised mean over places (Radenović et al. 2018, section 3.2): p = 1 is the average."""

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


MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "gem": GeM,
    "avg": Average,
    "max": Max,
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
    return torch.div(rows, length.clamp(min=1e-12))
