"""Networks of timm: what is pooled, and what is done to images, agrees with timm or is refused."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from lookalike.encoders import timm_export
from lookalike.encoders.onnx import NetworkEncoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.torchvision_repair import import_beside_torchvision
from lookalike.errors import InputError
from lookalike.progress import reporting
from lookalike.types import Progress
from tests.unit.test_pooling import slow_gem

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Family:
    """A family of networks, as shallow as it can be made.

    Args:
        model: its name in timm.
        size: input height and width; None for the model's own.
        layout: of the output without pooling: ``nchw``, ``nhwc``, or the number of tokens before
            those of the patches.
        shallow: arguments that leave layers out.
        average: its native pooling is the mean over the positions of that output.
    """

    model: str
    size: int | None
    layout: str | int
    shallow: dict[str, Any] = field(default_factory=dict)
    average: bool = False


FAMILIES = (
    Family("convnext_atto", 64, "nchw", {"depths": (1, 1, 1, 1)}),
    Family("resnet18", 64, "nchw", {"layers": [1, 1, 1, 1]}, average=True),
    Family("efficientnet_b0", 64, "nchw", average=True),
    Family("mobilenetv3_small_050", 64, "nchw"),
    Family("regnetx_002", 64, "nchw", average=True),
    Family("swin_tiny_patch4_window7_224", 112, "nhwc", {"depths": (1, 1, 1, 1)}, average=True),
    Family("swinv2_tiny_window8_256", 64, "nhwc", {"depths": (1, 1, 1, 1)}, average=True),
    Family("mambaout_femto", 64, "nhwc", {"depths": (1, 1, 1, 1)}),
    Family("sequencer2d_s", 112, "nhwc", {"layers": (1, 1, 1, 1)}, average=True),
    Family("vit_tiny_patch16_224", 64, 1, {"depth": 2}),
    Family("deit_tiny_distilled_patch16_224", 64, 2, {"depth": 2}),
    Family("beit_base_patch16_224", 64, 1, {"depth": 2}),
    Family("eva02_tiny_patch14_224", 70, 1, {"depth": 2}),
    Family("vit_small_patch14_dinov2", 70, 1, {"depth": 2}),
    Family("vit_small_patch14_reg4_dinov2", 70, 5, {"depth": 2}),
    Family("mixer_s32_224", None, 0, average=True),
    Family("pvt_v2_b0", 64, "nchw", {"depths": (1, 1, 1, 1)}, average=True),
    Family("hiera_tiny_224", None, "intermediate", {"stages": (1, 1, 1, 1)}),
    Family("efficientformer_l1", None, 0, average=True),
    Family("repvit_m0_9", 64, "nchw", average=True),
    Family("fastvit_t8", 64, "nchw", {"layers": (1, 1, 1, 1)}, average=True),
    Family("hgnet_tiny", 64, "nchw"),
)


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    return import_beside_torchvision("timm", "the tests")


@pytest.fixture
def random_weights(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Have timm make networks with the same random weights each time; return what makes them."""
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    create = timm.create_model
    shallow: dict[str, Any] = {}

    def make(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        network: nn.Module = create(name, pretrained=False, **{**shallow, **options})
        with torch.no_grad():
            for weight in network.parameters():  # many are 0 at first, and would hide layers
                weight.add_(torch.randn_like(weight), alpha=0.02)
        return network.eval()

    def prepare(**options: Any) -> Callable[..., Any]:
        shallow.update(options)
        return make

    monkeypatch.setattr(timm, "create_model", make)
    return prepare


def images(count: int = 3) -> list[NDArray[np.uint8]]:
    """Return images of several sizes, smooth enough that embeddings differ."""
    rng = np.random.default_rng(0)
    sizes = [(90, 130), (150, 70), (128, 128)]
    return [
        np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((w, h)))
        for h, w in sizes[:count]
    ]


