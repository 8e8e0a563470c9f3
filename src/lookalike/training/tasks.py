"""Training tasks: a network with its loss, and the modules to export after training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import LinearProjection
from lookalike.sources.sampling import SAMPLE
from lookalike.stores.exact import ExactIndex
from lookalike.training.distributed import current_group
from lookalike.training.losses import nt_xent, reconstruction_loss
from lookalike.training.networks import Autoencoder, report_network
from lookalike.training.recipe import TOWER, Augment, Recipe
from lookalike.training.towers import (
    Concatenated,
    FineHogModule,
    UnitLength,
    mirror_tower,
    projection_layer,
    tower,
)
from lookalike.types import Embeddings, Metric, Progress, ProgressCallback

DIM = 128
"""Dimensions of the tower's embedding."""

NEIGHBORS = 10
"""Nearest neighbors per image that serve as positives."""

_CHUNK = 2000


class Task(nn.Module, ABC):
    """A network in training.

    ``normalized`` tells whether its embeddings have unit length, ``memory_format`` how weights and
    images lie in memory.
    """

    normalized = False
    memory_format = torch.channels_last

    @abstractmethod
    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, a scalar.

        Each of several processes computes its shard of the batch.

        Args:
            pixels: all images ``(n, c, h, w)`` uint8.
            rows: indices of the batch's images, ``(b,)`` int64.
            generator: the only source of randomness; on the device of the tensors.
        """

    @abstractmethod
    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the module from images ``(n, c, h, w)`` in [0, 1] to embeddings.

        ``pixels`` are the training images, uint8.
        """

    def decoder(self) -> nn.Module | None:
        """Return the module from embeddings to images, or None."""
        return None


class Reconstruction(Task):
    """An autoencoder; with augmentations a denoising one, of augmented input and clean target.

    Denoising autoencoders: Vincent, Larochelle, Bengio, Manzagol 2008.
    """

    def __init__(self, model: Autoencoder, augment: Augment | None) -> None:
        super().__init__()
        self.model = model
        self.augment = augment

    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the reconstructions."""
        clean = _to_float(pixels[current_group().shard(rows)], self.memory_format)
        inputs = clean if self.augment is None else self.augment(clean, generator)
        return reconstruction_loss(
            self.model(inputs.contiguous(memory_format=self.memory_format)), clean
        )

    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the encoder of the autoencoder."""
        del pixels
        return self.model.encoder

    def decoder(self) -> nn.Module:
        """Return the decoder of the autoencoder."""
        return self.model.decoder


