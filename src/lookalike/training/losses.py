"""Training losses: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def reconstruction_loss(reconstructed: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared error over all pixels, a scalar.

    Args:
        reconstructed: ``(n, c, h, w)`` in [0, 1].
        images: the same shape.
    """
    difference = reconstructed - images  # (n, c, h, w)
    return (difference * difference).mean()


def nt_xent(projected: Tensor, temperature: float) -> Tensor:
    """Return the normalized temperature-scaled cross entropy (Chen et al. 2020, equation 1).

    Args:
        projected: ``(2 n, d)``; rows i and n + i are a positive pair.
        temperature: divisor of the cosine similarities.

    Returns:
        The mean over all rows of the cross entropy of identifying the other row of the pair among
        the 2 n - 1 other rows, a scalar.
    """
    unit = functional.normalize(projected)  # (2 n, d)
    scores = unit @ unit.T / temperature  # (2 n, 2 n)
    scores = scores.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -1e4)
    partners = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)  # (2 n,)
    return functional.cross_entropy(scores, partners)
