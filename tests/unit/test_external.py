"""Functions and models of users as encoders: what they get, what they may return, how they last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lookalike as la
from lookalike.encoders import ExternalEncoder, from_callable
from lookalike.encoders.base import Encoder
from lookalike.encoders.composite import combine
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, SettingError
from lookalike.gallery.ray_runner import RayRunner
from lookalike.types import ImageArray

torch: Any = pytest.importorskip("torch")

RNG = np.random.default_rng(4)
RGB = [RNG.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8) for i in range(6)]
GRAY = [image[..., 0] for image in RGB]
MIXED = [RGB[0], GRAY[1], RGB[2]]


def means(images: Sequence[ImageArray]) -> NDArray[np.float64]:
    """The mean color of each image."""
    return np.array([image.reshape(-1, 3).mean(axis=0) for image in images])


def test_function_gets_a_list_of_rgb_arrays() -> None:
    calls: list[Any] = []

    def fn(images: list[ImageArray]) -> NDArray[np.float64]:
        calls.append(images)
        return means(images)

    encoder = from_callable(fn, dim=3, name="mean")
    np.testing.assert_allclose(
        encoder.encode(MIXED), means([RGB[0], np.dstack([GRAY[1]] * 3), RGB[2]]), rtol=1e-6
    )
    (images,) = calls
    assert isinstance(images, list)
    assert [image.shape for image in images] == [(20, 30, 3), (21, 30, 3), (22, 30, 3)]
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(images[0], RGB[0])
    np.testing.assert_array_equal(images[1], np.dstack([GRAY[1]] * 3))
    assert encoder.encode(RGB[0]).shape == (3,)
    assert encoder.encode(RGB[0]).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"size": 8}, (3, 8, 8, 3)),
        ({"size": (8, 6)}, (3, 8, 6, 3)),
        ({"size": (8, 6), "channels": 1}, (3, 8, 6)),
    ],
)
def test_function_gets_one_array_with_a_size(options: Any, shape: tuple[int, ...]) -> None:
    calls: list[Any] = []

    def fn(images: NDArray[np.uint8]) -> list[list[int]]:
        calls.append(images)
        return [[1, 2]] * len(images)

    rows = from_callable(fn, dim=2, name="f", **options).encode(MIXED)
    np.testing.assert_array_equal(rows, [[1, 2]] * 3)
    (images,) = calls
    assert isinstance(images, np.ndarray)
    assert (images.shape, images.dtype.name) == (shape, "uint8")
    assert images.flags.c_contiguous


def test_function_gets_gray_arrays() -> None:
    shapes: list[Any] = []

    def fn(images: list[ImageArray]) -> NDArray[np.float64]:
        shapes.extend(image.shape for image in images)
        return np.array([[image.mean()] for image in images])

    from_callable(fn, dim=1, name="f", channels=1).encode(MIXED)
    assert shapes == [(20, 30), (21, 30), (22, 30)]


def test_calls_have_at_most_so_many_images() -> None:
    counts: list[int] = []

    def fn(images: list[ImageArray]) -> NDArray[np.float64]:
        counts.append(len(images))
        return means(images)

    encoder = from_callable(fn, dim=3, name="mean", batch_size=4)
    np.testing.assert_allclose(encoder.encode_batch(RGB), means(RGB), rtol=1e-6)
    assert counts == [4, 2]
    assert encoder.encode_batch([]).shape == (0, 3)


def test_normalized_embeddings_have_unit_length() -> None:
    rows = from_callable(means, dim=3, name="mean", normalized=True).encode(RGB)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_scikit_learn_pipeline() -> None:
    def flat(images: Sequence[ImageArray]) -> NDArray[np.float32]:
        resized = [
            np.asarray(Image.fromarray(i).resize((6, 8), Image.Resampling.BILINEAR)) for i in images
        ]
        return np.stack(resized).reshape(len(images), -1).astype(np.float32) / np.float32(255)

    pipeline = make_pipeline(StandardScaler(), PCA(4, random_state=0)).fit(flat(RGB))
    encoder = from_callable(pipeline, dim=4, name="pca4", size=(8, 6))
    np.testing.assert_allclose(encoder.encode(RGB), pipeline.transform(flat(RGB)), atol=1e-5)
    frames = StandardScaler().set_output(transform="pandas").fit(flat(RGB))
    assert from_callable(frames, dim=144, name="z", size=(8, 6)).encode(RGB).shape == (6, 144)


class Net(torch.nn.Module):  # type: ignore[misc]
    """A small network with parts whose mode matters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3)
        self.norm = torch.nn.BatchNorm2d(5)
        self.drop = torch.nn.Dropout(0.5)
        self.inputs: list[Any] = []

    def forward(self, images: Any) -> Any:
        self.inputs.append(images)
        return self.drop(self.norm(self.conv(images))).mean(dim=(2, 3))


