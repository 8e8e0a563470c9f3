"""Custom recipes as training tasks: the batch that a loss gets, and checks of what it makes.

Everything that a recipe's functions return is checked before the first step, where it can be.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike.encoders.base import MAX_DIM
from lookalike.errors import SettingError
from lookalike.training.distributed import current_group
from lookalike.training.networks import Autoencoder
from lookalike.training.recipe import Augment, EmbeddingFunction, Recipe
from lookalike.training.tasks import Reconstruction, Task
from lookalike.training.torch_state import seed_weights
from lookalike.training.towers import UnitLength


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of a step, as a loss gets them.

    Args:
        images: ``(b, c, h, w)`` float32 in [0, 1]; of several processes each has a part.
        rows: their indices among the training images, ``(b,)`` int64.
        generator: for random numbers, on the device of the images.
    """

    images: Tensor
    rows: Tensor
    generator: torch.Generator
    _augment: Augment | None = field(repr=False)
    _count: int = field(repr=False)
    """Images of all processes together."""

    def augmented(self) -> Tensor:
        """Return a new random view of each image, ``(b, c, h, w)`` float32 in [0, 1].

        Without augmentations these are the images.
        """
        return self.images if self._augment is None else self._augment(self.images, self.generator)

    def gather(self, rows: Tensor) -> Tensor:
        """Return rows ``(b, d)`` of all processes as one batch, in order and with their gradient.

        So that a contrastive loss has the negatives of the whole batch; of a single process the
        rows themselves.
        """
        return current_group().all_gather(rows[None], self._count)[0]


class CustomTask(Task):
    """The network and the loss of a custom recipe."""

    memory_format = torch.contiguous_format  # which a network that calls Tensor.view needs

    def __init__(self, recipe: Recipe, net: nn.Module, augment: Augment | None) -> None:
        super().__init__()
        self.net = net
        self.normalized = recipe.normalized
        self._recipe = recipe
        self._augment = augment

    def loss(self, pixels: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of the recipe.

        Raises:
            SettingError: it is no scalar with a gradient.
        """
        assert callable(self._recipe.loss)
        own = current_group().shard(rows)
        images = pixels[own].float() / 255
        _seed_global_generators(generator)
        loss = self._recipe.loss(self.net, Batch(images, own, generator, self._augment, len(rows)))
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise SettingError(
                f"recipe {self._recipe.name!r}: {{loss}} must return a scalar tensor that depends "
                f"on the network's weights; it returned {_describe(loss)}",
                loss=None,
            )
        return loss.reshape(())

    def encoder(self, pixels: Tensor) -> nn.Module:
        """Return the module from images to embeddings; ``pixels`` are not needed."""
        del pixels
        embedding = _Embedding(self.net, self._recipe.embedding or _call)
        return nn.Sequential(embedding, UnitLength()) if self.normalized else embedding


class _Embedding(nn.Module):
    """Images ``(n, c, h, w)`` in [0, 1] to the embeddings ``(n, dim)`` of a recipe's network."""

    def __init__(self, net: nn.Module, embed: EmbeddingFunction) -> None:
        super().__init__()
        self.net = net
        self._embed = embed

    def forward(self, images: Tensor) -> Tensor:
        return self._embed(self.net, images).flatten(1)


def custom_task(recipe: Recipe, images: NDArray[np.uint8], augment: Augment | None) -> Task:
    """Return the task of a custom recipe for images ``(n, c, h, w)`` uint8.

    Raises:
        SettingError: network or embedding are not what training and export need.
    """
    assert callable(recipe.network)
    net = recipe.network(*images.shape[1:])
    if not isinstance(net, nn.Module):
        raise _error(recipe, "network", "must return a torch.nn.Module", net)
    if not any(each.requires_grad for each in net.parameters()):
        raise SettingError(
            f"recipe {recipe.name!r}: {{network}} must have weights to train", network=None
        )
    if callable(recipe.loss):
        _check_embedding(recipe, net, recipe.embedding or _call, images)
        return CustomTask(recipe, net, augment)
    task = _autoencoder(recipe, net, augment)
    _check_embedding(recipe, task.model.encoder, _call, images)
    return task


def _autoencoder(recipe: Recipe, net: nn.Module, augment: Augment | None) -> Reconstruction:
    encoder, decoder = (getattr(net, name, None) for name in ("encoder", "decoder"))
    if not (isinstance(encoder, nn.Module) and isinstance(decoder, nn.Module)):
        raise SettingError(
            f"recipe {recipe.name!r}: {{loss}} needs a network with the modules encoder and "
            "decoder; give a function",
            loss=recipe.loss,
        )
    task = Reconstruction(Autoencoder(encoder, decoder), augment)
    task.memory_format = torch.contiguous_format
    return task


def _call(net: nn.Module, images: Tensor) -> Tensor:
    result: Tensor = net(images)
    return result


def _check_embedding(
    recipe: Recipe, net: nn.Module, embed: EmbeddingFunction, images: NDArray[np.uint8]
) -> None:
    """Embed two images, in eval mode."""
    pixels = torch.from_numpy(images[:2])
    modes = [(module, module.training) for module in net.modules()]
    with torch.no_grad():
        rows = embed(net.eval(), pixels.float() / 255)
    for module, mode in modes:
        module.training = mode
    if (
        not isinstance(rows, Tensor)
        or rows.ndim < 2
        or len(rows) != len(pixels)
        or not rows.is_floating_point()
        or not 1 <= rows[0].numel() <= MAX_DIM
    ):
        name = "network" if recipe.embedding is None else "embedding"
        raise _error(recipe, name, f"must return embeddings ({len(pixels)}, dim)", rows)


def _seed_global_generators(generator: torch.Generator) -> None:
    """Seed torch's own generators from that of the step.

    A network's dropout and random numbers that a loss draws without a generator then depend on the
    step only, and a resumed run repeats them. Training restores them at its end.
    """
    seed = generator.initial_seed()
    seed_weights(seed)
    if generator.device.type == "cuda":
        with torch.cuda.device(generator.device):
            torch.cuda.manual_seed(seed)


def _error(recipe: Recipe, name: str, expected: str, value: object) -> SettingError:
    return SettingError(
        f"recipe {recipe.name!r}: {{{name}}} {expected}; it returned {_describe(value)}",
        **{name: None},
    )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        gradient = ", without a gradient" if not value.requires_grad else ""
        return f"a tensor of shape {tuple(value.shape)}{gradient}"
    return f"a value of type {type(value).__name__}"
