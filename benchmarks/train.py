"""Training speed: the report's own loop (Dataset, DataLoader, batch 20) beside our recipes.

All train the same network for one epoch on MNIST, in one run, in turn; precision@7 is over all
10,000 test images.

    python benchmarks/train.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.training.export import to_onnx
from lookalike.training.loop import TrainingOptions
from lookalike.training.run import train
from lookalike.types import Metric

ROUNDS = 3


class Digits(Dataset[torch.Tensor]):
    """One image at a time, by way of PIL to a tensor in [0, 1], as torchvision's MNIST does."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images.copy())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.fromarray(self.images[index].numpy(), mode=None)
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
        return pixels.view(1, 28, 28).float().div(255)


def report_network() -> nn.Sequential:
    """Return the report's autoencoder with batch norm, layer by layer as printed there."""
    encoder = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
    )
    decoder = nn.Sequential(
        *(nn.ConvTranspose2d(4, 16, 2, stride=2), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 1, 2, stride=2), nn.Sigmoid()),
    )
    return nn.Sequential(encoder, decoder)


def report_loop(source: ArraySource, seed: int) -> tuple[float, NetworkEncoder]:
    """Return images/s and the encoder of the report's own training loop."""
    torch.set_num_threads(settings().threads)
    torch.manual_seed(seed)
    model = report_network()
    criterion, optimiser = nn.MSELoss(), torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(Digits(source.images), batch_size=20, shuffle=True, num_workers=0)
    start = time.perf_counter()
    train_loss = 0.0
    for images in loader:
        optimiser.zero_grad()
        loss = criterion(model(images), images)
        loss.backward()
        optimiser.step()
        train_loss += loss.item() * images.size(0)
    rate = len(source) / (time.perf_counter() - start)
    exported = to_onnx(model[0], torch.zeros(2, 1, 28, 28))
    return rate, NetworkEncoder("report's loop", exported, Preprocessing(28, 28, 1))


def ours(source: ArraySource, recipe: str, seed: int) -> tuple[float, NetworkEncoder]:
    """Return images/s and the encoder of one of our recipes."""
    encoder = train(source, recipe=recipe, options=TrainingOptions(epochs=1, seed=seed))
    return len(source) / encoder.origin["seconds"], encoder


def precision(encoder: NetworkEncoder, source: ArraySource, queries: ArraySource) -> float:
    """Return precision@7 of an encoder over all queries."""
    index = ExactIndex(encoder.encode(source.images))
    rows = index.search(encoder.encode(queries.images), 7, Metric.COSINE).rows
    return float((np.array(source.labels)[rows] == np.array(queries.labels)[:, None]).mean())


def main() -> None:
    """Train in turn and print rates, ratios and precision."""
    source, queries = open_source("dataset:mnist/train"), open_source("dataset:mnist/test")
    assert isinstance(source, ArraySource)
    assert isinstance(queries, ArraySource)
    names = ("report's loop", "report-conv-bn", "fast-conv-bn")
    rates: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(ROUNDS):
        for name in names:
            made = report_loop(source, seed) if name == names[0] else ours(source, name, seed)
            rates[name].append(made[0])
            scores[name].append(precision(made[1], source, queries))
            print(f"  seed {seed}  {name:16} {made[0]:7,.0f} images/s  P@7 {scores[name][-1]:.4f}")
    print(f"one epoch of MNIST, {settings().threads} threads, {ROUNDS} seeds in turn")
    print(f"{'':16}  images/s    ratio (min to max)        P@7   difference")
    for name in names:
        ratios = [a / b for a, b in zip(rates[name], rates[names[0]], strict=True)]
        mean = statistics.mean(scores[name])
        print(
            f"{name:16} {statistics.median(rates[name]):9,.0f}    {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})     {mean:.4f}   "
            f"{100 * (mean - statistics.mean(scores[names[0]])):+.2f} points"
        )


if __name__ == "__main__":
    main()
