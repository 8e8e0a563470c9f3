"""How networks were trained, as sections of a report: layers, losses, what their codes keep."""

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


def training_sections(
    found: Evaluation, encoders: Mapping[str, NetworkEncoder]
) -> Iterator[Section]:
    """Yield what is known of the networks of an evaluation: layers, losses, reconstructions."""
    for name in encoders:
        if name in RECIPES and RECIPES[name].layers:
            layers = RECIPES[name].layers
            rows = [(layer.title, layer.output, f"{layer.weights:,}") for layer in layers]
            yield Section(
                f"The network of {name}",
                RECIPES[name].summary + ".",
                png(figures.network_table(name, layers)),
                Table(("layer", "output shape", "weights"), rows),
            )
    for objective, (loss, meaning) in _LOSSES.items():
        histories = {
            name: encoder.origin["history"]
            for name, encoder in encoders.items()
            if name in RECIPES
            and RECIPES[name].objective == objective
            and encoder.origin.get("history")
        }
        if histories:
            epochs = [
                (name, str(number), f"{epoch['loss']:.6f}", f"{epoch['seconds']:.1f}")
                for name, history in histories.items()
                for number, epoch in enumerate(history, 1)
            ]
            curves = {name: _curve(history) for name, history in histories.items()}
            yield Section(
                f"How training went: {objective}",
                f"{meaning}, averaged over each twentieth of an epoch in the figure and over whole "
                "epochs in the table.",
                png(figures.training_curve(curves, loss)),
                Table(("recipe", "epoch", "mean loss", "seconds"), epochs),
            )
    able = {name: encoder for name, encoder in encoders.items() if DECODER_FILE in encoder.files()}
    if able:
        items = open_items([example.uri for example in found.examples[:10]])
        originals = [item.image() for item in items]
        decoded = {name: encoder.reconstruct(originals) for name, encoder in able.items()}
        yield Section(
            "What the codes keep",
            "Queries above what each autoencoder rebuilds from its embedding of them. A good "
            "picture here is no promise of good answers above.",
            png(figures.reconstructions(originals, decoded)),
        )


_LOSSES = {
    "reconstruction": (
        "mean squared error per pixel",
        "Mean squared error per pixel on the training images, with values from 0 to 1",
    ),
    "contrastive": (
        "NT-Xent loss",
        "NT-Xent: cross entropy, in nats, of finding an image's other view among those of a batch",
    ),
}
"""For each objective the loss as an axis names it, and what it is."""


def _curve(history: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return ``(points, 2)``: epochs trained and mean loss, from a training history."""
    points = [
        (epoch + (i + 1) / len(entry["curve"]), loss)
        for epoch, entry in enumerate(history)
        for i, loss in enumerate(entry["curve"])
    ]
    return np.array(points)
