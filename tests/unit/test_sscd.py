"""SSCD: its network from weights in every layout of the release, and where they come from."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from lookalike.encoders.registry import find_encoder_spec, open_encoder
from lookalike.encoders.sscd import FILES, sscd_network
from lookalike.errors import ArtifactError, FetchError, InputError
from lookalike.torch_files import read_state
from lookalike.types import Progress
from tests.hub_server import HubServer, hub_server

torch = pytest.importorskip("torch")
nn = torch.nn

BLOCKS = (3, 4, 6, 3)
STEM, WIDTHS, DIM = 8, (4, 8, 12, 16), 24


class Bottleneck(nn.Module):  # type: ignore[misc,name-defined]
    """A block under torchvision's names; the 3x3 convolution has the stride."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width), nn.BatchNorm2d(4 * width)
        if stride > 1 or channels != 4 * width:
            self.downsample = shortcut(channels, 4 * width, stride)

    def forward(self, maps: Any) -> Any:
        out = torch.relu(self.bn1(self.conv1(maps)))
        out = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(out)))))
        return torch.relu(out + (self.downsample(maps) if hasattr(self, "downsample") else maps))


class ClassyBottleneck(nn.Module):  # type: ignore[misc,name-defined]
    """The same block under Classy Vision's names."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        self.convolutional_block = nn.Sequential(
            *(conv(channels, width), nn.BatchNorm2d(width), nn.ReLU()),
            *(conv(width, width, 3, stride, groups), nn.BatchNorm2d(width), nn.ReLU()),
            conv(width, 4 * width),
        )
        self.bn = nn.BatchNorm2d(4 * width)
        if stride > 1 or channels != 4 * width:
            self.downsample = shortcut(channels, 4 * width, stride)

    def forward(self, maps: Any) -> Any:
        out = self.bn(self.convolutional_block(maps))
        return torch.relu(out + (self.downsample(maps) if hasattr(self, "downsample") else maps))


def conv(channels: int, count: int, size: int = 1, stride: int = 1, groups: int = 1) -> Any:
    return nn.Conv2d(channels, count, size, stride, size // 2, groups=groups, bias=False)


def shortcut(channels: int, count: int, stride: int) -> Any:
    return nn.Sequential(conv(channels, count, 1, stride), nn.BatchNorm2d(count))


class Trunk(nn.Module):  # type: ignore[misc,name-defined]
    """The trunk under torchvision's names, with pooling and projection."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, STEM, 7, 2), nn.BatchNorm2d(STEM)
        channels = STEM
        for number, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            strides = [2 if number else 1] + [1] * (count - 1)
            layer = []
            for stride in strides:
                layer.append(Bottleneck(channels, width, stride, groups))
                channels = 4 * width
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, DIM)

    def forward(self, images: Any) -> Any:
        maps = torch.relu(self.bn1(self.conv1(images)))
        maps = nn.functional.max_pool2d(maps, 3, 2, 1)
        for number in range(4):
            maps = getattr(self, f"layer{number + 1}")(maps)
        return self.fc(gem(maps))


