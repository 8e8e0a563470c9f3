"""Train an encoder with a recipe of your own: a small contrastive network for handwritten digits.

    python examples/custom_recipe.py

It takes about 15 seconds on one core. The recipe can also be named on the command line, from
this folder; search does not need its code:

    lookalike train dataset:digits/train --recipe custom_recipe:RECIPE -o own.encoder
    lookalike index own.gallery dataset:digits/train --encoder own.encoder
    lookalike evaluate own.gallery dataset:digits/test -k 7 --baselines
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor, nn

import lookalike as la
from lookalike.training.custom import Batch
from lookalike.training.losses import nt_xent


class SmallNetwork(nn.Module):
    """Three convolutions to 64 numbers, and a projection head that only training uses."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 16), (16, 32), (32, 64)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            height, width = (height + 1) // 2, (width + 1) // 2
        layers += [nn.Flatten(), nn.Linear(64 * height * width, 64)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))

    def forward(self, images: Tensor) -> Tensor:
        """Return what the loss compares, ``(n, 32)``."""
        projected: Tensor = self.head(self.body(images))
        return projected


def contrast(network: nn.Module, batch: Batch) -> Tensor:
    """Return NT-Xent of two random views of each image."""
    first, second = network(batch.augmented()), network(batch.augmented())
    return nt_xent(torch.cat((first, second)), temperature=0.5)


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Return the embeddings ``(n, 64)``, without the projection head."""
    assert isinstance(network, SmallNetwork)
    embeddings: Tensor = network.body(images)
    return embeddings


RECIPE = la.Recipe(
    name="small-contrastive",
    summary="a small contrastive network; 64 dimensions",
    network=SmallNetwork,
    loss=contrast,
    embedding=embed,
    normalized=True,
    augment="digits",
    batch=256,
    learning_rate=3e-3,
    one_cycle=True,
    epochs=40,
    size=12,
)


def main() -> None:
    """Train, and print precision@7 of the test images, beside raw pixels."""
    encoder = la.train("dataset:digits/train", recipe=RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        gallery = la.Gallery.create(f"{folder}/digits.gallery", encoder=encoder)
        gallery.sync("dataset:digits/train")
        evaluation = la.evaluate(gallery, "dataset:digits/test", k=7, baselines=True)
    print(f"{encoder.name}: precision@7 {evaluation.scores.precision}")
    print(f"pixels: precision@7 {evaluation.baselines['pixels'].precision}")


if __name__ == "__main__":
    main()
