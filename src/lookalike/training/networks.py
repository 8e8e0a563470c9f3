"""The report's three autoencoders, in any code size and widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lookalike.training.recipe import Recipe


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


def linear(code_size: int = 32, widths: Sequence[int] = ()) -> Autoencoder:
    """Return the fully connected autoencoder 784-32-784 for ``(n, 1, 28, 28)``.

    Args:
        code_size: dimensions of the code.
        widths: units of the hidden layers between image and code; the decoder mirrors them.
    """
    sizes = [784, *widths, code_size]
    encoder: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        encoder += [nn.Linear(inputs, outputs), nn.ReLU()]
    decoder: list[nn.Module] = []
    for inputs, outputs in pairwise(reversed(sizes)):
        decoder += [nn.Linear(inputs, outputs), nn.ReLU()]
    decoder[-1:] = [nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28))]
    return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder))


def convolutional(
    *, batch_norm: bool, widths: Sequence[int] = (16, 4), code_size: int | None = None
) -> Autoencoder:
    """Return the convolutional autoencoder for ``(n, 1, 28, 28)``, by default with a 4x7x7 code.

    3x3 convolutions (1-16-4) with max-pooling, and as many transposed convolutions back. With
    ``batch_norm``, batch normalization follows each convolution of the encoder.

    Args:
        batch_norm: see above.
        widths: output channels of the convolutions, one or two.
        code_size: dimensions of the code, by a linear layer behind the convolutions; None for none.
    """
    channels = [1, *widths]
    side = 28 >> len(widths)
    shape = (channels[-1], side, side)
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        encoder += _stage(inputs, outputs, batch_norm)
    if code_size is not None:
        encoder += [nn.Flatten(), nn.Linear(math.prod(shape), code_size), nn.ReLU()]
        back = nn.Linear(code_size, math.prod(shape))
        decoder += [back, nn.ReLU(), nn.Unflatten(1, shape)]
    for inputs, outputs in pairwise(reversed(channels)):
        decoder += [nn.ConvTranspose2d(inputs, outputs, 2, stride=2), nn.ReLU()]
    decoder[-1] = nn.Sigmoid()
    return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder))


def report_network(recipe: Recipe) -> Autoencoder:
    """Return the network of one of the report's recipes, with initial weights."""
    widths = recipe.widths or ()
    if recipe.network == "linear":
        return linear(recipe.code_size or 0, widths)
    batch_norm = recipe.network == "conv-bn"
    return convolutional(batch_norm=batch_norm, widths=widths, code_size=recipe.code_size)


def _stage(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    # Pooling before ReLU gives the same values as after it, with a quarter of the operations.
    return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.MaxPool2d(2), nn.ReLU()]


def set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert the module's four-dimensional weights to a memory format, in place."""
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
