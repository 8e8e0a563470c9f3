"""What training makes small: pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def reconstruction(reconstructed: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared error over all pixels, a scalar.

    Args:
        reconstructed: ``(n, c, h, w)`` in [0, 1].
        images: the same shape.
    """
    difference = reconstructed - images  # (n, c, h, w)
    return (difference * difference).mean()
