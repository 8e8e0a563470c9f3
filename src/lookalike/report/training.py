"""Training of the evaluated networks, as sections of a report: layers, losses, reconstructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lookalike.encoders.onnx import DECODER_FILE, NetworkEncoder
from lookalike.evaluation.results import Evaluation
from lookalike.report import figures
from lookalike.report.page import Section, Table, chart, png
from lookalike.search.contact_sheet import rows_sheet
from lookalike.training.recipe import LOSSES, Recipe
from lookalike.training.recipes import RECIPES
from lookalike.training.report_recipes import network_layers

_QUERIES = 10


def training_sections(
    evaluation: Evaluation, encoders: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    """Yield layers, training losses and reconstructions of an evaluation's networks."""
    for name, encoder in encoders.items():
        recipe = _built_in(encoder)
        if recipe is not None and recipe.widths is not None:
            yield _layers(name, recipe)
    histories: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {}
    for name, encoder in encoders.items():
        if encoder.origin.get("history"):
            histories.setdefault(_loss_name(encoder), {})[name] = encoder.origin["history"]
    for loss_name in sorted(histories, key=_loss_rank):
        yield _losses(loss_name, histories[loss_name])
    autoencoders = {
        name: encoder for name, encoder in encoders.items() if DECODER_FILE in encoder.files()
    }
    if autoencoders:
        yield from _reconstructions(evaluation, autoencoders)


def _built_in(encoder: NetworkEncoder) -> Recipe | None:
    """Return the built-in recipe that trained an encoder, in its code size and widths, or None."""
    recipe = RECIPES.get(encoder.name)
    if recipe is None or recipe.widths is None:
        return recipe
    return recipe.resized(encoder.origin.get("code_size"), encoder.origin.get("widths"))


def _loss_name(encoder: NetworkEncoder) -> str:
    recipe = _built_in(encoder)
    return str(encoder.origin.get("loss_name", "loss")) if recipe is None else recipe.loss_name


def _loss_rank(loss_name: str) -> int:
    """Return the place of a loss: the built-in ones first, in their order."""
    return (*LOSSES.values(), loss_name).index(loss_name)


def _layers(name: str, recipe: Recipe) -> Section:
    layers = network_layers(recipe)
    rows = [(layer.title, layer.output, f"{layer.parameters:,}") for layer in layers]
    rows.append(("total", "", f"{sum(layer.parameters for layer in layers):,}"))
    (dim,) = (layer.output for layer in layers if layer.is_embedding)
    return Section(
        f"Network of {name}",
        f"{recipe.summary.partition(';')[0]}; its embedding is {dim}.",
        table=Table(("layer", "output shape", "parameters"), rows),
    )


def _losses(loss_name: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    rows = [
        (name, _epoch_name(number, epoch), f"{epoch['loss']:.6f}", f"{epoch['seconds']:.1f}")
        for name, history in histories.items()
        for number, epoch in enumerate(history, 1)
    ]
    curves = [_curve(name, history) for name, history in histories.items()]
    return Section(
        f"Training loss: {loss_name}",
        f"{_DESCRIPTIONS.get(loss_name, _CUSTOM)}. Lines are means over a twentieth of an epoch; "
        "points, the legend and the table are means over whole epochs, the last of which is the "
        "training loss that is reported elsewhere.",
        chart(partial(figures.training_curve, curves, loss_name)),
        table=Table(("recipe", "epoch", "mean loss", "seconds"), rows),
    )


def _reconstructions(
    evaluation: Evaluation, encoders: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    images = (example.image() for example in evaluation.examples[:_QUERIES])
    originals = [image for image in images if image is not None]
    if not originals:
        return
    decoded = {name: encoder.reconstruct(originals) for name, encoder in encoders.items()}
    drawn = [[(image, "") for image in originals]] + [
        [(np.rint(image[0] * 255).astype(np.uint8), "") for image in values]  # (1, H, W) in [0, 1]
        for values in decoded.values()
    ]
    yield Section(
        "Reconstructions",
        "Queries, and their reconstruction from the embedding by each autoencoder. A good "
        "reconstruction does not imply good search quality.",
        image=png(rows_sheet(drawn, ["original", *decoded])),
    )


_DESCRIPTIONS = {
    LOSSES["reconstruction"]: "Mean squared error per pixel on the training images, values from 0 "
    "to 1",
    LOSSES["contrastive"]: "NT-Xent: cross entropy, in nats, of identifying an image's other view "
    "in a batch",
}
"""What a built-in loss is, by its name."""

_CUSTOM = "The loss of a custom recipe on the training images"


def _curve(name: str, history: Sequence[Mapping[str, Any]]) -> figures.TrainingCurve:
    """Return the losses of a training history; the last epoch may be unfinished."""
    points = [
        (epoch + _share(entry) * (i + 1) / len(entry["curve"]), loss)
        for epoch, entry in enumerate(history)
        for i, loss in enumerate(entry["curve"])
    ]
    epochs = [(epoch + _share(entry), entry["loss"]) for epoch, entry in enumerate(history)]
    return figures.TrainingCurve(name, np.array(points), np.array(epochs))


def _epoch_name(number: int, entry: Mapping[str, Any]) -> str:
    share = _share(entry)
    return str(number) if share == 1 else f"{number} ({share:.0%})"


def _share(entry: Mapping[str, Any]) -> float:
    """Return the part of an epoch that was trained."""
    return min(1.0, float(entry.get("share", 1)))