class ClassyTrunk(nn.Module):  # type: ignore[misc,name-defined]
    """The trunk under Classy Vision's names."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.initial_block = nn.Module()
        self.initial_block._module = nn.Sequential(
            conv(3, STEM, 7, 2), nn.BatchNorm2d(STEM), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        layers, channels = [], STEM
        for number, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            blocks: OrderedDict[str, Any] = OrderedDict()
            for block in range(count):
                stride = 2 if number and not block else 1
                blocks[f"block{number}-{block}"] = ClassyBottleneck(channels, width, stride, groups)
                channels = 4 * width
            layers.append(nn.Sequential(blocks))
        self.blocks = nn.Sequential(*layers)

    def forward(self, images: Any) -> Any:
        return self.blocks(self.initial_block._module(images))


class Model(nn.Module):  # type: ignore[misc,name-defined]
    """SSCD in one of the two layouts."""

    def __init__(self, layout: str, groups: int = 1) -> None:
        super().__init__()
        if layout == "torchvision":
            self.backbone = Trunk(groups)
            self.embeddings = nn.Identity()
        else:
            self.backbone = ClassyTrunk(groups)
            self.embeddings = nn.Sequential(Gem(), nn.Linear(4 * WIDTHS[-1], DIM))

    def forward(self, images: Any) -> Any:
        return nn.functional.normalize(self.embeddings(self.backbone(images)))


class Gem(nn.Module):  # type: ignore[misc,name-defined]
    def forward(self, maps: Any) -> Any:
        return gem(maps)


def gem(maps: Any) -> Any:
    return maps.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)


def random_model(layout: str, *, groups: int = 1) -> Any:
    """Return a network whose weights and statistics differ from layer to layer."""
    generator = torch.Generator().manual_seed(7)
    model = Model(layout, groups).eval()
    for name, values in model.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.3, 2.0, generator=generator)
        elif name.endswith("num_batches_tracked"):
            values.fill_(3)
        elif values.ndim == 1:
            values.uniform_(-0.4, 0.9, generator=generator)
        else:
            scale = (2 / values[0].numel()) ** 0.5
            values.copy_(scale * torch.randn(values.shape, generator=generator))
    return model


def saved(model: Any, how: str) -> bytes:
    """Return a model's file: its state in one of torch's formats, or a TorchScript."""
    file = io.BytesIO()
    if how == "torchscript":
        example = torch.rand(1, 3, 64, 64)
        torch.jit.save(torch.jit.trace(model, example), file)
    else:
        zipped = how == "zip"
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def run(network: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embeddings"], {"images": images})[0])


@pytest.mark.parametrize(
    "how", ["zip", "legacy", pytest.param("torchscript", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("layout", ["torchvision", "classy"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_network_agrees_with_torch(layout: str, how: str) -> None:
    model = random_model(layout)
    state = read_state(saved(model, how), name="weights.pt")
    images = torch.rand(3, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * 4 - 2
    with torch.no_grad():
        expected = model(images).numpy()
    actual = run(sscd_network(state, name="weights.pt"), images.numpy())
    assert actual.shape == (3, DIM)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)
    assert np.abs(actual - expected).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_a_network_with_groups_agrees_with_torch() -> None:
    model = random_model("classy", groups=2)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images).numpy()
    state = read_state(saved(model, "zip"), name="weights.pt")
    np.testing.assert_allclose(
        run(sscd_network(state, name="weights.pt"), images.numpy()), expected, atol=1e-5
    )


def small_state() -> dict[str, NDArray[Any]]:
    return {
        name: values.numpy() for name, values in random_model("torchvision").state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("backbone.layer2.1.bn3.bias", None, r"has no weights layer2\.1\.bn3\.bias"),
        ("backbone.fc.weight", np.zeros((DIM, 3), np.float32), "the shape n x 64, not"),
        ("backbone.conv1.weight", np.zeros((8, 3, 5, 5), np.float32), "the shape n x n x 7 x 7"),
        ("backbone.bn1.running_var", -np.ones(8, np.float32), "no negative numbers"),
        ("backbone.bn1.bias", np.full(8, np.nan, np.float32), "finite numbers"),
        ("backbone.fc.bias", np.zeros(DIM, np.int64), "finite numbers"),
        ("backbone.layer3.0.downsample.0.weight", None, r"no weights layer3\.0\.downsample"),
        ("backbone.layer1.1.conv1.weight", np.zeros((4, 5, 1, 1), np.float32), "groups of 16"),
    ],
)
def test_other_weights_are_refused(name: str, values: NDArray[Any] | None, reason: str) -> None:
    state = small_state()
    assert sscd_network(state, name="weights.pt")
    if values is None:
        del state[name]
    else:
        state[name] = values
    with pytest.raises(ArtifactError, match=rf"weights\.pt: is no network of SSCD.*{reason}"):
        sscd_network(state, name="weights.pt")


def test_a_file_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "my, weights.pt"
    path.write_bytes(saved(random_model("torchvision"), "zip"))
    spec = find_encoder_spec(f"sscd:{path}")
    assert (spec.sample, spec.download, spec.license) == (0, None, "")
    encoder = open_encoder(f"sscd:{path}")
    image = np.random.default_rng(3).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    rows = encoder.encode([image, image[:, ::-1]])
    assert rows.shape == (2, DIM)
    assert encoder.normalized
    assert encoder.describe()["preprocessing"] == {
        "height": 320,
        "width": 320,
        "channels": 3,
        "exact": False,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    origin = encoder.describe()["origin"]
    assert origin["source"] == str(path)
    again = open_encoder(f"sscd:{path}")
    assert again.fingerprint == encoder.fingerprint
    small = open_encoder(f"sscd:{path},size=128,fit=white,mirror")
    mirrored = small.encode([image, image[:, ::-1]])
    assert mirrored.shape == (2, DIM)
    np.testing.assert_allclose(mirrored[0], mirrored[1], atol=1e-5)
    assert small.describe()["parts"][0]["preprocessing"]["pad"] == "white"
    assert small.describe()["parts"][0]["preprocessing"]["height"] == 128


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sscd:.*none\.pt.*cannot be read"):
        open_encoder(f"sscd:{tmp_path}/none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ArtifactError, match=r"text\.pt"):
        open_encoder(f"sscd:{tmp_path}/text.pt")


WEIGHTS = FILES[0]


@pytest.fixture(scope="module")
def weights() -> bytes:
    return saved(random_model("torchvision"), "zip")


@pytest.fixture
def server(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A mirror that has the weights and redirects to a second host; an empty cache."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("lookalike.encoders.sscd.SIZE", len(weights))
    monkeypatch.setattr("lookalike.transfer.client._BACKOFF_S", 0.0)
    with hub_server() as hub:
        hub.add("a/mirror", {f"sscd/{WEIGHTS}": weights})
        address = hub.variables(tmp_path)["HF_ENDPOINT"]
        monkeypatch.setenv("LOOKALIKE_MIRROR", f"{address}/a/mirror/resolve/main/")
        yield hub


def test_weights_are_fetched_once(
    server: HubServer,
    weights: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert find_encoder_spec("sscd").weight_files() == []
    events: list[Progress] = []
    with caplog.at_level("INFO", "lookalike.notice"):
        encoder = open_encoder("sscd", progress=events.append)
    said = [text for text in caplog.messages if text.startswith("downloading")]
    assert len(said) == 1
    assert f"{WEIGHTS}: {len(weights) / 1e6:,.1f} MB, license: MIT" in said[0]
    assert (events[-1].done, events[-1].total) == (len(weights), len(weights))
    assert encoder.dim == DIM
    path = tmp_path / "cache" / "sscd" / WEIGHTS
    assert path.read_bytes() == weights
    digest = hashlib.sha256(weights).hexdigest()
    assert path.with_name(f"{WEIGHTS}.sha256").read_text() == f"{digest}  {WEIGHTS}\n"
    assert find_encoder_spec("sscd").weight_files() == [path]
    origin = encoder.describe()["origin"]
    assert (origin["license"], origin["weights"]) == ("MIT", digest)

    count = len(server.requests)
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    assert open_encoder("sscd").fingerprint == encoder.fingerprint
    assert len(server.requests) == count

    path.write_bytes(saved(random_model("classy"), "zip"))
    with pytest.raises(FetchError, match=r"has changed since its first use.*delete both files"):
        open_encoder("sscd")


def test_a_cut_download_is_resumed(server: HubServer, weights: bytes) -> None:
    server.faults.cut_after, server.faults.cuts = len(weights) // 3, 20
    open_encoder("sscd")
    ranges = [each.headers["range"] for each in server.requests if "range" in each.headers]
    assert f"bytes={len(weights) // 3}-" in ranges


def test_a_failed_download_is_resumed_by_the_next_one(
    server: HubServer, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults.cut_after, server.faults.cuts = len(weights) // 2, 1
    with monkeypatch.context() as patch:
        patch.setattr("lookalike.transfer.client.Transfer._wait", stop)
        with pytest.raises(FetchError, match="stopped"):
            open_encoder("sscd")
    assert find_encoder_spec("sscd").weight_files() == []
    before = len(server.requests)
    assert open_encoder("sscd").dim == DIM
    ranges = [each.headers.get("range") for each in server.requests[before:]]
    assert f"bytes={len(weights) // 2}-" in ranges


def test_a_file_that_nobody_can_tell_from_another_is_not_resumed(
    server: HubServer, weights: bytes
) -> None:
    server.faults.no_tags = True
    server.faults.cut_after, server.faults.cuts = len(weights) // 2, 1
    assert open_encoder("sscd").dim == DIM
    assert not any("range" in each.headers for each in server.requests)


@pytest.mark.parametrize("mirror", ["http://[::1", "http://a:b@127.0.0.1:1", "/tmp", "file:///x"])
def test_a_mirror_that_is_no_address_is_named(
    mirror: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    monkeypatch.setenv("LOOKALIKE_MIRROR", mirror)
    with pytest.raises(FetchError, match=r"no address that .*check LOOKALIKE_MIRROR\. Try"):
        open_encoder("sscd")


def test_a_broken_file_in_the_cache_leads_on(
    server: HubServer, weights: bytes, tmp_path: Path
) -> None:
    server.add("a/mirror", {f"sscd/{WEIGHTS}": b"x" * len(weights)})
    for _ in range(2):
        with pytest.raises(ArtifactError, match=rf"{WEIGHTS}: .*; delete it and its \.sha256"):
            open_encoder("sscd")
    server.add("a/mirror", {f"sscd/{WEIGHTS}": weights})
    for name in (WEIGHTS, f"{WEIGHTS}.sha256"):
        (tmp_path / "cache" / "sscd" / name).unlink()
    assert open_encoder("sscd").dim == DIM


def stop(*_: object) -> None:
    raise FetchError("stopped")


def test_several_openings_at_once_fetch_once(server: HubServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        encoders = list(pool.map(open_encoder, ["sscd"] * 4))
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    bodies = [each for each in server.requests if "/resolve-cache/" in each.path]
    assert [each.method for each in bodies if each.method == "GET"] == ["GET"]


def test_what_is_not_there_is_said(
    server: HubServer, weights: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "sscd"
    by_hand = rf"put sscd_disc_mixup\.torchvision\.pt or .* into {folder}, or open sscd:FILE"
    monkeypatch.setattr("lookalike.encoders.sscd.SIZE", 2 * len(weights))
    with pytest.raises(FetchError, match=rf"bytes, not about .*another file.*{by_hand}"):
        open_encoder("sscd")
    monkeypatch.setenv("LOOKALIKE_MIRROR", f"{os.environ['LOOKALIKE_MIRROR']}elsewhere")
    with pytest.raises(FetchError, match=rf"there is no such file.*{by_hand}"):
        open_encoder("sscd")
    count = len(server.requests)
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    with pytest.raises(FetchError, match=rf"LOOKALIKE_OFFLINE forbids.*{by_hand}"):
        open_encoder("sscd")
    assert len(server.requests) == count
    folder.mkdir(exist_ok=True, parents=True)
    (folder / FILES[2]).write_bytes(saved(random_model("classy"), "zip"))
    assert open_encoder("sscd").dim == DIM
