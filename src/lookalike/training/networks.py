"""The report's three autoencoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """An ``encoder`` from images to codes and a ``decoder`` from codes to images in [0, 1]."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions in [0, 1], of the shape of the images."""
        reconstructed: Tensor = self.decoder(self.encoder(images))
        return reconstructed


def linear() -> Autoencoder:
    """Return the fully connected autoencoder 784-32-784 for ``(n, 1, 28, 28)``."""
    return Autoencoder(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU()),
        nn.Sequential(nn.Linear(32, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))),
    )


def convolutional(*, batch_norm: bool) -> Autoencoder:
    """Return the convolutional autoencoder for ``(n, 1, 28, 28)``, with a 4x7x7 code.

    Two 3x3 convolutions (1-16-4) with max-pooling, two transposed convolutions back. With
    ``batch_norm``, batch normalization follows each convolution of the encoder.
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
    # Pooling before ReLU gives the same values as after it, with a quarter of the operations.
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.MaxPool2d(2), nn.ReLU()]


def to_channels_last(module: nn.Module) -> None:
    """Convert the module's four-dimensional weights to channels-last memory format."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
