"""Recipes that reproduce the report of 2020: its three autoencoders, and each in larger batches.

They are for comparison with the published figures, on gray images of 28x28 pixels; to train an
encoder for other images, take ``contrastive`` or ``denoising`` of :mod:`.recipes`. The networks
are in :mod:`.networks`, which loads torch; this module does not.
"""

from __future__ import annotations

from dataclasses import replace

from lookalike.training.recipe import Layer, Recipe

_LINEAR_LAYERS = (
    Layer("input", "1 x 28 x 28", 0),
    Layer("linear, ReLU", "32", 25_120, is_embedding=True),
    Layer("linear, sigmoid", "1 x 28 x 28", 25_872),
)


def _conv_layers(norm: str, extra: tuple[int, int]) -> tuple[Layer, ...]:
    return (
        Layer("input", "1 x 28 x 28", 0),
        Layer(f"conv 3x3{norm}, ReLU, max-pool 2", "16 x 14 x 14", 160 + extra[0]),
        Layer(f"conv 3x3{norm}, ReLU, max-pool 2", "4 x 7 x 7", 580 + extra[1], is_embedding=True),
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


REPORT_RECIPES = (
    *(_LINEAR, _CONV, _CONV_BN),
    *(_fast(_LINEAR), _fast(_CONV), _fast(_CONV_BN)),
)
"""``report-*`` has the report's batches of 20 images, ``fast-*`` the same networks in batches of
128."""
