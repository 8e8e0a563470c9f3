"""Every recipe's network computes the same in torch and in ONNX Runtime, and is never lost."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.encoders.export import compare_embeddings, to_onnx
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, InputError
from lookalike.sources import Source, open_source
from lookalike.sources.base import Item, ItemSource
from lookalike.training import pipeline
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.train import train
from lookalike.types import ImageArray, Progress
from tests.integration.test_cli import lookalike

COUNT = 260
"""Enough images for whitening, which amplifies differences; few enough for one step."""

ONCE = TrainingOptions(epochs=1)
MIN_COSINE = 1 - 1e-6
"""What networks reach that add only rounding errors of float32."""


def smooth(number: int, size: tuple[int, int] = (60, 45)) -> ImageArray:
    """Return a photograph without texture; many pixels have equal gradients in two channels."""
    few = np.random.default_rng(number).integers(0, 255, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(few).resize(size, Image.Resampling.BICUBIC))


def noisy(number: int) -> ImageArray:
    return np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)


def constant(number: int) -> ImageArray:
    return np.full((32, 32), number % 256, np.uint8)


def gray_as_rgb(number: int) -> ImageArray:
    return np.repeat(smooth(number)[..., :1], 3, axis=2)


def ramp(number: int) -> ImageArray:
    """Return a color gradient at 45 degrees, whose angle falls on a bin of fine HOG."""
    y, x = np.mgrid[:40, :40]
    rng = np.random.default_rng(number)
    start, down, right = rng.integers(60, 90, 3), rng.choice([-1, 1], 3), rng.choice([-1, 1], 3)
    return (start + down * y[..., None] + right * x[..., None] + 40).clip(0, 255).astype(np.uint8)


def near_duplicate(number: int) -> ImageArray:
    changed = np.random.default_rng(number).random((45, 60, 3)) < 0.001
    return smooth(0) // 2 + changed.astype(np.uint8)


def blank_or_square(number: int) -> ImageArray:
    image = np.full((40, 40, 3), 255, np.uint8)
    if number % 8 == 0:
        image[number % 30 :][:10, 5:15] = (number % 256, 30, 90)
    return image


def tiny(number: int) -> ImageArray:
    return np.random.default_rng(number).integers(0, 256, (1 + number % 3, 2, 3), np.uint8)


def large(number: int) -> ImageArray:
    return smooth(number % 5, (1200, 900)) ^ np.uint8(number)


KINDS: Mapping[str, Callable[[int], ImageArray]] = {
    each.__name__: each
    for each in (
        *(smooth, noisy, constant, gray_as_rgb, ramp, near_duplicate, blank_or_square),
        *(tiny, large),
    )
}


def collection(kind: str, count: int = COUNT) -> ItemSource:
    make = KINDS[kind]
    count = min(count, 6) if make is large else count
    items = [Item(f"{kind}:{i}", f"{kind}#{i}", {}, partial(make, i)) for i in range(count)]
    return ItemSource(kind, kind, items)


@pytest.fixture(scope="module")
def mixed() -> Source:
    """Images of all kinds."""
    items = [item for kind in KINDS for item in collection(kind, 36)]
    return ItemSource("mixed", "mixed", items)


@dataclass(frozen=True)
class Trained:
    """An encoder with its network in torch."""

    encoder: NetworkEncoder
    network: torch.nn.Module

    def in_torch(self, images: list[ImageArray]) -> np.ndarray:
        with torch.no_grad():
            rows = self.network(torch.from_numpy(self.encoder.prepare(images)))
        return np.asarray(rows.reshape(len(images), -1).numpy())


def trained(source: Source, recipe: str) -> Trained:
    modules: list[torch.nn.Module] = []

    def spy(module: torch.nn.Module, example: torch.Tensor) -> bytes:
        modules.append(module)
        return to_onnx(module, example)

    options = TrainingOptions(epochs=1, size=32 if RECIPES[recipe].size is None else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", spy)
        encoder = train(source, recipe=recipe, options=options)
    return Trained(encoder, modules[-1])


@pytest.fixture(scope="module")
def smooth_photographs() -> Trained:
    return trained(collection("smooth"), "contrastive")


@pytest.mark.slow
def test_whitening_of_smooth_or_nearly_equal_images_amplifies_no_rounding_errors(
    smooth_photographs: Trained,
) -> None:
    for result in (smooth_photographs, trained(collection("near_duplicate"), "contrastive")):
        agreement = result.encoder.origin["export"]
        assert (agreement["images"], agreement["sufficient"]) == (256, True)
        assert agreement["cosine"] > MIN_COSINE


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_agrees_with_torch_on_images_of_any_kind(recipe: str, mixed: Source) -> None:
    result = trained(mixed, recipe)
    assert result.encoder.origin["export"]["cosine"] > MIN_COSINE
    for kind in KINDS:
        images = [item.image() for item in collection(kind, 30)]
        agreement = compare_embeddings(result.in_torch(images), result.encoder.encode(images))
        assert agreement.sufficient, kind
        assert agreement.cosine > MIN_COSINE, kind


IN_TORCH = """
import sys
import numpy as np
import torch
torch.set_num_threads(1)
network = torch.export.load(sys.argv[1] + "/network.pt2").module()
with torch.no_grad():
    rows = network(torch.from_numpy(np.load(sys.argv[1] + "/images.npy")))