def maps_of(network: Any, values: torch.Tensor, layout: str | int) -> torch.Tensor:
    """Return the last feature maps as ``(n, c, h, w)`` in a way of their own for each layout."""
    if layout == "intermediate":
        return network.forward_intermediates(values, indices=1, intermediates_only=True)[-1]
    if isinstance(layout, int):
        norm = getattr(network, "fc_norm", nn.Identity())  # behind the pooling, if it averages
        tokens = norm(network.forward_features(values))[:, layout:]
        side = math.isqrt(tokens.shape[1])
        assert side * side == tokens.shape[1]
        return tokens.reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)
    network.reset_classifier(0, global_pool="")
    output = network(values)
    return output if layout == "nchw" else output.permute(0, 3, 1, 2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.model)
def test_family_agrees_with_torch(family: Family, random_weights: Callable[..., Any]) -> None:
    create = random_weights(**family.shallow)
    size = "" if family.size is None else f",size={family.size}"
    native = open_encoder(f"timm:{family.model}{size}", [])
    gem = open_encoder(f"timm:{family.model}/gem{size}", [])
    assert isinstance(native, NetworkEncoder)
    assert isinstance(gem, NetworkEncoder)
    values = torch.from_numpy(native.prepare(images()))
    try:
        network = create(family.model, num_classes=0, img_size=values.shape[2])
    except TypeError:  # networks without position embeddings take images of any size
        network = create(family.model, num_classes=0)
    with torch.no_grad():
        embeddings = network(values)
        maps = maps_of(network, values, family.layout)
    assert native.dim == embeddings.shape[1]
    assert gem.dim == maps.shape[1]
    if family.average:
        torch.testing.assert_close(maps.mean(dim=(2, 3)), embeddings, atol=1e-4, rtol=1e-4)
    expected = nn.functional.normalize(embeddings)
    np.testing.assert_allclose(native.encode(images()), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(gem.encode(images()), slow_gem(maps.numpy()), atol=1e-4)


def test_layers_of_channels_last(random_weights: Callable[..., Any], timm: ModuleType) -> None:
    """The network of features has channels last, too."""
    random_weights(depths=(1, 1, 1, 1))
    loaded = timm_export.load_timm("timm:swin_tiny_patch4_window7_224", "layers", 112)
    with torch.no_grad():
        earlier, last = loaded.features(torch.zeros(1, 3, 112, 112))
    assert (earlier.shape[1:], last.shape[1:]) == ((384, 7, 7), (768, 4, 4))


def test_every_preprocessing_of_timm(timm: ModuleType) -> None:
    """For each distinct one of timm's published configurations, in the pixels' own levels."""
    data: Any = import_beside_torchvision("timm.data", "the tests")
    fields = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    configs: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name in timm.list_models(pretrained=True):
        config = data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        configs.setdefault(tuple(config[each] for each in fields), config)
    assert len(configs) > 100
    assert {each["crop_mode"] for each in configs.values()} == {"center", "squash", "border"}
    for config in configs.values():
        preprocessing = timm_export.timm_preprocessing(config, config["input_size"][1:], "it")
        transform = data.create_transform(**config, is_training=False)
        for image in images():
            expected = transform(Image.fromarray(image)).numpy()
            actual = preprocessing.scaled(preprocessing.apply([image]))[0]
            np.testing.assert_allclose(actual, expected, atol=1e-4, err_msg=str(config))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest", "random"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [0.875, 1.0, 1.2])
@pytest.mark.parametrize("size", [(48, 48), (64, 40)])
def test_preprocessing_follows_timm(
    interpolation: str, mode: str, share: float, size: tuple[int, int], timm: ModuleType
) -> None:
    data: Any = import_beside_torchvision("timm.data", "the tests")
    config = {"crop_pct": share, "crop_mode": mode, "interpolation": interpolation}
    config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    preprocessing = timm_export.timm_preprocessing(config, size, "it")
    if interpolation == "random":  # of which evaluation has one
        config["interpolation"] = "bicubic"
    transform = data.create_transform(input_size=(3, *size), is_training=False, **config)
    for image in images():
        expected = transform(Image.fromarray(image)).numpy()
        actual = preprocessing.scaled(preprocessing.apply([image]))[0]
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(
    "field", [{"crop_mode": "zoom"}, {"interpolation": "sinc"}], ids=["crop", "filter"]
)
def test_unknown_preprocessing_is_refused(field: dict[str, str]) -> None:
    config = {"crop_pct": 1, "crop_mode": "center", "interpolation": "bicubic"}
    config |= {"mean": (0, 0, 0), "std": (1, 1, 1), **field}
    with pytest.raises(InputError, match=r"encoder 'timm:a': .*'(zoom|sinc)'.* open it as onnx:"):
        timm_export.timm_preprocessing(config, (32, 32), "encoder 'timm:a'")


@pytest.mark.parametrize(
    ("change", "pooling", "expected"),
    [
        ({"num_features": 7, "head_hidden_size": 7}, "", "returns 512 for an image, not one emb"),
        ({"num_features": 7, "head_hidden_size": 7}, "/gem", "which of its outputs are feature"),
        ({"output_fmt": "NLC", "forward_intermediates": None}, "/gem", "which of its outputs are"),
        ({"pretrained_cfg": {"min_input_size": (3, 96, 64)}}, "/gem", "at least 64x96 pixels"),
        ({"forward": torch.relu}, "", "returns 3x64x64 for an image, .* use timm:resnet18/gem"),
        ({"forward": torch.linalg.qr}, "", "returns linalg_qr for an image"),
        ({"forward": torch.from_numpy}, "", "does not accept images of 64x64 pixels"),
    ],
)
def test_what_timm_does_not_document_is_refused(
    change: dict[str, Any],
    pooling: str,
    expected: str,
    random_weights: Callable[..., Any],
    timm: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = random_weights()

    def changed(*arguments: Any, **options: Any) -> Any:
        network = create(*arguments, **options)
        for name, value in change.items():
            known = getattr(network, name, None)
            merged = {**known, **value} if isinstance(value, dict) and known else value
            setattr(network, name, merged)
        return network

    monkeypatch.setattr(timm, "create_model", changed)
    with pytest.raises(InputError, match=rf"encoder 'timm:resnet18': .*{expected}"):
        open_encoder(f"timm:resnet18{pooling},size=64", [])


class Unexportable(nn.Module):
    num_features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[float(each.sum()), 1] for each in images])


