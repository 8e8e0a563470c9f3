"""Recipes that reproduce the report of 2020: its three autoencoders, each also in larger batches.

They are for comparison with the published results, on gray images of 28x28 pixels. To train an
encoder on other images, use ``contrastive`` or ``denoising`` from :mod:`.recipes`. The networks
are in :mod:`.networks`, which imports torch; this module does not.
"""

from __future__ import annotations

from dataclasses import replace

from lookalike.training.recipe import Layer, Recipe

_LINEAR_LAYERS = (
    Layer("input", "1 x 28 x 28", 0),
    Layer("linear, ReLU", "32", 25_120, is_embedding=True),
    Layer("linear, sigmoid", "1 x 28 x 28", 25_872),
)


def _conv_layers(norm: str = "", norm_parameters: tuple[int, int] = (0, 0)) -> tuple[Layer, ...]:
    first, second = 160 + norm_parameters[0], 580 + norm_parameters[1]
    return (
        Layer("input", "1 x 28 x 28", 0),
        Layer(f"conv 3x3{norm}, ReLU, max-pool 2", "16 x 14 x 14", first),
        Layer(f"conv 3x3{norm}, ReLU, max-pool 2", "4 x 7 x 7", second, is_embedding=True),
        Layer("transposed conv 2x2, ReLU", "16 x 14 x 14", 272),
        Layer("transposed conv 2x2, sigmoid", "1 x 28 x 28", 65),
    )


_LINEAR = Recipe(
    name="report-linear",
    summary="the report's linear autoencoder; 32 dimensions",
    network="linear",
    layers=_LINEAR_LAYERS,
)
_CONV = Recipe(
    name="report-conv",
    summary="the report's convolutional autoencoder; 196 dimensions",
    network="conv",
    layers=_conv_layers(),
)
_CONV_BN = Recipe(
    name="report-conv-bn",
    summary="report-conv with batch norm in the encoder",
    network="conv-bn",
    layers=_conv_layers(", batch norm", (32, 8)),
)


def _fast(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        name=recipe.name.replace("report", "fast"),
        summary=f"{recipe.name} in batches of 128, for speed",
        batch=128,
    )


REPORT_RECIPES = (
    *(_LINEAR, _CONV, _CONV_BN),
    *(_fast(_LINEAR), _fast(_CONV), _fast(_CONV_BN)),
)
"""``report-*`` as in the report, in batches of 20 images; ``fast-*`` in batches of 128."""
