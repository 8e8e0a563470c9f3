"""Recipes that reproduce the report of 2020: its three autoencoders, each also in larger batches.

They are for comparison with the published results, on gray images of 28x28 pixels, and for studies
of their code size and widths. To train an encoder on other images, use ``contrastive`` or
``denoising`` from :mod:`.recipes`. The networks are in :mod:`.networks`, which imports torch; this
module does not.
"""

from __future__ import annotations

from dataclasses import replace

from lookalike.training.recipe import Layer, Recipe

_SIDE = 28

_LINEAR = Recipe(
    name="report-linear",
    summary="the report's linear autoencoder; 32 dimensions",
    network="linear",
    loss="reconstruction",
    batch=20,
    learning_rate=0.01,
    size=_SIDE,
    widths=(),
    code_size=32,
)
_CONV = replace(
    _LINEAR,
    name="report-conv",
    summary="the report's convolutional autoencoder; 196 dimensions",
    network="conv",
    widths=(16, 4),
    code_size=None,
)
_CONV_BN = replace(
    _CONV,
    name="report-conv-bn",
    summary="report-conv with batch norm in the encoder",
    network="conv-bn",
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


def network_layers(recipe: Recipe) -> tuple[Layer, ...]:
    """Return the layers of one of the report's networks; of other recipes none."""
    if recipe.widths is None:
        return ()
    image = f"1 x {_SIDE} x {_SIDE}"
    layers = _linear_layers(recipe, image) if recipe.network == "linear" else _conv_layers(recipe)
    return (Layer("input", image, 0), *layers)


def _linear_layers(recipe: Recipe, image: str) -> list[Layer]:
    hidden = list(recipe.widths or ())
    outputs = [*hidden, recipe.code_size or 0, *reversed(hidden), _SIDE * _SIDE]
    layers = []
    inputs = _SIDE * _SIDE
    for number, width in enumerate(outputs):
        parameters = (inputs + 1) * width
        last = number == len(outputs) - 1
        layers.append(
            Layer("linear, sigmoid", image, parameters)
            if last
            else Layer("linear, ReLU", str(width), parameters, number == len(hidden))
        )
        inputs = width
    return layers


def _conv_layers(recipe: Recipe) -> list[Layer]:
    widths, code_size = list(recipe.widths or ()), recipe.code_size
    norm = recipe.network == "conv-bn"
    encoder, decoder = [], []
    inputs, side = 1, _SIDE
    for number, channels in enumerate(widths):
        outer = f"{inputs} x {side} x {side}"
        side //= 2
        inner = f"{channels} x {side} x {side}"
        parameters = (9 * inputs + 1) * channels + 2 * channels * norm
        name = f"conv 3x3{', batch norm' if norm else ''}, ReLU, max-pool 2"
        is_code = code_size is None and number == len(widths) - 1
        encoder.append(Layer(name, inner, parameters, is_code))
        name = f"transposed conv 2x2, {'ReLU' if number else 'sigmoid'}"
        decoder.append(Layer(name, outer, (4 * channels + 1) * inputs))
        inputs = channels
    if code_size is not None:
        values = inputs * side * side
        encoder.append(Layer("linear, ReLU", str(code_size), (values + 1) * code_size, True))
        decoder.append(Layer("linear, ReLU", inner, (code_size + 1) * values))
    return [*encoder, *reversed(decoder)]
