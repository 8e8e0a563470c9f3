"""Recipes by name: network, objective and schedule, as frozen data. torch is not loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lookalike.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a network in words: what it does, its output's shape, how many weights it has.

    ``is_embedding`` marks the one whose output is the embedding.
    """

    name: str
    output: str
    weights: int
    is_embedding: bool = False

    @property
    def title(self) -> str:
        """The name, and whether its output is the embedding."""
        return f"{self.name} (embedding)" if self.is_embedding else self.name


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an encoder is trained.

    Args:
        name: what ``--recipe`` takes.
        summary: one line for people.
        network: a key of :data:`lookalike.training.tasks.NETWORKS`, or "tower".
        layers: of the network; none where they depend on the size of the images.
        objective: "reconstruction" or "contrastive".
        views: how images are distorted unless ``--views`` says otherwise; None for not at all.
        batch: images a step.
        learning_rate: Adam's; the highest one of the cycle if there is one.
        weight_decay: AdamW's; 0 for Adam.
        one_cycle: whether the learning rate rises and falls, or is constant.
        epochs: passes over the images unless ``--epochs`` says otherwise.
        least_steps: so many steps at least, by more epochs; for small collections.
        whole_batches: leave out the images that do not fill a last batch.
        size: images are brought to this many pixels a side, gray; None for any size and color.
    """

    name: str
    summary: str
    network: str
    layers: tuple[Layer, ...] = ()
    objective: str = "reconstruction"
    views: str | None = None
    batch: int = 20
    learning_rate: float = 0.01
    weight_decay: float = 0
    one_cycle: bool = False
    epochs: int = 1
    least_steps: int = 1
    whole_batches: bool = False
    size: int | None = 28


_LINEAR_LAYERS = (
    Layer("input", "1 x 28 x 28", 0),
    Layer("linear, ReLU", "32", 25_120, is_embedding=True),
    Layer("linear, sigmoid", "1 x 28 x 28", 25_872),
)


def _conv_layers(norm: str, extra: tuple[int, int]) -> tuple[Layer, ...]:
    conv = f"conv 3x3{norm}, ReLU, max-pool 2"
    return (
        Layer("input", "1 x 28 x 28", 0),
        Layer(conv, "16 x 14 x 14", 160 + extra[0]),
        Layer(conv, "4 x 7 x 7", 580 + extra[1], is_embedding=True),
        Layer("transposed conv 2x2, ReLU", "16 x 14 x 14", 272),
        Layer("transposed conv 2x2, sigmoid", "1 x 28 x 28", 65),
    )


_LINEAR = Recipe(
    "report-linear", "the report's 784-32-784 linear autoencoder", "linear", _LINEAR_LAYERS
)
_CONV = Recipe(
    "report-conv",
    "the report's convolutional autoencoder, code 4x7x7 = 196",
    "conv",
    _conv_layers("", (0, 0)),
)
_CONV_BN = Recipe(
    "report-conv-bn",
    "the same with batch norm after each encoder convolution",
    "conv-bn",
    _conv_layers(", batch norm", (32, 8)),
)


def _fast(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        name=recipe.name.replace("report", "fast"),
        summary=f"{recipe.name} in batches of 128: its code, sooner",
        batch=128,
    )


_CONTRASTIVE = Recipe(
    "contrastive",
    "views and neighbors brought together; with fine HOG, 256 dimensions",
    "tower",
    objective="contrastive",
    views="objects",
    batch=512,
    learning_rate=3e-3,
    weight_decay=1e-4,
    one_cycle=True,
    epochs=3,
    least_steps=350,
    whole_batches=True,
    size=None,
)
_DENOISING = replace(
    _CONTRASTIVE,
    name="denoising",
    summary="an autoencoder shown a distorted view and asked for the clean image, code 128",
    objective="reconstruction",
    batch=256,
    epochs=5,
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(_CONTRASTIVE, _DENOISING, _LINEAR, _CONV, _CONV_BN),
        *(_fast(_LINEAR), _fast(_CONV), _fast(_CONV_BN)),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UnknownNameError: there is none; the nearest is offered.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
