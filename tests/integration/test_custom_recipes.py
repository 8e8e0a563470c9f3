"""Custom recipes: training, exact resume, export, command line, entry points, bad recipes."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lookalike as la
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder
from lookalike.errors import SettingError, UnknownNameError
from lookalike.sources import Source, open_source
from lookalike.training.custom import Batch
from lookalike.training.loop import fit
from lookalike.training.recipes import RECIPES, find_recipe, load_recipes
from lookalike.types import Progress, ProgressCallback, ignore_progress
from tests.custom_recipes import OWN, Network
from tests.integration.test_cli import lookalike
from tests.integration.test_cli import run as run_lookalike
from tests.integration.test_readme import blocks

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("dataset:digits/train[:200]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder trained by the command line, from a module that is gone afterwards."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine").mkdir()
    shutil.copy(Path(__file__).parents[1] / "custom_recipes.py", folder / "my_recipes.py")
    arguments = ("--recipe", "my_recipes:recipe", "--epochs", 3, "--no-evaluate")
    shown = run_lookalike("train", "dataset:digits/train[:200]", "-o", "e", *arguments, cwd=folder)
    assert "e: own, 8 dimensions, 3 epochs of 200 images" in shown
    assert ", loss " in shown
    (folder / "my_recipes.py").unlink()
    return folder


def test_the_exported_encoder_agrees_with_torch_and_has_unit_length(
    trained: Path, source: Source
) -> None:
    encoder = load_encoder(trained / "e")
    assert isinstance(encoder, NetworkEncoder)
    network = Network(1, 12, 12).eval()
    weights = load_file(trained / "e" / "model.safetensors")
    network.load_state_dict({key.removeprefix("net."): value for key, value in weights.items()})
    images = [item.image() for item in source]
    with torch.no_grad():
        expected = network(torch.from_numpy(encoder.prepare(images)))[:, :8]
    expected /= expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(encoder.encode_batch(images), expected.numpy(), atol=1e-4)
    assert encoder.origin["recipe"] == "own"
    assert (encoder.origin["loss_name"], encoder.origin["augment"]) == ("loss", "digits")


def test_search_needs_no_code_of_the_recipe(trained: Path) -> None:
    run_lookalike("index", "g.gallery", "dataset:digits/train[:50]", "--encoder", "e", cwd=trained)
    shown = run_lookalike(
        "search", "g.gallery", "dataset:digits/train#7", "-k", 1, "--json", cwd=trained
    )
    assert [hit["id"] != "digits/train:7" for hit in json.loads(shown)["hits"]] == [True]


def fitted(
    recipe: la.Recipe,
    source: Source,
    folder: Path,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Train without export; return all tensors of the checkpoint."""
    images = np.stack([Preprocessing(12, 12, 1).apply([item.image()])[0] for item in source])
    pixels = images.transpose(0, 3, 1, 2).copy()
    run = {"recipe": recipe.name, "images": len(pixels)}
    fit(recipe, pixels, la.TrainingOptions(**options), folder, run, on_progress)
    manifest = json.loads((folder / "checkpoint.json").read_text())
    return load_file(folder / manifest["weights"])


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    source: Source, tmp_path: Path
) -> None:
    """Dropout and noise of torch's own generator included, whatever the program drew from it."""
    recipe = replace(OWN, batch=5)

    def interrupt(p: Progress) -> None:
        if p.task == "train own" and p.done == 300:  # within the second epoch
            os.kill(os.getpid(), signal.SIGINT)

    state = torch.random.get_rng_state()
    whole = fitted(recipe, source, tmp_path / "whole", epochs=3)
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(KeyboardInterrupt):
        fitted(recipe, source, tmp_path / "parts", interrupt, epochs=3)
    torch.rand(17)
    parts = fitted(recipe, source, tmp_path / "parts", epochs=3, resume=True)
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []
    assert torch.equal(whole["model.net.second.weight"], whole["model.net.third.weight"])


def flat(channels: int, height: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 4))


def mean(network: nn.Module, batch: Batch) -> torch.Tensor:
    result: torch.Tensor = network(batch.images).square().mean()
    return result


def test_a_run_is_not_resumed_with_another_schedule(tmp_path: Path) -> None:
    few = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    recipe = la.Recipe(name="mine", network=flat, loss=mean)
    la.train(few, recipe=recipe, out=tmp_path / "e", progress=False)
    again = la.TrainingOptions(resume=True)
    other = replace(recipe, learning_rate=0.1)
    with pytest.raises(SettingError, match=r"learning_rate was 0.001, is 0.1"):
        la.train(few, recipe=other, out=tmp_path / "e", options=again, progress=False)