np.save(sys.argv[1] + "/rows.npy", rows.numpy())
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["AVX2", "AVX512"])
def test_torch_agrees_whatever_vector_instructions_it_uses(
    kernels: str, smooth_photographs: Trained, tmp_path: Path
) -> None:
    best = torch.backends.cpu.get_cpu_capability()
    if best not in (kernels, "AVX512"):
        pytest.skip(f"this CPU has no {kernels}; the best kernels here are {best}")
    kinds = ("smooth", "ramp", "near_duplicate")
    images = [item.image() for kind in kinds for item in collection(kind, 40)]
    values = smooth_photographs.encoder.prepare(images)
    np.save(tmp_path / "images.npy", values)
    rows = torch.export.Dim("rows")
    example = torch.from_numpy(values[:2])
    program = torch.export.export(
        smooth_photographs.network, (example,), dynamic_shapes=({0: rows},)
    )
    torch.export.save(program, tmp_path / "network.pt2")
    limits = {
        "ATEN_CPU_CAPABILITY": kernels.lower(),
        "ONEDNN_MAX_CPU_ISA": "AVX2" if kernels == "AVX2" else "DEFAULT",
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_TORCH, str(tmp_path)],
        env={**os.environ, **limits},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == kernels
    agreement = compare_embeddings(
        np.load(tmp_path / "rows.npy"), smooth_photographs.encoder.encode(images)
    )
    assert agreement.sufficient
    assert agreement.cosine > MIN_COSINE


DIGITS = "dataset:digits/train[:60]"


