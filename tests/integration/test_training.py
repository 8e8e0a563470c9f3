"""Training the report's recipes: exact resume, interruption, export, refused options."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lookalike as la
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import ArtifactError, SettingError, SourceError, UnknownNameError
from lookalike.sources import Source, open_source
from lookalike.training.loop import fit
from lookalike.training.networks import report_network
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.report_recipes import network_layers
from lookalike.training.train import train
from lookalike.training.untrained import untrained_model
from lookalike.types import Progress, ProgressCallback, ignore_progress
from tests.integration.test_cli import lookalike, run

RECIPE_NAMES = ("report-linear", "report-conv", "report-conv-bn")
COUNT = 600


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source(f"dataset:digits/train[:{COUNT}]")


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_the_exported_encoder_agrees_with_torch(
    recipe: str, source: Source, tmp_path: Path
) -> None:
    encoder = train(source, recipe=recipe, out=tmp_path / "e")
    model = report_network(RECIPES[recipe]).eval()
    weights = load_file(tmp_path / "e" / "model.safetensors")
    model.load_state_dict({key.removeprefix("model."): value for key, value in weights.items()})
    images = [item.image() for item in source]
    values = torch.from_numpy(encoder.prepare(images))
    with torch.no_grad():
        expected = model.encoder(values).reshape(len(images), -1).numpy()
        decoded = model(values).numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-4)
    np.testing.assert_allclose(encoder.reconstruct(images), decoded, atol=1e-4)
    np.testing.assert_allclose(encoder.encode(images[:1]), encoder.encode(images)[:1], atol=1e-5)
    again = load_encoder(tmp_path / "e")
    np.testing.assert_array_equal(again.encode(images[:5]), encoder.encode(images[:5]))
    origin = encoder.origin
    assert (origin["recipe"], origin["seed"], origin["images"]) == (recipe, 0, COUNT)
    assert len(origin["data"]) == 64
    assert origin["versions"]["torch"] == torch.__version__
    assert set(origin["versions"]) == {"python", "lookalike", "torch", "onnx", "numpy"}
    curve = origin["history"][0]["curve"]
    assert len(curve) == 20
    assert curve[-1] < curve[0] / 1.5


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_recipe_layers_match_the_networks(recipe: str) -> None:
    layers = network_layers(RECIPES[recipe])
    network = report_network(RECIPES[recipe])
    assert sum(layer.parameters for layer in layers) == sum(map(torch.numel, network.parameters()))
    shape = tuple(int(n) for n in layers[-1].output.split(" x "))
    assert network(torch.zeros(2, 1, 28, 28)).shape[1:] == shape
    (embedding,) = (layer.output for layer in layers if layer.is_embedding)
    assert network.encoder(torch.zeros(2, 1, 28, 28)).shape[1:] == tuple(
        int(n) for n in embedding.split(" x ")
    )


SIZES: dict[str, list[tuple[int | None, tuple[int, ...] | None]]] = {
    "report-linear": [(16, None), (None, (64,)), (2, (256, 64))],
    "fast-conv": [(None, (8, 2)), (10, None), (16, (32, 64)), (None, (5,))],
    "report-conv-bn": [(7, (3,))],
}


@pytest.mark.parametrize(
    ("name", "code_size", "widths"),
    [(name, *sizes) for name, several in SIZES.items() for sizes in several],
)
def test_layers_of_any_code_size_and_widths_match_the_networks(
    name: str, code_size: int | None, widths: tuple[int, ...] | None
) -> None:
    recipe = RECIPES[name].resized(code_size, widths)
    layers, network = network_layers(recipe), report_network(recipe).eval()
    assert sum(layer.parameters for layer in layers) == sum(map(torch.numel, network.parameters()))
    images = torch.rand(2, 1, 28, 28)
    code = network.encoder(images)
    (embedding,) = (layer.output for layer in layers if layer.is_embedding)
    assert embedding == " x ".join(map(str, code.shape[1:]))
    assert code_size is None or code.shape == (2, code_size)
    assert network.decoder(code).shape == images.shape


def test_code_size_and_widths_are_recorded_and_restored_on_resume(tmp_path: Path) -> None:
    few = open_source("dataset:digits/train[:30]")
    command = ("train", few.spec, "--recipe", "fast-linear", "-o", "e", "--no-evaluate")
    shown = run(*command, "--code-size", 16, "--widths", "64,32", cwd=tmp_path)
    assert "e: fast-linear, 16 dimensions, 1 epoch of 30 images" in shown
    again = json.loads(run(*command, "--resume", "--epochs", 2, "--json", cwd=tmp_path))
    assert (again["dim"], again["epochs"]) == (16, 2)
    encoder = load_encoder(tmp_path / "e")
    assert isinstance(encoder, NetworkEncoder)
    assert (encoder.origin["code_size"], encoder.origin["widths"]) == (16, [64, 32])
    with pytest.raises(SettingError, match=r"code_size was 16, is None"):
        resume(few, tmp_path / "e", code_size=32)
    with pytest.raises(SettingError, match=r"widths was \[64, 32\], is \[64\]"):
        resume(few, tmp_path / "e", widths=(64,))


def resume(source: Source, folder: Path, **options: Any) -> None:
    chosen = TrainingOptions(resume=True, epochs=3, **options)
    train(source, recipe="fast-linear", out=folder, options=chosen)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("contrastive", {"code_size": 16}, "code_size=16 is not allowed: recipe 'contrastive'"),
        ("denoising", {"widths": (3,)}, "widths=.* is not allowed: recipe 'denoising'"),
        ("report-linear", {"code_size": 0}, "code_size=0 must be from 1 to 4,096"),
        ("report-linear", {"code_size": 2.5}, "code_size=2.5 must be a whole number"),
        ("report-linear", {"widths": (0,)}, "widths=0 must be from 1 to 4,096"),
        ("report-linear", {"widths": "32"}, "widths=32 must be a list of integers"),
        ("report-linear", {"widths": [1] * 9}, "must be at most 8 layers"),
        ("report-conv", {"widths": ()}, "must be 1 or 2 layers"),
        ("report-conv", {"widths": (1, 2, 3)}, "widths=1,2,3 must be 1 or 2 layers"),
        ("report-conv", {"epochs": "3"}, "epochs=3 must be a whole number"),
        ("report-conv", {"minutes": float("nan")}, "minutes=nan must be a number"),
        ("report-conv", {"seed": -1}, "seed=-1 must be from 0 to"),
        ("contrastive", {"size": 64.5}, "size=64.5 must be a whole number"),
        ("contrastive", {"augment": 3}, "augment=3 must be a text"),
        ("contrastive", {"device": None}, "device must be a text"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    recipe: str, options: dict[str, Any], message: str, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        train(source, recipe=recipe, out=tmp_path / "e", options=TrainingOptions(**options))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("text", ["32,x", "3.5", "32;64"])
def test_widths_that_are_no_integers_are_refused_by_the_command_line(
    text: str, tmp_path: Path
) -> None:
    done = lookalike("train", "dataset:digits/train", "-o", "e", "--widths", text, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--widths '{text}' must be integers, as in 32,64" in done.stderr.replace(
        f"--widths {text} ", f"--widths '{text}' "
    )


class Interrupt:
    """Sends SIGINT from another thread, at an arbitrary point of a step."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, p: Progress) -> None:
        if p.task.startswith("train") and p.done >= self.after:
            self.after = 10**9
            threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_an_interrupt_before_the_first_step_writes_a_checkpoint(
    source: Source, tmp_path: Path
) -> None:
    def interrupt(p: Progress) -> None:
        if p.task.startswith("train"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_weights(source, tmp_path / "e", "fast-conv", interrupt)
    assert json.loads((tmp_path / "e" / "checkpoint.json").read_text())["step"] == 0
    resumed = fit_weights(source, tmp_path / "e", "fast-conv", resume=True)
    assert_same(resumed, fit_weights(source, tmp_path / "uninterrupted", "fast-conv"))


def fit_weights(
    source: Source,
    folder: Path,
    recipe: str,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Train without export."""
    images = np.stack([Preprocessing(28, 28, 1).apply([item.image()])[0] for item in source])
    run = {"recipe": recipe, "data": "digits", "images": len(images)}
    fit(
        *(RECIPES[recipe], images.transpose(0, 3, 1, 2).copy(), TrainingOptions(**options)),
        *(folder, run, on_progress),
    )
    return saved_weights(folder)


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint: weights and optimizer state."""
    manifest = json.loads((folder / "checkpoint.json").read_text())
    assert len(list(folder.iterdir())) == 2
    return load_file(folder / manifest["weights"])


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("recipe", ["report-linear", "report-conv", "report-conv-bn"])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    recipe: str, source: Source, tmp_path: Path
) -> None:
    uninterrupted = fit_weights(source, tmp_path / "uninterrupted", recipe, epochs=2, seed=3)
    for after in (1, 400, COUNT):
        part = tmp_path / f"resumed-{after}"
        with pytest.raises(KeyboardInterrupt):
            fit_weights(source, part, recipe, Interrupt(after), epochs=2, seed=3)
        stopped = json.loads((part / "checkpoint.json").read_text())
        assert 0 < stopped["epoch"] * COUNT + stopped["step"] * 20 < 2 * COUNT
        assert_same(uninterrupted, fit_weights(source, part, recipe, epochs=2, seed=3, resume=True))
        history = json.loads((part / "checkpoint.json").read_text())["history"]
        assert [len(epoch["curve"]) for epoch in history] == [20, 20]


def test_a_finished_run_can_be_trained_further(source: Source, tmp_path: Path) -> None:
    """Also one of the version before, whose checkpoints were the same."""
    fit_weights(source, tmp_path / "a", "fast-conv", epochs=1)
    set_format(tmp_path / "a" / "checkpoint.json", 3)
    further = fit_weights(source, tmp_path / "a", "fast-conv", epochs=2, resume=True)
    assert_same(further, fit_weights(source, tmp_path / "b", "fast-conv", epochs=2))


def test_the_seed_determines_the_weights(source: Source, tmp_path: Path) -> None:
    one, again, other = (
        fit_weights(source, tmp_path / f"{i}", "fast-linear", seed=seed)
        for i, seed in enumerate((1, 1, 2))
    )
    assert_same(one, again)
    assert not torch.equal(
        one["model.model.encoder.1.weight"], other["model.model.encoder.1.weight"]
    )


def test_the_time_limit_ends_training_with_a_usable_encoder(source: Source, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=10_000, minutes=0.01)
    encoder = train(source, recipe="report-conv", out=tmp_path / "e", options=options)
    assert 0 < encoder.origin["epochs"] < 100
    assert encoder.encode([source[0].image()]).shape == (1, 196)


def test_resuming_with_other_settings_is_refused(source: Source, tmp_path: Path) -> None:
    train(source, recipe="fast-linear", out=tmp_path / "e")
    for recipe, options in (
        ("fast-conv", TrainingOptions(resume=True)),
        ("fast-linear", TrainingOptions(seed=1, resume=True)),
    ):
        with pytest.raises(SettingError, match="cannot resume with other settings"):
            train(source, recipe=recipe, out=tmp_path / "e", options=options)
    few = open_source("dataset:digits/train[:50]")
    with pytest.raises(SettingError, match="data was"):
        train(few, recipe="fast-linear", out=tmp_path / "e", options=TrainingOptions(resume=True))


def set_format(manifest: Path, version: int) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": version}))


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_older_version_is_not_resumed(
    version: int, source: Source, tmp_path: Path
) -> None:
    train(source, recipe="fast-linear", out=tmp_path / "e")
    set_format(tmp_path / "e" / "checkpoint" / "checkpoint.json", version)
    options = TrainingOptions(epochs=2, resume=True)
    with pytest.raises(ArtifactError, match=rf"older lookalike \(format {version}\).*Train again"):
        train(source, recipe="fast-linear", out=tmp_path / "e", options=options)


def test_existing_folders_are_not_overwritten(source: Source, tmp_path: Path) -> None:
    train(source, recipe="fast-linear", out=tmp_path / "e")
    before = (tmp_path / "e" / "encoder.json").read_bytes()
    with pytest.raises(
        ArtifactError, match="has a finished training run; resume it with resume=True"
    ):
        train(source, recipe="fast-linear", out=tmp_path / "e", options=TrainingOptions(seed=9))
    assert (tmp_path / "e" / "encoder.json").read_bytes() == before
    with pytest.raises(ArtifactError, match="has no checkpoint to resume"):
        train(
            source, recipe="fast-linear", out=tmp_path / "x", options=TrainingOptions(resume=True)
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="already exists"):
        train(source, recipe="fast-linear", out=tmp_path / "mine")
    checkpoint = tmp_path / "e" / "checkpoint"
    next(checkpoint.glob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="the checkpoint cannot be read"):
        train(
            source, recipe="fast-linear", out=tmp_path / "e", options=TrainingOptions(resume=True)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainingOptions(epochs=0), "epochs=0 must be at least 1"),
        (TrainingOptions(minutes=-1), "minutes=-1 must be above 0"),
        (TrainingOptions(device="warp"), "device=warp is not available"),
    ],
)
def test_settings_out_of_range_are_refused(
    options: TrainingOptions, message: str, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        train(source, recipe="fast-linear", out=tmp_path / "e", options=options)
    assert not (tmp_path / "e").exists()


def test_a_missing_gpu_is_refused(source: Source, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingError, match="device=cuda is not available"):
        train(source, recipe="fast-linear", options=TrainingOptions(device="cuda"))


def test_unkncustom_recipes_and_too_few_images_are_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'report-conv-bn'"):
        train(source, recipe="report-conv-b")
    with pytest.raises(SourceError, match="at least 2 images"):
        train("dataset:digits/train[:1]", recipe="fast-linear")


def test_images_of_any_size_can_be_trained_on(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"x")
    encoder = la.train(folder, recipe="report-conv")
    assert encoder.origin["images"] == 12
    assert encoder.encode([np.zeros((300, 200, 3), np.uint8)]).shape == (1, 196)


def test_an_encoder_trained_at_native_size_refuses_other_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        (tmp_path / "s").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(
            tmp_path / "s" / f"{i}.png"
        )
    encoder = la.train(tmp_path / "s", recipe="report-conv")
    with pytest.raises(la.LookalikeError, match="accepts only 28x28"):
        encoder.encode([np.zeros((30, 28), np.uint8)])


def test_a_nan_loss_stops_training_and_keeps_the_last_good_checkpoint(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookalike.training import loop

    train(source, recipe="report-linear", out=tmp_path / "e")
    good = json.loads((tmp_path / "e" / "checkpoint" / "checkpoint.json").read_text())
    steps = iter([0.1] * 6)
    monkeypatch.setattr(loop, "_optimizer_step", lambda *_: next(steps, float("nan")))
    longer = TrainingOptions(epochs=2, resume=True)
    with pytest.raises(ArtifactError, match=r"NaN or infinite in epoch 2, step 7; .* resume=True"):
        train(source, recipe="report-linear", out=tmp_path / "e", options=longer)
    current = json.loads((tmp_path / "e" / "checkpoint" / "checkpoint.json").read_text())
    assert current == good
    (tmp_path / "e" / "encoder.json").unlink()
    at_once = replace(longer, minutes=1e-6)
    encoder = train(source, recipe="report-linear", out=tmp_path / "e", options=at_once)
    assert encoder.origin["epochs"] == 1


def test_the_shipped_untrained_network_has_the_initial_weights_of_report_conv() -> None:
    from lookalike.encoders.onnx import NetworkEncoder
    from lookalike.encoders.registry import open_encoder

    images = list(np.random.default_rng(0).integers(0, 255, (50, 28, 28), dtype=np.uint8))
    shipped = open_encoder("untrained", images)
    assert isinstance(shipped, NetworkEncoder)
    fresh = NetworkEncoder("fresh", untrained_model(), shipped.preprocessing)
    np.testing.assert_allclose(fresh.encode(images), shipped.encode(images), atol=1e-6)