class Autoencoder(nn.Module):
    """One linear layer each, for color images of any size."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        values = channels * height * width
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(values, 5))
        self.decoder = nn.Sequential(
            nn.Linear(5, values), nn.Unflatten(1, (channels, height, width))
        )


def test_a_custom_autoencoder_is_exported_with_its_decoder() -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 32, 40, 3), dtype=np.uint8)
    recipe = la.Recipe(name="auto", network=Autoencoder, loss="reconstruction")
    encoder = la.train(images, recipe=recipe, progress=False)
    assert encoder.dim == 5
    assert encoder.reconstruct(list(images[:2])).shape == (2, 3, 32, 40)
    assert encoder.origin["loss_name"] == "mean squared error per pixel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "name=a b of a recipe must be up to 64 letters"),
        ({"name": 3}, "name=3 of a recipe must be"),
        ({"network": "vgg"}, "network=vgg must be a function of channels, height and width"),
        ({"network": "linear"}, "network=linear is built in; a custom loss needs another one"),
        ({"loss": "triplet"}, "loss=triplet must be a function of network and batch"),
        ({"loss": "contrastive"}, "loss=contrastive is not for other networks"),
        ({"loss": "reconstruction", "normalized": True}, "normalized=True needs a custom loss"),
        ({"embedding": 3}, "embedding=3 must be a function of network and images"),
        ({"augment": 3}, "augment=3 must be a function of images and generator"),
        ({"batch": 1}, "batch=1 must be an integer of at least 2"),
        ({"epochs": 1.5}, "epochs=1.5 must be an integer of at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a number above 0"),
        ({"weight_decay": -1}, "weight_decay=-1 must be a number of at least 0"),
        ({"size": 0}, "size=0 must be a number of pixels"),
        ({"widths": (3,)}, "widths=3 are for the report's networks"),
    ],
)
def test_impossible_recipes_are_refused_when_they_are_made(
    changes: dict[str, Any], message: str
) -> None:
    fields: dict[str, Any] = {"name": "mine", "network": flat, "loss": mean}
    with pytest.raises(SettingError, match=message):
        la.Recipe(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": lambda *_: 3}, "network must return a torch.nn.Module; it returned a value"),
        ({"network": lambda *_: nn.Flatten()}, "network must have weights to train"),
        (
            {"embedding": lambda network, images: network(images).mean(0)},
            r"embedding must return embeddings \(2, dim\); it returned a tensor of shape \(4,\)",
        ),
        (
            {"loss": lambda network, batch: network(batch.images)},
            r"loss must return a scalar tensor .* it returned a tensor of shape \(20, 4\)",
        ),
        ({"loss": lambda *_: torch.zeros(())}, r"it returned a tensor of shape \(\), without a"),
        ({"loss": lambda *_: 1.5}, "it returned a value of type float"),
        ({"loss": "reconstruction"}, "loss=reconstruction needs a network with the modules"),
        ({"name": "contrastive"}, "name=contrastive is that of a built-in recipe"),
        ({"augment": "digit"}, "did you mean 'digits'"),
    ],
)
def test_what_a_recipe_returns_is_checked(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    recipe = replace(la.Recipe(name="mine", network=flat, loss=mean), **changes)
    with pytest.raises((SettingError, UnknownNameError), match=message):
        la.train(images, recipe=recipe, out=tmp_path / "e", progress=False)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:X", "--recipe no_such_module:X cannot be imported (No module named"),
        ("tests.custom_recipes:NONE", "cannot be imported (module 'tests.custom_recipes' has no"),
        ("tests.custom_recipes:", "cannot be imported"),
        ("tests.custom_recipes:nn", "must be a lookalike.Recipe, or a function that returns one"),
        ("owm", "unknown recipe 'owm'"),
    ],
)
def test_recipes_that_are_none_are_refused_by_the_command_line(
    name: str, message: str, tmp_path: Path
) -> None:
    done = lookalike(
        "train", "dataset:digits/train[:50]", "-o", "e", "--recipe", name, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return what installs a package with an entry point of this name and value."""

    def installed(name: str, value: str) -> None:
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lookalike.recipes]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return installed


def test_recipes_of_other_packages_are_found_by_name_and_listed(
    install: Callable[[str, str], None],
) -> None:
    assert "own" not in load_recipes()
    install("mine", "tests.custom_recipes:OWN")
    assert find_recipe("own") is OWN
    assert find_recipe("report-conv") is RECIPES["report-conv"]
    listed = json.loads(run_lookalike("recipes", "own", "--json"))
    assert (listed["name"], listed["batch"], listed["augment"]) == ("own", 65, "digits")


def test_two_recipes_of_one_name_and_other_objects_are_refused(
    install: Callable[[str, str], None],
) -> None:
    install("mine", "tests.custom_recipes:OWN")
    install("yours", "tests.custom_recipes:OWN")
    with pytest.raises(SettingError, match="two recipes are called 'own'; uninstall one"):
        load_recipes()


def test_entry_points_that_are_no_recipe_are_refused(install: Callable[[str, str], None]) -> None:
    install("mine", "tests.custom_recipes:Network")
    with pytest.raises(SettingError, match=r"'mine' in .* must be a lookalike\.Recipe"):
        load_recipes()


@pytest.mark.slow
def test_the_recipe_of_the_docs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (EXAMPLES.parent / "docs" / "extending.md").read_text()
    (block,) = (each for each in blocks(page, "python") if "la.Recipe(" in each)
    exec(block, {})
    assert load_encoder(tmp_path / "mine.encoder").dim == 64


@pytest.mark.slow
def test_the_example_trains_a_recipe_that_beats_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "custom_recipe.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()[-2:]
    own, pixels = (float(line.split("precision@7 ")[1].split()[0]) for line in lines)
    assert lines[0].startswith("small-contrastive: ")
    assert own > pixels > 0.9
