"""Training losses in a report: named by their objective, and equal to those reported elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import lookalike as la
from lookalike.documents import Fields
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.registry import open_encoder
from lookalike.evaluation.results import Evaluation
from lookalike.gallery.gallery import Gallery
from lookalike.report import figures
from lookalike.report.page import Section
from lookalike.report.training import training_sections
from lookalike.training.checkpoints import TrainingState
from lookalike.training.loop import FitResult, epoch_record
from lookalike.training.pipeline import _origin
from lookalike.training.recipes import RECIPES


@pytest.fixture
def evaluation(gallery: Gallery) -> Evaluation:
    return la.evaluate(gallery, "dataset:digits/test[:10]")


def interrupted_run() -> TrainingState:
    """A run of one epoch of 40 steps, and 15 steps of the next, with losses that fall."""
    losses = np.linspace(6, 1, 55)
    state = TrainingState(run={"recipe": "contrastive", "images": 40 * 512})
    for step, loss in enumerate(losses, 1):
        state.step += 1
        state.loss_sum += float(loss)
        if state.step % 2 == 0:
            state.loss_marks.append((state.step, state.loss_sum))
        if step == 40:
            state.seconds = 8.0
            state.history.append(epoch_record(state))
            state.epoch, state.step, state.loss_sum, state.loss_marks = 1, 0, 0.0, []
    state.seconds = 11.0
    return state


def finished() -> FitResult:
    return FitResult(
        task=torch.nn.Identity(),  # type: ignore[arg-type]
        state=interrupted_run(),
        device="cpu",
        preparation_seconds=0,
    )


def test_an_unfinished_epoch_is_part_of_the_history() -> None:
    """Its mean is the loss that is reported, so it must be the last value of the chart."""
    result = finished()
    origin = _origin(result, RECIPES["contrastive"], "photos")
    whole, part = origin["history"]
    losses = np.linspace(6, 1, 55)
    assert whole["loss"] == pytest.approx(losses[:40].mean())
    assert origin["loss"] == part["loss"] == pytest.approx(losses[40:].mean())
    assert (part["share"], origin["epochs"], part["seconds"]) == (15 / 40, 1 + 15 / 40, 3.0)
    assert part["curve"][-1] == pytest.approx(losses[-1])  # a single step since the last mark
    assert len(part["curve"]) == 8
    assert "share" not in whole


def trained(recipe: str, **origin: Any) -> NetworkEncoder:
    """An encoder that says how it was trained."""
    network = open_encoder("untrained", [])
    assert isinstance(network, NetworkEncoder)
    described = {**network.describe(), "name": recipe, "origin": {"recipe": recipe, **origin}}
    return NetworkEncoder.restore(Fields(described, "encoder.json"), network.files())


def drawn(
    monkeypatch: pytest.MonkeyPatch,
    evaluation: Evaluation,
    encoders: Mapping[str, NetworkEncoder],
) -> tuple[list[tuple[list[figures.TrainingCurve], str]], list[Section]]:
    """Return what :func:`figures.training_curve` draws for wide windows, and the sections."""
    calls: list[Any] = []
    draw = figures.training_curve

    def record(*arguments: Any, width: float) -> Any:
        if width == 7.5:
            calls.append(arguments)
        return draw(*arguments, width=width)

    monkeypatch.setattr(figures, "training_curve", record)
    return calls, list(training_sections(replace(evaluation), encoders))


@pytest.mark.parametrize(
    ("recipe", "loss"),
    [
        ("contrastive", "NT-Xent loss"),
        ("denoising", "mean squared error per pixel"),
        ("fast-conv", "mean squared error per pixel"),
    ],
)
def test_the_chart_names_the_loss_and_ends_with_the_reported_one(
    monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation, recipe: str, loss: str
) -> None:
    result = finished()
    origin = _origin(result, RECIPES[recipe], "photos")
    history = [
        {**entry, **({"share": 0.375} if "share" in entry else {})} for entry in origin["history"]
    ]
    encoder = trained(recipe, history=history, loss=origin["loss"])
    calls, sections = drawn(monkeypatch, evaluation, {recipe: encoder})
    ((curves, axis),) = calls
    assert axis == loss
    assert [curve.name for curve in curves] == [recipe]
    assert curves[0].epochs.tolist() == [
        [1, history[0]["loss"]],
        [1.375, pytest.approx(origin["loss"])],
    ]
    np.testing.assert_allclose(curves[0].points[[0, 19, -1], 0], [0.05, 1, 1.375])
    (section,) = (each for each in sections if each.title.startswith("Training loss"))
    assert section.table is not None
    assert [row[1] for row in section.table.rows] == ["1", "2 (38%)"]
    assert section.table.rows[-1][2] == f"{origin['loss']:.6f}"
    wrong = "squared" if recipe == "contrastive" else "NT-Xent"
    assert wrong not in section.text


def test_losses_of_custom_recipes_follow_the_built_in_ones(
    monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation
) -> None:
    history = _origin(finished(), RECIPES["contrastive"], "photos")["history"]
    encoders = {
        "own": trained("own", history=history, loss_name="triplet"),
        "fast-conv": trained("fast-conv", history=history),
        "denoising": trained("denoising", history=history),
    }
    calls, sections = drawn(monkeypatch, evaluation, encoders)
    assert [([curve.name for curve in curves], axis) for curves, axis in calls] == [
        (["fast-conv", "denoising"], "mean squared error per pixel"),
        (["own"], "triplet"),
    ]
    (section,) = (each for each in sections if each.title == "Training loss: triplet")
    assert section.text.startswith("The loss of a custom recipe")


def test_the_layers_are_those_of_the_code_size_and_widths(
    monkeypatch: pytest.MonkeyPatch, evaluation: Evaluation
) -> None:
    encoder = trained("fast-linear", code_size=8, widths=[64])
    _, sections = drawn(monkeypatch, evaluation, {"fast-linear": encoder})
    (section,) = (each for each in sections if each.title == "Network of fast-linear")
    assert section.text == "report-linear in batches of 128, for speed; its embedding is 8."
    assert section.table is not None
    outputs = ["1 x 28 x 28", "64", "8", "64", "1 x 28 x 28", ""]
    assert [row[1] for row in section.table.rows] == outputs
    assert section.table.rows[-1] == ("total", "", "102,296")
