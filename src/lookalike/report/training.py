"""Training of the evaluated networks, as sections of a report: layers, losses, reconstructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.encoders.onnx import DECODER_FILE, NetworkEncoder
from lookalike.evaluation.results import Evaluation
from lookalike.report import figures
from lookalike.report.page import Section, Table, png
from lookalike.sources import open_items
from lookalike.training.recipes import RECIPES

_QUERIES = 10


def training_sections(
    evaluation: Evaluation, encoders: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    """Yield layers, training losses and reconstructions of an evaluation's networks."""
    for name in encoders:
        if name in RECIPES and RECIPES[name].layers:
            yield _layers(name)
    for objective in _LOSSES:
        histories = {
            name: encoder.origin["history"]
            for name, encoder in encoders.items()
            if name in RECIPES
            and RECIPES[name].objective == objective
            and encoder.origin.get("history")
        }
        if histories:
            yield _losses(objective, histories)
    autoencoders = {
        name: encoder for name, encoder in encoders.items() if DECODER_FILE in encoder.files()
    }
    if autoencoders:
        yield _reconstructions(evaluation, autoencoders)


def _layers(name: str) -> Section:
    layers = RECIPES[name].layers
    rows = [(layer.title, layer.output, f"{layer.parameters:,}") for layer in layers]
    return Section(
        f"Network of {name}",
        f"{RECIPES[name].summary}.",
        png(figures.network_table(name, layers)),
        Table(("layer", "output shape", "parameters"), rows),
    )


def _losses(objective: str, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    loss, description = _LOSSES[objective]
    rows = [
        (name, str(number), f"{epoch['loss']:.6f}", f"{epoch['seconds']:.1f}")
        for name, history in histories.items()
        for number, epoch in enumerate(history, 1)
    ]
    curves = {name: _curve(history) for name, history in histories.items()}
    return Section(
        f"Training loss: {objective}",
        f"{description}. The figure shows means over a twentieth of an epoch, the table means over "
        "whole epochs.",
        png(figures.training_curve(curves, loss)),
        Table(("recipe", "epoch", "mean loss", "seconds"), rows),
    )


def _reconstructions(evaluation: Evaluation, encoders: Mapping[str, NetworkEncoder]) -> Section:
    items = open_items([example.uri for example in evaluation.examples[:_QUERIES]])
    originals = [item.image() for item in items]
    decoded = {name: encoder.reconstruct(originals) for name, encoder in encoders.items()}
    return Section(
        "Reconstructions",
        "Queries, and their reconstruction from the embedding by each autoencoder. A good "
        "reconstruction does not imply good search quality.",
        png(figures.reconstructions(originals, decoded)),
    )


_LOSSES = {
    "reconstruction": (
        "mean squared error per pixel",
        "Mean squared error per pixel on the training images, with values from 0 to 1",
    ),
    "contrastive": (
        "NT-Xent loss",
        "NT-Xent: cross entropy, in nats, of identifying an image's other view in a batch",
    ),
}
"""For each objective, the name of the loss for an axis and its description."""


def _curve(history: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return ``(points, 2)``: epochs and mean loss, from a training history."""
    points = [
        (epoch + (i + 1) / len(entry["curve"]), loss)
        for epoch, entry in enumerate(history)
        for i, loss in enumerate(entry["curve"])
    ]
    return np.array(points)
