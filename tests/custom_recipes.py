"""A custom recipe that uses what such recipes may: dropout, shared weights, no generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lookalike as la
from lookalike.training.custom import Batch
from lookalike.training.losses import nt_xent


class Network(nn.Module):
    """Two linear layers that share their weights, with dropout between them."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels * height * width, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.third.weight = self.second.weight
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.2)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(n, 16)``."""
        hidden = self.norm(self.first(images.view(len(images), -1)))
        hidden = self.dropout(self.second(hidden).relu())
        result: Tensor = self.third(hidden)
        return result


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Return NT-Xent of two views, each with noise of torch's own generator."""
    views = [batch.augmented() for _ in range(2)]
    noisy = [view + 0.05 * torch.randn_like(view) for view in views]
    return nt_xent(torch.cat([batch.gather(network(view)) for view in noisy]), 0.5)


OWN = la.Recipe(
    name="own",
    network=Network,
    loss=loss,
    embedding=lambda network, images: network(images)[:, :8],
    normalized=True,
    augment="digits",
    batch=65,
    learning_rate=0.003,
    size=12,
)


def recipe() -> la.Recipe:
    """Return the recipe, as a function that the command line can call."""
    return OWN