def test_network_that_torch_cannot_export(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    network = Unexportable()
    network.pretrained_cfg = timm.get_pretrained_cfg("resnet18").to_dict()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    with pytest.raises(InputError, match=r"'timm:own': torch .* cannot export it to ONNX \(.*hub:"):
        open_encoder("timm:own,size=64", [])
    assert not list(tmp_path.rglob("*.onnx"))


def test_export_says_what_it_does(
    random_weights: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    random_weights(layers=[1, 1, 1, 1])
    steps: list[Progress] = []
    with caplog.at_level(logging.INFO, "lookalike.notice"), reporting(steps.append):
        open_encoder("timm:resnet18,size=64", [])
        assert "exporting it to ONNX with torch, once" in caplog.text
        assert [each.note for each in steps][:2] == ["loading", "network"]
        assert (steps[-1].done, steps[-1].total) == (3, 3)
        caplog.clear()
        steps.clear()
        open_encoder("timm:resnet18,size=64", [])
    assert (caplog.text, steps) == ("", [])


@pytest.mark.parametrize(
    ("name", "dim"), [("test_resnet.r160_in1k", 96), ("test_vit.r160_in1k", 64)]
)
def test_local_weights(
    name: str, dim: int, timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert (preprocessing.height, list(preprocessing.resize)) == (160, [168, 168])
    values = torch.from_numpy(encoder.prepare(images()))
    with torch.no_grad():
        reference.reset_classifier(0)
        expected = nn.functional.normalize(reference.eval()(values)).numpy()
    np.testing.assert_allclose(encoder.encode(images()), expected, atol=1e-4)
    gem = open_encoder(f"timm:{name}/gem", [])
    assert gem.dim == dim
    assert gem.fingerprint != encoder.fingerprint


def test_an_export_of_an_older_version_is_made_again(
    timm: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    create, model = timm.create_model, "test_resnet.r160_in1k"
    torch.save(create(model, pretrained=False).state_dict(), tmp_path / "w.pth")
    overlay = {"file": str(tmp_path / "w.pth")}
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **o: create(*a, **o, pretrained_cfg_overlay=overlay)
    )
    name = f"timm:{model}"
    current = open_encoder(name, [])
    (config,) = (tmp_path / "encoders").glob("*.json")
    fields = json.loads(config.read_text())
    assert fields["origin"].pop("export") == 2
    fields["preprocessing"] |= {"resize": [160, 160]}
    config.write_text(json.dumps(fields))
    with monkeypatch.context() as without_torch, caplog.at_level("INFO", "lookalike.notice"):
        without_torch.setitem(sys.modules, "timm", None)
        older = open_encoder(name, [])
    assert older.fingerprint != current.fingerprint
    assert "by an older version of lookalike" in caplog.text
    assert open_encoder(name, []).fingerprint == current.fingerprint


def test_unknown_model_is_an_error(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"timm cannot load it .*Unknown model"):
        open_encoder("timm:resnet9000", [])


OFFLINE = """
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError
try:
    open_encoder("timm:resnet18", [])
except InputError as error:
    print(error)
"""


def test_offline_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # which would be tried again and again
    assert python(OFFLINE, tmp_path).strip().endswith("; LOOKALIKE_OFFLINE=1 is set")


OPENS = """
import sys
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.torchvision_repair import import_beside_torchvision
timm = import_beside_torchvision("timm", "the test")
create = timm.create_model
timm.create_model = lambda *names, pretrained, **more: create(*names, pretrained=False, **more)
print(open_encoder("timm:test_resnet,size=64", []).dim, "torchvision" in sys.modules)
"""


def test_opens_in_the_environment_of_make(tmp_path: Path) -> None:
    """In a process that imports nothing before: torchvision may be built for another torch."""
    assert python(OPENS, tmp_path).strip() == "96 True"


def python(code: str, path: Path) -> str:
    """Return what a program prints, with a folder in front of its path."""
    environment = {**os.environ, "PYTHONPATH": str(path), "LOOKALIKE_DATA": str(path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import sys
from lookalike.encoders.torchvision_repair import import_beside_torchvision
from lookalike.errors import LookalikeError
try:
    print(import_beside_torchvision("user", "encoder 'a'").VALUE)
except LookalikeError as error:
    print(error)
print(sorted(name for name in sys.modules if name.startswith("torchvision")))
"""


def write_packages(folder: Path, *, operators: str, user: str = "VALUE = 1") -> None:
    """Write a package torchvision whose operators are described in some way, and one that uses it.

    As torchvision does, it imports that description from itself.
    """
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision import _meta_registrations, extension")
    (package / "extension.py").write_text("")
    (package / "_meta_registrations.py").write_text(operators)
    (folder / "user.py").write_text(f"import torchvision\n{user}")


def test_torchvision_that_works_is_used_as_it_is(tmp_path: Path) -> None:
    write_packages(tmp_path, operators="", user="VALUE = torchvision._meta_registrations.__file__")
    value, modules = python(IMPORTS, tmp_path).splitlines()
    assert value == str(tmp_path / "torchvision" / "_meta_registrations.py")
    assert "torchvision._meta_registrations" in modules


def test_torchvision_without_operators_is_repaired(tmp_path: Path) -> None:
    """What stays is torchvision; the module that stood in for its operators does not."""
    missing = "raise RuntimeError('operator torchvision::nms does not exist')"
    write_packages(tmp_path, operators=missing)
    value, modules = python(IMPORTS, tmp_path).splitlines()
    assert (value, modules) == ("1", "['torchvision', 'torchvision.extension']")


@pytest.mark.parametrize("error", ["RuntimeError('no driver')", "OSError('x.so: cannot open')"])
def test_torchvision_that_cannot_be_imported_is_named(error: str, tmp_path: Path) -> None:
    write_packages(tmp_path, operators=f"raise {error}")
    message = python(IMPORTS, tmp_path).splitlines()[0]
    reason = error.partition("'")[2].rstrip("')")
    assert message.startswith(
        "encoder 'a': the package 'torchvision' is installed but cannot be imported "
        f"({reason}); install the torchvision that belongs to this torch"
    )


def test_another_package_is_not_blamed_on_torchvision(tmp_path: Path) -> None:
    write_packages(tmp_path, operators="", user="raise ImportError('no backend')")
    message = python(IMPORTS, tmp_path).splitlines()[0]
    assert message.startswith("encoder 'a': the package 'user' is installed but cannot be imported")
    assert "(no backend)" in message
    assert "torchvision" not in message