def test_torch_module() -> None:
    torch.manual_seed(0)
    net = Net()
    net.norm.eval()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    encoder = from_callable(net, dim=5, name="net", size=(12, 10), mean=mean, std=std)
    rows = encoder.encode(RGB)
    assert (net.training, net.norm.training, net.drop.training) == (True, False, True)
    (images,) = net.inputs
    assert (tuple(images.shape), images.dtype) == ((6, 3, 12, 10), torch.float32)
    resized = np.asarray(Image.fromarray(RGB[3]).resize((10, 12), Image.Resampling.BILINEAR))
    expected = (resized / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(images[3].permute(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(RGB), rows)  # no dropout
    assert not net.norm.num_batches_tracked
    with torch.no_grad():
        np.testing.assert_allclose(rows, net.eval()(images), atol=1e-6)
    half = from_callable(net.half(), dim=5, name="net", size=(12, 10), mean=mean, std=std)
    np.testing.assert_allclose(half.encode(RGB), rows, atol=0.05)


def test_mode_is_restored_after_an_error() -> None:
    encoder = from_callable(net := Net(), dim=5, name="net", size=2)
    with pytest.raises(RuntimeError):
        encoder.encode(RGB)
    assert net.training
    assert net.drop.training


def test_function_may_return_tensors_and_sparse_matrices() -> None:
    from scipy.sparse import csr_matrix

    def tensors(images: list[ImageArray]) -> Any:
        return torch.tensor(means(images), requires_grad=True).bfloat16()

    def sparse(images: list[ImageArray]) -> Any:
        return csr_matrix(means(images))

    np.testing.assert_allclose(
        from_callable(tensors, dim=3, name="t").encode(RGB), means(RGB), rtol=0.01
    )
    np.testing.assert_allclose(
        from_callable(sparse, dim=3, name="s").encode(RGB), means(RGB), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((6, 2)), r"must return numbers of shape \(6, 3\), not \(6, 2\)"),
        (np.zeros((5, 3)), r"\(6, 3\), not \(5, 3\)"),
        (np.zeros(3), r"not \(3,\)"),
        (np.full((6, 3), np.nan), "row 0 has NaN or Inf"),
        (np.full((6, 3), 1e300), "row 0 has NaN or Inf"),
        (np.zeros((6, 3), complex), "must return numbers .* not ndarray"),
        ([["a"] * 3] * 6, "must return numbers .* not list"),
        ([[1], [1, 2]], "must return numbers .* not list"),
        (None, "must return numbers .* not NoneType"),
        ({"a": 1}, "must return numbers .* not dict"),
        ("text", "must return numbers .* not str"),
    ],
)
def test_wrong_outputs_are_refused(output: Any, message: str) -> None:
    encoder = from_callable(lambda _: output, dim=3, name="mine")
    with pytest.raises(InputError, match=f"^encoder 'mine': .*{message}"):
        encoder.encode(RGB)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": 2.5}, "dim"),
        ({"dim": None}, "dim"),
        ({"dim": True}, "dim"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"fingerprint": 3}, "fingerprint"),
        ({"size": 0}, "size"),
        ({"size": (3, 4, 5)}, "size"),
        ({"size": "ab"}, "size"),
        ({"size": 10_000}, "size"),
        ({"channels": 4}, "channels"),
        ({"batch_size": 0}, "batch_size"),
        ({"mean": (0.5,)}, "mean"),
    ],
)
def test_parameters_are_checked(options: Any, parameter: str) -> None:
    with pytest.raises(SettingError, match=f"^{parameter}"):
        from_callable(means, **{"dim": 3, "name": "mine", **options})


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({}, "size"),
        ({"size": 8, "mean": (1, 2)}, "mean"),
        ({"size": 8, "std": (1, 1, 0)}, "std"),
        ({"size": 8, "std": (1, 1, np.inf)}, "std"),
    ],
)
def test_parameters_of_modules_are_checked(options: Any, parameter: str) -> None:
    with pytest.raises(SettingError, match=rf"^{parameter}"):
        from_callable(Net(), dim=5, name="mine", **options)


