"""The report's three autoencoders: modules with an ``encoder`` and a ``decoder``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images ``(n, 1, 28, 28)`` in [0, 1] to a code and back to images of the same shape."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions, ``(n, 1, 28, 28)`` in [0, 1]."""
        reconstructed: Tensor = self.decoder(self.encoder(images))
        return reconstructed


def linear() -> Autoencoder:
    """784-32-784: a fully connected code of 32, ReLU, sigmoid."""
    return Autoencoder(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU()),
        nn.Sequential(nn.Linear(32, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))),
    )


def convolutional(*, batch_norm: bool) -> Autoencoder:
    """Two 3x3 convolutions (1-16-4) with max-pooling to a 4x7x7 code, transposed ones back.

    With ``batch_norm``, batch normalization follows each convolution of the encoder.
    """
    return Autoencoder(
        nn.Sequential(*_stage(1, 16, batch_norm), *_stage(16, 4, batch_norm)),
        nn.Sequential(
            nn.ConvTranspose2d(4, 16, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 2, stride=2),
            nn.Sigmoid(),
        ),
    )


def _stage(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    # Pooling before ReLU gives the same values as after it, for a quarter of the work.
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.MaxPool2d(2), nn.ReLU()]


def parameter_count(module: nn.Module) -> int:
    """Return how many weights a module learns."""
    return sum(p.numel() for p in module.parameters())


def to_channels_last(module: nn.Module) -> None:
    """Lay out the module's four-dimensional weights with the channels last."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
