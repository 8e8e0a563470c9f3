"""Training speed: the report's training loop (Dataset, DataLoader, batch 20) against the recipes.

The first part trains the same network for one epoch of MNIST with each, in turn. The second part
trains the contrastive recipe with increasing time limits and prints the time to reach the
precisions in ``TARGETS``, the training views per second, and the share of a step that augmentation
takes. Precision@7 is over all 10,000 test images.

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
from lookalike.encoders.export import to_onnx
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.sources import ArraySource, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.training.allocator import retain_memory
from lookalike.training.augmentations import AUGMENTATIONS
from lookalike.training.networks import set_memory_format
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.tasks import make_task
from lookalike.training.train import train
from lookalike.types import Metric, ignore_progress

ROUNDS = 3
MINUTES = (1.0, 2.0, 3.0)
TARGETS = (0.98, 0.985, 0.99)


class Digits(Dataset[torch.Tensor]):
    """Single images, through PIL to a tensor in [0, 1], as torchvision's MNIST."""

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
    """Return images/s and the encoder of the report's training loop."""
    torch.set_num_threads(settings().threads)
    torch.manual_seed(seed)
    model = report_network()
    criterion, optimizer = nn.MSELoss(), torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(Digits(source.images), batch_size=20, shuffle=True, num_workers=0)
    start = time.perf_counter()
    train_loss = 0.0
    for images in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), images)
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * images.size(0)
    rate = len(source) / (time.perf_counter() - start)
    exported = to_onnx(model[0], torch.zeros(2, 1, 28, 28))
    return rate, NetworkEncoder("report's loop", exported, Preprocessing(28, 28, 1))


def recipe_loop(source: ArraySource, recipe: str, seed: int) -> tuple[float, NetworkEncoder]:
    """Return images/s and the encoder of a recipe."""
    encoder = train(source, recipe=recipe, options=TrainingOptions(epochs=1, seed=seed))
    return len(source) / encoder.origin["seconds"], encoder


def precision(encoder: NetworkEncoder, source: ArraySource, queries: ArraySource) -> float:
    """Return precision@7 of an encoder over all queries."""
    index = ExactIndex(encoder.encode(source.images))
    rows = index.search(encoder.encode(queries.images), 7, Metric.COSINE).rows
    return float((np.array(source.labels)[rows] == np.array(queries.labels)[:, None]).mean())


def augmentation_share(images: np.ndarray) -> float:
    """Return the share of a training step that augmentation takes."""
    torch.set_num_threads(settings().threads)
    recipe, augment = RECIPES["contrastive"], AUGMENTATIONS["digits"]
    task = make_task(recipe, images[:5000, None], augment, ignore_progress).train()
    set_memory_format(task, task.memory_format)
    pixels = torch.from_numpy(images[:5000, None].copy())
    rows = torch.arange(recipe.batch)
    values = pixels[: 2 * recipe.batch].float() / 255
    spent = {"step": 0.0, "augmentation": 0.0}
    with retain_memory():
        for number in range(12):
            generator = torch.Generator().manual_seed(number)
            start = time.perf_counter()
            task.loss(pixels, rows, generator).backward()
            middle = time.perf_counter()
            augment(values, generator)
            if number > 1:
                spent["step"] += middle - start
                spent["augmentation"] += time.perf_counter() - middle
    return spent["augmentation"] / spent["step"]


def contrastive(source: ArraySource, queries: ArraySource, report_rate: float) -> None:
    """Print the precision of the contrastive recipe by time limit, and its speed."""
    reached: dict[float, float] = {}
    print("\ncontrastive, augment digits: time limit (min), time (s), views/s, P@7")
    for minutes in MINUTES:
        options = TrainingOptions(minutes=minutes, augment="digits")
        encoder = train(source, recipe="contrastive", options=options)
        origin = encoder.origin
        used = origin["preparation_seconds"] + origin["seconds"]
        rate = 2 * origin["epochs"] * len(source) / origin["seconds"]
        score = precision(encoder, source, queries)
        print(f"  {minutes:4.1f}  {used:6.0f} s  {rate:7,.0f} views/s  {score:.4f}", flush=True)
        for target in TARGETS:
            if score >= target:
                reached.setdefault(target, used)
    for target in TARGETS:
        print(
            f"  P@7 {target}: {f'{reached[target]:.0f} s' if target in reached else 'not reached'}"
        )
    ratio = rate / report_rate
    print(f"  training views per image of the report's loop, in the same time: {ratio:.2f}")
    print(f"  augmentation takes {augmentation_share(source.images):.0%} of a step")


def main() -> None:
    """Train in turn and print speed, ratios and precision."""
    source, queries = open_source("dataset:mnist/train"), open_source("dataset:mnist/test")
    assert isinstance(source, ArraySource)
    assert isinstance(queries, ArraySource)
    names = ("report's loop", "report-conv-bn", "fast-conv-bn")
    rates: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(ROUNDS):
        for name in names:
            if name == names[0]:
                rate, encoder = report_loop(source, seed)
            else:
                rate, encoder = recipe_loop(source, name, seed)
            rates[name].append(rate)
            scores[name].append(precision(encoder, source, queries))
            print(f"  seed {seed}  {name:16} {rate:7,.0f} images/s  P@7 {scores[name][-1]:.4f}")
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
    contrastive(source, queries, statistics.median(rates[names[0]]))


if __name__ == "__main__":
    main()
