"""What is trained: a network's loss on a batch of images, and what is exported at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
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
from lookalike.training.augmentations import Augmentations
from lookalike.training.distributed import current_group
from lookalike.training.losses import nt_xent, reconstruction
from lookalike.training.networks import Autoencoder, convolutional, linear
from lookalike.training.recipes import Recipe
from lookalike.training.towers import FineHogModule, Joined, Unit, affine, mirror_tower, tower
from lookalike.types import Embeddings, Metric, Progress, ProgressCallback

NETWORKS: Mapping[str, Callable[[], Autoencoder]] = {
    "linear": linear,
    "conv": lambda: convolutional(batch_norm=False),
    "conv-bn": lambda: convolutional(batch_norm=True),
}
"""The report's, for gray images of 28 x 28 pixels; a tower is made to fit any size."""

DIM = 128


class Task(nn.Module, ABC):
    """A network in training."""

    normalized = False

    @abstractmethod
    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss, a scalar, on the images ``rows`` of ``pixels`` ``(n, c, h, w)`` uint8.

        All tensors and ``generator``, the only source of chance, are on one device. Of several
        processes each takes its share of the rows.
        """

    @abstractmethod
    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return what makes embeddings from images ``(n, c, h, w)`` in [0, 1].

        ``pixels`` are the images it was trained on, uint8.
        """

    def decoder(self) -> nn.Module | None:
        """Return what makes images from embeddings, if there is such a thing."""
        return None


class Reconstruction(Task):
    """An autoencoder; with views, one that is shown a distorted image and asked for the clean one.

    The latter after Vincent, Larochelle, Bengio, Manzagol 2008 (denoising autoencoders).
    """

    def __init__(self, model: Autoencoder, augment: Augmentations | None) -> None:
        super().__init__()
        self.model = model
        self.augment = augment

    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error of the reconstructions."""
        clean = _values(pixels[current_group().shard(rows)])
        shown = clean if self.augment is None else self.augment(clean, generator)
        return reconstruction(
            self.model(shown.contiguous(memory_format=torch.channels_last)), clean
        )

    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the autoencoder's first half."""
        del pixels
        return self.model.encoder

    def decoder(self) -> nn.Module:
        """Return its second half."""
        return self.model.decoder


class Contrastive(Task):
    """Two views are to be nearer to each other than to any other image's in the batch.

    The second view is of a random one of the image's nearest neighbors in fine HOG, with
    probability ``near``, else of the image itself (as in Dwibedi et al. 2021, with neighbors found
    once and by an encoder that learns nothing). The embedding is the tower's, before a head that
    only training uses (Chen et al. 2020, section 4.2), beside fine HOG's.

    Args:
        net: images to ``(n, DIM)``.
        fine: the encoder that stands beside it and gave the neighbors.
        neighbors: ``(images, k)`` int64 row numbers.
        augment: how views are made.
    """

    normalized = True
    near = 0.8
    temperature = 0.2
    fine_weight = 0.7
    whitening = 0.4

    def __init__(
        self, net: nn.Module, fine: FineHog, neighbors: NDArray[np.int64], augment: Augmentations
    ) -> None:
        super().__init__()
        self.net = net
        self.fine = FineHogModule(fine)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(DIM, 64))
        self.augment = augment
        self.neighbors: Tensor
        self.register_buffer("neighbors", torch.from_numpy(neighbors), persistent=False)

    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return NT-Xent of two views of each image, those of all processes among the others."""
        own = current_group().shard(rows)
        count, among = len(own), self.neighbors.shape[1]
        pick = torch.randint(among, (count,), generator=generator, device=own.device)
        nearby = torch.rand(count, generator=generator, device=own.device) < self.near
        others = torch.where(nearby, self.neighbors[own, pick], own)
        images = self.augment(_values(pixels[torch.cat((own, others))]), generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with _autocast(images.device):
            projected = self.head(self.net(images))
        views = projected.float().unflatten(0, (2, count))  # (2, n, d)
        return nt_xent(current_group().all_gather(views, len(rows)).flatten(0, 1), self.temperature)

    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the half-whitened tower and fine HOG side by side, of unit length."""
        some = pixels[:: max(1, len(pixels) // SAMPLE)]
        unit = nn.Sequential(self.net.eval(), Unit())
        with torch.no_grad():
            found = torch.cat([unit(_values(part)) for part in some.split(_CHUNK)])  # type: ignore[no-untyped-call]
        whitening = LinearProjection.fit(found.numpy(), DIM, self.whitening)
        if whitening is not None:
            unit.append(affine(whitening))
        return Joined(unit, self.fine, self.fine_weight)


def _values(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where that is faster: without its instructions it is 12 times slower."""
    fast = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def make_task(
    recipe: Recipe,
    images: NDArray[np.uint8],
    augment: Augmentations | None,
    on_progress: ProgressCallback,
) -> Task:
    """Return a recipe's task for images ``(n, c, h, w)`` uint8, with torch's first weights."""
    _, channels, height, width = images.shape
    if recipe.network != "tower":
        return Reconstruction(NETWORKS[recipe.network](), augment)
    net = tower(channels, height, width, DIM)
    if recipe.objective == "reconstruction":
        return Reconstruction(Autoencoder(net, mirror_tower(channels, height, width, DIM)), augment)
    if augment is None:
        raise ValueError(f"recipe {recipe.name!r} compares views and names none")
    fine, embeddings = _fine_hog(images, on_progress)
    return Contrastive(net, fine, nearest(embeddings, NEIGHBORS, on_progress), augment)


NEIGHBORS = 10


def _fine_hog(
    images: NDArray[np.uint8], on_progress: ProgressCallback
) -> tuple[FineHog, Embeddings]:
    """Return fine HOG fitted to the images ``(n, c, h, w)`` and their embeddings."""
    count, channels, height, width = images.shape
    listed = images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)
    sample = listed[:: max(1, count // SAMPLE)]
    fine = FineHog.fit("hog-fine", Preprocessing(height, width, channels), list(sample), DIM)
    group = current_group()
    starts = range(0, count, _CHUNK)[group.rank :: group.world_size]
    parts = [listed[start : start + _CHUNK] for start in starts]
    embeddings = np.zeros((count, fine.dim), np.float32)
    on_progress(Progress("describe by fine HOG", 0, count, "images"))
    with ThreadPoolExecutor(group.threads) as threads:
        for start, found in zip(starts, threads.map(fine.encode, parts), strict=True):
            embeddings[start : start + _CHUNK] = found
            on_progress(Progress("describe by fine HOG", start + len(found), count, "images"))
    return fine, group.all_reduce_sum(embeddings)


_CHUNK = 2000


def nearest(embeddings: Embeddings, k: int, on_progress: ProgressCallback) -> NDArray[np.int64]:
    """Return the k nearest other rows to each row by cosine, ``(n, min(k, n - 1))`` int64.

    Of several processes each looks for its share of them.
    """
    count = len(embeddings)
    index = ExactIndex(embeddings)
    group = current_group()
    found = np.zeros((count, min(k, count - 1)), np.int64)
    for start in range(0, count, _CHUNK)[group.rank :: group.world_size]:
        on_progress(Progress("find neighbors", start, count, "images"))
        stop = min(start + _CHUNK, count)
        found[start:stop] = index.others(start, stop, k, Metric.COSINE).rows
    found = group.all_reduce_sum(found)
    on_progress(Progress("find neighbors", count, count, "images"))
    return found