class Contrastive(Task):
    """Contrastive learning with nearest neighbors as positives.

    With probability ``neighbor_probability`` the second view of a pair is of a random nearest
    neighbor of the image in fine HOG, else of the image itself (as Dwibedi et al. 2021, but with
    fixed neighbors from a handcrafted encoder). The embedding is the output of the tower, before a
    projection head that only training uses (Chen et al. 2020, section 4.2), concatenated with fine
    HOG.

    Args:
        net: module from images to ``(n, DIM)``.
        fine_hog: the encoder that is concatenated and has found the neighbors.
        neighbors: ``(images, k)`` int64 row numbers.
        augment: makes the views.
    """

    normalized = True
    neighbor_probability = 0.8
    temperature = 0.2
    fine_hog_weight = 0.7
    whitening_strength = 0.4

    def __init__(
        self,
        net: nn.Module,
        fine_hog: FineHog,
        neighbors: NDArray[np.int64],
        augment: Augment,
    ) -> None:
        super().__init__()
        self.net = net
        self.fine_hog = FineHogModule(fine_hog)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(DIM, 64))
        self.augment = augment
        self.neighbors: Tensor
        self.register_buffer("neighbors", torch.from_numpy(neighbors), persistent=False)

    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return NT-Xent of two views of each image; views of all processes are negatives."""
        own = current_group().shard(rows)
        count, choices = len(own), self.neighbors.shape[1]
        choice = torch.randint(choices, (count,), generator=generator, device=own.device)
        random = torch.rand(count, generator=generator, device=own.device)
        use_neighbor = random < self.neighbor_probability
        others = torch.where(use_neighbor, self.neighbors[own, choice], own)
        images = self.augment(_to_float(pixels[torch.cat((own, others))]), generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with _autocast(images.device):
            projected = self.head(self.net(images))
        views = projected.float().unflatten(0, (2, count))  # (2, n, d)
        return nt_xent(current_group().all_gather(views, len(rows)).flatten(0, 1), self.temperature)

    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the partially whitened tower concatenated with fine HOG, of unit length."""
        sample = pixels[:: max(1, len(pixels) // SAMPLE)]
        network = nn.Sequential(self.net.eval(), UnitLength())
        with torch.no_grad():
            parts = [network(_to_float(part)) for part in sample.split(_CHUNK)]  # type: ignore[no-untyped-call]
        whitening = LinearProjection.fit(torch.cat(parts).numpy(), DIM, self.whitening_strength)
        if whitening is not None:
            network.append(projection_layer(whitening))
        return Concatenated(network, self.fine_hog, self.fine_hog_weight)


def _to_float(pixels: Tensor, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    return (pixels.float() / 255).contiguous(memory_format=memory_format)


def _autocast(device: torch.device) -> torch.autocast:
    """Use bfloat16 only on hardware that supports it: emulated it is 12 times slower."""
    supported = device.type == "cuda" or (
        device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)


def make_task(
    recipe: Recipe,
    images: NDArray[np.uint8],
    augment: Augment | None,
    on_progress: ProgressCallback,
) -> Task:
    """Return the task of a built-in recipe for images ``(n, c, h, w)`` uint8.

    Its network has torch's initial weights.
    """
    _, channels, height, width = images.shape
    if recipe.network != TOWER:
        return Reconstruction(report_network(recipe), augment)
    net = tower(channels, height, width, DIM)
    if recipe.loss == "reconstruction":
        return Reconstruction(Autoencoder(net, mirror_tower(channels, height, width, DIM)), augment)
    if augment is None:
        raise ValueError(f"recipe {recipe.name!r} needs an augmentation preset")
    fine_hog, embeddings = _fit_fine_hog(images, on_progress)
    neighbors = nearest_neighbors(embeddings, NEIGHBORS, on_progress)
    return Contrastive(net, fine_hog, neighbors, augment)


def _fit_fine_hog(
    images: NDArray[np.uint8], on_progress: ProgressCallback
) -> tuple[FineHog, Embeddings]:
    """Return fine HOG fitted to images ``(n, c, h, w)`` uint8, and their embeddings."""
    count, channels, height, width = images.shape
    listed = images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)
    sample = listed[:: max(1, count // SAMPLE)]
    fine_hog = FineHog.fit("hog-fine", Preprocessing(height, width, channels), list(sample), DIM)
    group = current_group()
    starts = range(0, count, _CHUNK)[group.rank :: group.world_size]
    parts = [listed[start : start + _CHUNK] for start in starts]
    embeddings = np.zeros((count, fine_hog.dim), np.float32)
    on_progress(Progress("encode by fine HOG", 0, count, "images"))
    with ThreadPoolExecutor(group.threads) as threads:
        for start, part in zip(starts, threads.map(fine_hog.encode, parts), strict=True):
            embeddings[start : start + _CHUNK] = part
            on_progress(Progress("encode by fine HOG", start + len(part), count, "images"))
    return fine_hog, group.all_reduce_sum(embeddings)


def nearest_neighbors(
    embeddings: Embeddings, k: int, on_progress: ProgressCallback
) -> NDArray[np.int64]:
    """Return the k nearest other rows of each row by cosine, ``(n, min(k, n - 1))`` int64.

    Each of several processes finds a part of them.
    """
    count = len(embeddings)
    index = ExactIndex(embeddings)
    group = current_group()
    neighbors = np.zeros((count, min(k, count - 1)), np.int64)
    for start in range(0, count, _CHUNK)[group.rank :: group.world_size]:
        on_progress(Progress("find neighbors", start, count, "images"))
        stop = min(start + _CHUNK, count)
        neighbors[start:stop] = index.others(start, stop, k, Metric.COSINE).rows
    neighbors = group.all_reduce_sum(neighbors)
    on_progress(Progress("find neighbors", count, count, "images"))
    return neighbors
