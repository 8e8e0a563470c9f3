"""The contrastive and denoising recipes: quality, export, exact resume, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lookalike.encoders.export import to_onnx
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import SettingError, SourceError, UnknownNameError
from lookalike.sources import ArraySource, Source, open_source
from lookalike.stores.exact import ExactIndex
from lookalike.training import loop, pipeline
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.towers import mirror_tower, tower
from lookalike.training.train import train
from lookalike.types import Metric, Progress, ProgressCallback, ignore_progress
from tests.integration.test_cli import lookalike
from tests.integration.test_cli import run as run_lookalike

SMALL: dict[str, Any] = {"augment": "digits", "size": 32}


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("dataset:digits/train[:300]")


@dataclass(frozen=True)
class Trained:
    """An encoder folder and the torch module that was exported to it."""

    folder: Path
    network: torch.nn.Module


@pytest.fixture(scope="module")
def trained(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("contrastive") / "e"
    modules: list[torch.nn.Module] = []

    def spy(module: torch.nn.Module, example: torch.Tensor) -> bytes:
        modules.append(module)
        return to_onnx(module, example)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", spy)
        train(source, recipe="contrastive", out=folder, options=TrainingOptions(epochs=8, **SMALL))
    return Trained(folder, modules[-1])


def precision(embeddings: np.ndarray, source: ArraySource) -> float:
    rows = ExactIndex(embeddings).search(embeddings, 8, Metric.COSINE).rows[:, 1:]
    labels = np.array(source.labels)
    return float((labels[rows] == labels[:, None]).mean())


def test_the_trained_encoder_beats_pixels_and_the_untrained_tower(
    trained: Trained, source: Source
) -> None:
    queries = open_source("dataset:digits/test")
    assert isinstance(queries, ArraySource)
    images = [item.image() for item in queries]
    encoder = load_encoder(trained.folder)
    assert isinstance(encoder, NetworkEncoder)
    embeddings = encoder.encode(images)
    sample = [item.image() for item in source]
    pixels = open_encoder("pixels", sample).encode(images)
    with torch.no_grad():
        values = torch.from_numpy(encoder.prepare(images))
        untrained = tower(1, 32, 32).eval()(values).numpy()
    trained_precision = precision(embeddings, queries)
    assert trained_precision > precision(pixels, queries)
    assert precision(embeddings[:, :128], queries) > precision(untrained, queries)


def test_the_exported_contrastive_encoder_agrees_with_torch(
    trained: Trained, source: Source
) -> None:
    encoder = load_encoder(trained.folder)
    assert isinstance(encoder, NetworkEncoder)
    assert (encoder.dim, encoder.normalized) == (256, True)
    images = [*[item.image() for item in source], np.zeros((8, 8), np.uint8)]
    embeddings = encoder.encode(images)
    with torch.no_grad():
        expected = trained.network(torch.from_numpy(encoder.prepare(images))).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    np.testing.assert_allclose(encoder.encode(images[:1]), embeddings[:1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    weights = np.linalg.norm(embeddings[:-1, 128:], axis=1) / np.linalg.norm(
        embeddings[:-1, :128], axis=1
    )
    np.testing.assert_allclose(weights, 0.7, atol=1e-4)


def test_the_exported_denoising_autoencoder_agrees_with_torch(
    source: Source, tmp_path: Path
) -> None:
    options = TrainingOptions(epochs=1, **SMALL)
    encoder = train(source, recipe="denoising", out=tmp_path / "e", options=options)
    images = [item.image() for item in source]
    weights = load_file(tmp_path / "e" / "model.safetensors")
    halves = {"encoder": tower(1, 32, 32), "decoder": mirror_tower(1, 32, 32)}
    for name, half in halves.items():
        prefix = f"model.{name}."
        half.load_state_dict(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )
        half.eval()
    with torch.no_grad():
        code = halves["encoder"](torch.from_numpy(encoder.prepare(images)))
        decoded = halves["decoder"](code).numpy()
    np.testing.assert_allclose(encoder.encode(images), code.numpy(), atol=1e-4)
    np.testing.assert_allclose(encoder.reconstruct(images), decoded, atol=1e-4)
    assert not encoder.normalized


def test_resumed_augmentations_and_schedule_continue_exactly(tmp_path: Path) -> None:
    recipe = replace(RECIPES["contrastive"], batch=16)
    options = TrainingOptions(epochs=3, seed=4, augment="digits")
    images = np.stack([item.image() for item in open_source("dataset:digits/train[:200]")])

    def fit(name: str, options: TrainingOptions, on_progress: ProgressCallback) -> None:
        run = {"augment": options.augment}
        loop.fit(recipe, images[:, None], options, tmp_path / name, run, on_progress)

    def interrupt(p: Progress) -> None:
        if p.task == "train contrastive" and p.done == 360:  # within the second epoch
            os.kill(os.getpid(), signal.SIGINT)

    fit("whole", options, ignore_progress)
    with pytest.raises(KeyboardInterrupt):
        fit("parts", options, interrupt)
    again = replace(options, resume=True)
    state = json.loads((tmp_path / "parts" / "checkpoint.json").read_text())
    assert (state["epoch"], state["step"]) == (1, 10)
    fit("parts", again, ignore_progress)
    one, other = (
        load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("whole", "parts")
    )
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    with pytest.raises(SettingError, match="augment was digits, is objects"):
        fit("parts", replace(again, augment="objects"), ignore_progress)


def write(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def test_fewer_images_than_a_batch_of_mixed_sizes_and_modes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(30, 40), (80, 20, 3), (64, 64, 4), (9, 9, 3), (200, 300)]
    images = [rng.integers(0, 256, shapes[i % 5], dtype=np.uint8) for i in range(15)]
    folder = write(tmp_path / "mixed", images)
    encoder = train(folder, recipe="contrastive", options=TrainingOptions(epochs=1, size=48))
    assert encoder.preprocessing.channels == 3
    assert encoder.origin["images"] == 15
    embeddings = encoder.encode([np.zeros((500, 100), np.uint8), images[1]])
    assert np.isfinite(embeddings).all()
    two = train(
        write(tmp_path / "two", images[:2]),
        recipe="contrastive",
        options=TrainingOptions(epochs=1, size=32),
    )
    assert np.isfinite(two.encode(images[:2])).all()


def test_constant_images_train_and_identical_ones_are_refused(tmp_path: Path) -> None:
    flat = [np.full((32, 32), value, np.uint8) for value in range(0, 250, 10)]
    encoder = train(
        write(tmp_path / "flat", flat), recipe="contrastive", options=TrainingOptions(epochs=3)
    )
    assert np.isfinite(encoder.encode(flat)).all()
    same = write(tmp_path / "same", [flat[3]] * 5)
    with pytest.raises(SourceError, match="all 5 images are identical at 32x32"):
        train(same, recipe="contrastive", out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("contrastive", TrainingOptions(size=20), "size=20 must be from 32 to 224 pixels"),
        ("report-conv", TrainingOptions(size=64), "recipe 'report-conv' always uses 28 pixels"),
        ("report-conv", TrainingOptions(augment="digits"), "uses no augmentation"),
    ],
)
def test_options_that_do_not_fit_the_recipe_are_refused(
    recipe: str, options: TrainingOptions, message: str, source: Source
) -> None:
    with pytest.raises(SettingError, match=message):
        train(source, recipe=recipe, options=options)


def test_unknown_augmentation_presets_are_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'photos'"):
        train(source, recipe="contrastive", options=TrainingOptions(augment="photo"))


def test_small_collections_train_for_more_epochs() -> None:
    def schedule(count: int, epochs: int | None = None) -> loop.Schedule:
        return loop.Schedule.of(RECIPES["contrastive"], count, TrainingOptions(epochs=epochs))

    assert schedule(40).epochs == 350
    assert schedule(5_120).epochs == 35
    assert schedule(60_000).epochs == 3
    assert schedule(40, epochs=2).epochs == 2


def test_the_time_limit_ends_training_with_a_usable_encoder() -> None:
    source = open_source("dataset:digits/train[:100]")
    options = TrainingOptions(minutes=0.01, **SMALL)
    encoder = train(source, recipe="contrastive", options=options)
    assert encoder.origin["epochs"] < 350
    assert np.isfinite(encoder.encode([source[0].image()])).all()


def test_train_ends_with_a_sanity_check(tmp_path: Path) -> None:
    arguments = ("train", "dataset:digits/train[:100]", "--recipe", "fast-linear", "-o")
    shown = cli("fast", *arguments, cwd=tmp_path)
    assert "effective rank: " in shown
    assert "not search quality), mAP@7: crop " in shown
    assert "on 100 labeled images; baselines: pixels 0." in shown
    assert re.search(
        r"verdict: .*, (worse than|not significantly different from) the best base", shown
    )
    summary = json.loads(cli("json", *arguments, "--json", cwd=tmp_path))["sanity_check"]
    assert summary["comparison"]["best_baseline"] in summary["comparison"]["verdict"]
    assert set(summary["robustness"]) >= {"crop", "noise", "jpeg"}


def test_train_evaluates_with_a_file_of_labels(tmp_path: Path) -> None:
    arguments = ("train", "dataset:digits/train[:100]", "--recipe", "fast-linear", "-o")
    labels = tmp_path / "labels.csv"
    rows = [f"digits/train:{i},{'low' if i % 10 < 5 else 'high'}" for i in range(3, 100, 2)]
    labels.write_text("\n".join(["id,label", *rows]))
    shown = cli("few", *arguments, "--labels", str(labels), cwd=tmp_path)
    assert "on 49 labeled images; baselines: pixels 0." in shown
    assert "unknown without labels" in cli("no", *arguments, "--labels", "none", cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\ndigits/train:1,a\ndigits/train:9999,b\n", "no image has the id"),
        (
            "\n".join(["id,label", *(f"digits/train:{i},{i % 2}" for i in range(20))]),
            "20 images labeled, at least 30 are needed to evaluate training",
        ),
        (
            "\n".join(
                [
                    "id_a,id_b,similar",
                    *(f"digits/train:{i},digits/train:{i + 1},{i % 2}" for i in range(20)),
                ]
            ),
            "the columns are id_a, id_b, similar; expected id",
        ),
    ],
)
def test_unusable_labels_are_refused_before_training(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    arguments = ("dataset:digits/train[:100]", "-o", "e", "--labels", "labels.csv")
    done = lookalike("train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "e").exists()


def cli(folder: str, *arguments: str, cwd: Path) -> str:
    """Run a command line with ``folder`` after its ``-o``."""
    place = arguments.index("-o") + 1
    return run_lookalike(*arguments[:place], folder, *arguments[place:], cwd=cwd)