def exported_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export another network than the trained one."""
    other = to_onnx(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 32)), EXAMPLE)
    monkeypatch.setattr(pipeline, "to_onnx", lambda *_: other)


EXAMPLE = torch.zeros(2, 1, 28, 28)


def test_an_encoder_whose_export_differs_from_torch_is_kept_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exported_wrongly(monkeypatch)
    with caplog.at_level(logging.WARNING):
        encoder = train(DIGITS, recipe="fast-linear", out=tmp_path / "e", options=ONCE)
    assert "computes other embeddings than torch (smallest cosine" in caplog.text
    agreement = encoder.origin["export"]
    assert (agreement["sufficient"], agreement["images"]) == (False, 60)
    again = load_encoder(tmp_path / "e")
    images = [item.image() for item in open_source(DIGITS)]
    np.testing.assert_array_equal(again.encode(images), encoder.encode(images))


def test_the_command_line_names_the_files_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported_wrongly(monkeypatch)
    arguments = (DIGITS, "--recipe", "fast-linear", "--no-evaluate", "-o", "e", "--json")
    done = lookalike("train", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "e/model.onnx (which search uses) and e/model.safetensors" in done.stderr
    assert (tmp_path / "e" / "encoder.json").is_file()
    result = json.loads(done.stdout)
    assert (result["export"]["sufficient"], result["sanity_check"]) == (False, None)


def fail(*_: Any) -> bytes:
    raise RuntimeError("no such operator\nwith many details")


def test_a_failed_export_is_made_up_for_by_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def record(progress: Progress) -> None:
        if progress.task.startswith("train"):
            steps.append(progress.done)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", fail)
        with pytest.raises(ArtifactError) as caught:
            train(DIGITS, recipe="fast-linear", out=tmp_path / "e", options=ONCE)
    assert str(caught.value) == (
        f"{tmp_path}/e: training is complete and its checkpoint is kept in {tmp_path}/e/checkpoint,"
        " but the encoder could not be written (no such operator). Write it again with resume=True"
    )
    assert not (tmp_path / "e" / "encoder.json").exists()
    again = TrainingOptions(epochs=1, resume=True)
    encoder = train(
        DIGITS, recipe="fast-linear", out=tmp_path / "e", options=again, progress=record
    )
    assert steps == [60]
    assert encoder.fingerprint == load_encoder(tmp_path / "e").fingerprint
    assert encoder.origin["epochs"] == 1


def test_a_failed_export_without_a_folder_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "to_onnx", fail)
        with pytest.raises(ArtifactError) as caught:
            train(DIGITS, recipe="fast-linear", options=ONCE)
    (folder,) = tmp_path.glob("lookalike-*/encoder")
    assert caught.value.__notes__ == [f"The checkpoint is kept: resume with out={str(folder)!r}"]
    again = TrainingOptions(epochs=1, resume=True)
    encoder = train(DIGITS, recipe="fast-linear", out=folder, options=again)
    assert encoder.fingerprint == load_encoder(folder).fingerprint
    with pytest.raises(InputError):
        train("dataset:digits/train[:1]", recipe="fast-linear")
    train(DIGITS, recipe="fast-linear", options=ONCE)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_failed_evaluation_leaves_the_encoder(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("these labels, {labels}, cannot be used", labels=None)

    monkeypatch.setattr("lookalike.evaluation.sanity_check.sanity_check", refuse)
    flags = ("--json",) if as_json else ()
    arguments = (DIGITS, "--recipe", "fast-linear", "-o", "e")
    done = lookalike("train", *arguments, *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "the final evaluation failed (these labels, --labels, cannot be used); the encoder in e "
        "is complete" in done.stderr
    )
    load_encoder(tmp_path / "e")
    if as_json:
        assert json.loads(done.stdout)["sanity_check"] is None
    else:
        assert done.stdout.startswith("e: fast-linear, 32 dimensions")
        assert "next: lookalike index" in done.stderr


def test_an_interrupted_evaluation_leaves_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lookalike.evaluation.sanity_check.sanity_check", interrupt)
    done = lookalike("train", DIGITS, "--recipe", "fast-linear", "-o", "e", cwd=tmp_path)
    assert done.returncode == 130
    assert "interrupted in the final evaluation; the encoder in e is complete" in done.stderr
    assert "--resume" not in done.stderr
    load_encoder(tmp_path / "e")


def test_an_interrupt_before_the_first_checkpoint_promises_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_load", interrupt)
    done = lookalike("train", DIGITS, "--recipe", "fast-linear", "-o", "e", cwd=tmp_path)
    assert done.returncode == 130
    assert "interrupted before the first checkpoint; nothing was written to e" in done.stderr
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_a_package_that_the_export_needs_is_missed_before_training(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "from lookalike.cli import main\n"
        f"sys.argv = ['lookalike', 'train', {DIGITS!r}, '--recipe', 'fast-linear', '-o', 'e']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "training needs the package 'onnxscript': pip install 'lookalike[train]'" in done.stderr
    assert not (tmp_path / "e").exists()