@pytest.mark.parametrize("fn", [None, 3, "hog", Net, PCA, RGB])
def test_what_cannot_be_called_is_refused(fn: Any) -> None:
    with pytest.raises(InputError, match="fn: expected a function, a fitted scikit-learn"):
        from_callable(fn, dim=3, name="mine")


def test_fingerprint_is_of_whatever_changes_the_embeddings() -> None:
    def prints(**options: Any) -> str:
        return from_callable(
            means, **{"dim": 3, "name": "mine", "fingerprint": "v1", **options}
        ).fingerprint

    base = prints()
    others = [prints(dim=4), prints(name="x"), prints(fingerprint="v2"), prints(channels=1)]
    others += [prints(size=8), prints(size=9), prints(normalized=True)]
    assert len({base, *others}) == 8
    assert base == prints(batch_size=3)
    assert base == ExternalEncoder("mine", 3, "v1").fingerprint


def test_saved_without_the_function_and_used_again_with_it(tmp_path: Path) -> None:
    encoder = from_callable(
        Net(), dim=5, name="net", fingerprint="v1", size=(12, 10), mean=(0.5,) * 3, std=(0.2,) * 3
    )
    assert encoder.is_available
    save_encoder(encoder, tmp_path / "net.encoder")
    assert [path.name for path in (tmp_path / "net.encoder").iterdir()] == ["encoder.json"]
    loaded = load_encoder(tmp_path / "net.encoder")
    assert isinstance(loaded, ExternalEncoder)
    assert not loaded.is_available
    assert loaded == encoder
    assert loaded.describe() == encoder.describe()
    assert loaded.fingerprint == encoder.fingerprint
    with pytest.raises(InputError, match=r"encoder 'net' has no function here.* encoder="):
        loaded.encode(RGB)
    with pytest.raises(InputError, match="supports images only"):
        loaded.encode_text("a")


def test_part_of_other_encoders(tmp_path: Path) -> None:
    mixed = combine([from_callable(means, dim=3, name="mean"), open_encoder("color", RGB)])
    assert mixed.is_available
    assert mixed.encode(RGB[0]).shape == (mixed.dim,)
    save_encoder(mixed, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert loaded.fingerprint == mixed.fingerprint
    assert not loaded.is_available
    with pytest.raises(InputError, match="encoder 'mean' has no function here"):
        loaded.encode(RGB)


def test_vectors_made_elsewhere_have_an_encoder_without_a_function() -> None:
    encoder: Encoder = ExternalEncoder("external", 512)
    assert not encoder.is_available
    assert repr(encoder).startswith("<Encoder 'external' dim=512 fingerprint=")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", 0),
        ("dim", "3"),
        ("dim", 10**9),
        ("dim", 4),
        ("channels", 2),
        ("user_fingerprint", None),
        ("user_fingerprint", "v2"),
        ("name", ""),
        ("normalized", 3),
        ("preprocessing", {"height": 0, "width": 1, "channels": 3, "exact": False}),
        ("preprocessing", [1]),
        ("files", ["model.onnx"]),
    ],
)
def test_changed_descriptions_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    save_encoder(from_callable(means, dim=3, name="mean", fingerprint="v1"), tmp_path / "e")
    path = tmp_path / "e" / "encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ArtifactError):
        load_encoder(tmp_path / "e")


def test_functions_are_not_sent_to_other_machines(tmp_path: Path) -> None:
    part = combine([from_callable(means, dim=3, name="mean"), open_encoder("color", RGB)])
    for number, encoder in enumerate((from_callable(means, dim=3, name="mean"), part)):
        gallery = la.Gallery.create(tmp_path / f"{number}.gallery", encoder=encoder)
        folder = tmp_path / f"photos{number}"
        folder.mkdir()
        Image.fromarray(RGB[0]).save(folder / "a.png")
        with pytest.raises(SettingError, match="made of a function, which cannot be sent"):
            gallery.sync(folder, runner=RayRunner(), progress=False)
        assert gallery.sync(folder, progress=False).added == 1


def test_exported() -> None:
    assert la.encoders.from_callable is from_callable
