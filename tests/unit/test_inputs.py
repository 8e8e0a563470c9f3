"""What users pass as images is recognized in one place, and everything else is one typed error."""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lookalike as la
from lookalike.errors import ImageError, InputError, LookalikeError, SettingError
from lookalike.images.decode import decode
from lookalike.sources import open_source
from lookalike.sources.inputs import InputImage, as_images, stream_images
from lookalike.types import ImageArray
from tests.canary_server import Canary, canary_server

torch = pytest.importorskip("torch")

RGB = np.random.default_rng(5).integers(0, 256, (20, 30, 3)).astype(np.uint8)
GRAY = RGB[..., 0]


def png(pixels: ImageArray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PNG = png(RGB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    return path


def only(images: object, **options: Any) -> ImageArray:
    """The pixels of an argument that is one image."""
    inputs = as_images(images, **options)
    assert inputs.single
    assert len(inputs) == 1
    return inputs[0].image()


class Bytes(io.RawIOBase):
    """A stream without a position."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self.data))
        buffer[:size], self.data = self.data[:size], self.data[size:]
        return size


ONE: dict[str, Callable[[Path], object]] = {
    "str": str,
    "Path": lambda path: path,
    "numpy str": lambda path: np.str_(path),
    "bytes": lambda _: PNG,
    "bytearray": lambda _: bytearray(PNG),
    "memoryview": lambda _: memoryview(PNG),
    "file": lambda path: io.BytesIO(path.read_bytes()),
    "stream": lambda _: Bytes(PNG),
    "PIL": lambda path: Image.open(path),
    "array": lambda _: RGB,
    "reversed view": lambda _: RGB[::-1][::-1],
    "RGBA": lambda _: np.dstack([RGB, np.full_like(GRAY, 255)]),
    "floats": lambda _: RGB / 255,
    "float32": lambda _: (RGB / 255).astype(np.float32),
    "tensor": lambda _: torch.tensor(RGB).permute(2, 0, 1),
    "tensor, channels last": lambda _: torch.tensor(RGB),
    "tensor with gradient": lambda _: torch.tensor(RGB / 255).permute(2, 0, 1).requires_grad_(),
    "item": lambda path: open_source(path.parent)[0],
    "input": lambda path: as_images(path)[0],
}


@pytest.mark.parametrize("form", ONE)
def test_one_image_in_each_form(form: str, path: Path) -> None:
    np.testing.assert_array_equal(only(ONE[form](path), value_range=(0, 1)), RGB)


@pytest.mark.parametrize("form", ONE)
def test_each_form_has_the_bytes_of_a_file(form: str, path: Path) -> None:
    (image,) = as_images(ONE[form](path), value_range=(0, 1))
    data = image.file_bytes()
    np.testing.assert_array_equal(decode(data), RGB)
    if form in ("str", "Path", "bytes", "bytearray", "memoryview", "file", "stream", "item"):
        assert data == PNG


def test_several_images_of_mixed_forms(path: Path) -> None:
    forms = [make(path) for make in ONE.values()]
    inputs = as_images(forms, value_range=(0, 1))
    assert not inputs.single
    assert len(inputs) == len(ONE)
    for image in inputs:
        np.testing.assert_array_equal(image.image(), RGB)


MANY: dict[str, Callable[[Path], object]] = {
    "list of one": lambda path: [path],
    "tuple": lambda path: (path, RGB),
    "generator": lambda _: (image for image in (RGB, PNG, RGB)),
    "array (N, H, W, 3)": lambda _: np.stack([RGB] * 3),
    "array (1, H, W, 3)": lambda _: RGB[None],
    "array of 4 channels": lambda _: np.dstack([RGB, np.full_like(GRAY, 255)])[None],
    "tensor (N, C, H, W)": lambda _: torch.tensor(RGB).permute(2, 0, 1)[None].repeat(2, 1, 1, 1),
    "tensor (N, H, W, C)": lambda _: torch.tensor(RGB)[None],
    "floats": lambda _: np.stack([RGB] * 2) / 255,
    "array of paths": lambda path: np.array([str(path)] * 2),
    "array of objects": lambda path: np.array([str(path), path], object),
    "Series": lambda path: pd.Series([str(path)] * 2),
    "source": lambda path: open_source(path.parent),
    "inputs": lambda path: as_images([path]),
}


@pytest.mark.parametrize("form", MANY)
def test_several_images_in_each_form(form: str, path: Path) -> None:
    inputs = as_images(MANY[form](path), value_range=(0, 1))
    assert not inputs.single
    assert len(inputs) == {"tuple": 2, "generator": 3, "array (N, H, W, 3)": 3}.get(
        form, len(inputs)
    )
    for image in inputs:
        np.testing.assert_array_equal(image.image(), RGB)


@pytest.mark.parametrize(
    ("shape", "single", "count", "image"),
    [
        ((80, 100), True, 1, (80, 100)),
        ((80, 100, 1), True, 1, (80, 100)),
        ((80, 100, 3), True, 1, (80, 100, 3)),
        ((80, 100, 4), True, 1, (80, 100, 3)),
        ((80, 100, 2), False, 80, (100, 2)),
        ((3, 80, 100), False, 3, (80, 100)),
        ((5, 80, 100), False, 5, (80, 100)),
        ((80, 100, 3, 1), False, 80, (100, 3)),
        ((1, 80, 100, 3), False, 1, (80, 100, 3)),
    ],
)
def test_shapes_of_arrays(
    shape: tuple[int, ...], single: bool, count: int, image: tuple[int, ...]
) -> None:
    inputs = as_images(np.zeros(shape, np.uint8))
    assert (inputs.single, len(inputs)) == (single, count)
    assert {each.image().shape for each in inputs} == {image}


@pytest.mark.parametrize(
    ("shape", "single", "count", "image"),
    [
        ((80, 100), True, 1, (80, 100)),
        ((1, 80, 100), True, 1, (80, 100)),
        ((3, 80, 100), True, 1, (80, 100, 3)),
        ((4, 80, 100), True, 1, (80, 100, 3)),
        ((80, 100, 3), True, 1, (80, 100, 3)),
        ((3, 100, 3), True, 1, (100, 3, 3)),
        ((5, 80, 100), False, 5, (80, 100)),
        ((2, 3, 80, 100), False, 2, (80, 100, 3)),
        ((2, 80, 100, 3), False, 2, (80, 100, 3)),
        ((2, 1, 80, 100), False, 2, (80, 100)),
    ],
)
def test_shapes_of_tensors(
    shape: tuple[int, ...], single: bool, count: int, image: tuple[int, ...]
) -> None:
    inputs = as_images(torch.zeros(shape, dtype=torch.uint8))
    assert (inputs.single, len(inputs)) == (single, count)
    assert {each.image().shape for each in inputs} == {image}


def test_transparent_array_is_composed_like_a_file() -> None:
    rgba = np.dstack([RGB, np.where(GRAY > 100, 255, 0).astype(np.uint8)])
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    np.testing.assert_array_equal(only(rgba), only(file.getvalue()))


@pytest.mark.parametrize(
    ("values", "value_range"),
    [
        (np.float64(RGB), (0, 255)),
        (RGB / 255, (0, 1)),
        (RGB / 127.5 - 1, (-1, 1)),
        (RGB.astype(np.uint16) * 257, (0, 65535)),
        (RGB.astype(np.int64), (0, 255)),
        (torch.tensor(RGB).float() / 255, (0, 1)),
    ],
)
def test_other_numbers_are_mapped_by_their_range(
    values: Any, value_range: tuple[float, float]
) -> None:
    np.testing.assert_array_equal(only(values, value_range=value_range), RGB)


def test_bfloat16_and_masks_are_numbers_too() -> None:
    low = torch.tensor(RGB / 255).bfloat16()
    assert np.abs(only(low, value_range=(0, 1)).astype(int) - RGB).max() <= 1
    np.testing.assert_array_equal(only(GRAY > 9, value_range=(0, 1)), np.where(GRAY > 9, 255, 0))


def test_bytes_stay_bytes_whatever_the_range() -> None:
    np.testing.assert_array_equal(only(RGB, value_range=(0, 1)), RGB)


@pytest.mark.parametrize("value", [RGB / 255, (RGB / 255).astype(np.float16), GRAY / 255])
def test_floats_without_a_range_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^query: an array of float.*value_range=\(0, 1\)"):
        as_images(value, argument="query")
    with pytest.raises(InputError, match=r"^query\[1\]: .*value_range=\(0, 1\)"):
        as_images([RGB, value], argument="query")


def test_likely_range_is_named_only_if_the_values_are_in_it() -> None:
    with pytest.raises(InputError, match=r"value_range=\(0, 255\)"):
        as_images(RGB.astype(float))
    with pytest.raises(InputError, match=r"needs value_range, .* or convert it to uint8$"):
        as_images(RGB - 200.0)


@pytest.mark.parametrize("outside", [1.5, -0.1, np.nan, np.inf])
def test_values_outside_the_range_are_refused(outside: float) -> None:
    values = RGB / 255
    values[3, 4, 1] = outside
    (image,) = as_images(values, value_range=(0, 1), argument="photo")
    with pytest.raises(ImageError, match=r"^photo: has .*outside value_range=\(0, 1\)"):
        image.image()


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), 1, "ab", (0, np.nan), (0,), (0, 1, 2)])
def test_invalid_ranges_are_refused(value_range: Any) -> None:
    with pytest.raises(SettingError, match=r"value_range=.* must be two numbers"):
        as_images(RGB, value_range=value_range)


NO_IMAGES: list[Any] = [
    None,
    7,
    7.5,
    True,
    {},
    {"a": RGB},
    {1, 2},
    object(),
    Image.Image,
    [],
    (),
    iter([]),
    [None],
    [7],
    [RGB, [RGB]],
    [RGB, {}],
    [[1, 2], [3, 4]],
    "",
    np.zeros((2, 3), complex),
    np.zeros((2, 3), object),
    np.array([1, 2], object),
    np.array(["a", "b"], "S1"),
    np.array(3, np.uint8),
    np.zeros(5, np.uint8),
    np.zeros((2, 2, 2, 2), np.uint8),
    np.zeros((2, 2, 2, 2, 3), np.uint8),
    np.zeros((0, 5), np.uint8),
    np.zeros((0, 5, 5, 3), np.uint8),
    np.array(["2026-01-01"], "datetime64[D]"),
    pd.DataFrame({"a": ["x"]}),
    torch.zeros(()),
    torch.zeros(2, 2, 2, 2, 2),
    torch.zeros(3, 4, 4, device="meta"),
    torch.zeros(4, 4, dtype=torch.complex64),
    [np.zeros((2, 5, 5, 3), np.uint8)],
    io.StringIO("text"),
    ["photo.png", 3],
]


@pytest.mark.parametrize("value", NO_IMAGES, ids=lambda value: type(value).__name__)
def test_whatever_is_no_image_is_one_error_that_names_the_argument(value: Any) -> None:
    with pytest.raises(InputError, match=r"^pictures(\[\d\])?: ") as caught:
        as_images(value, argument="pictures")
    assert any(word in str(caught.value) for word in ("pass ", "mode 'rb'"))


def test_folder_is_no_image(tmp_path: Path) -> None:
    for folder in (str(tmp_path), tmp_path):
        with pytest.raises(InputError, match=r"^images: .* is a folder; .*open_source"):
            as_images(folder)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(PNG[:40])
    for name, reason in (("none.png", "No such file"), ("broken.png", "")):
        (image,) = as_images(tmp_path / name)
        for read in (image.image, image.file_bytes):
            if read == image.image or name == "none.png":
                with pytest.raises(ImageError, match=rf"{name}: .*{reason}"):
                    read()


def test_bytes_that_are_no_image_name_the_argument() -> None:
    images = as_images([PNG, b"text", b""], argument="queries")
    assert [image.name for image in images] == ["queries[0]", "queries[1]", "queries[2]"]
    with pytest.raises(ImageError, match=r"^queries\[1\]: unsupported image format"):
        images[1].image()
    with pytest.raises(ImageError, match=r"^queries\[2\]: the file is empty"):
        images[2].image()


def test_files_are_read_from_their_position_on(path: Path) -> None:
    file = io.BytesIO(b"header" + PNG)
    file.seek(6)
    np.testing.assert_array_equal(only(file), RGB)
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as map_:
        np.testing.assert_array_equal(only(map_), RGB)
    with path.open("rb") as opened:
        pass
    with pytest.raises(ImageError, match="images: cannot be read"):
        as_images(opened)


class Upload:
    """A file of a web framework, which must be awaited, with the real file in it."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class Awaited:
    """A file that must be awaited."""

    async def read(self) -> bytes:
        raise AssertionError("nobody awaits it")


@pytest.mark.filterwarnings("error")
def test_asynchronous_files() -> None:
    np.testing.assert_array_equal(only(Upload(PNG)), RGB)
    with pytest.raises(InputError, match=r"^images: reading Awaited .* awaited, pass the bytes"):
        as_images(Awaited())


@dataclass
class Row:
    """Something with an image, as a row of a gallery is."""

    id: str = "shop:a.png"
    uri: str = "/shop/a.png"

    def image(self, *, full_size: bool = False) -> ImageArray:
        return RGB if full_size else RGB[::2, ::2]


class Failing:
    """Something whose image cannot be had."""

    def image(self) -> ImageArray:
        raise KeyError("lost")


def test_objects_with_an_image(path: Path) -> None:
    (row,) = as_images(Row())
    assert (row.name, row.uri, row.item_id) == ("/shop/a.png", "/shop/a.png", "shop:a.png")
    assert row.image().shape == (10, 15, 3)
    assert row.image(full_size=True).shape == RGB.shape
    np.testing.assert_array_equal(decode(row.file_bytes()), RGB)
    (item,) = as_images(open_source(path.parent)[0])
    assert item.item_id == f"{path.parent.name}:photo.png"
    with pytest.raises(ImageError, match="images: cannot be read"):
        as_images(Failing())[0].image()


def test_items_of_a_gallery_are_images_but_not_a_gallery(path: Path, tmp_path: Path) -> None:
    gallery = la.Gallery.create(tmp_path / "g.gallery", encoder=la.open_encoder("color", [RGB]))
    gallery.sync(path.parent, progress=False)
    (item_id,) = gallery
    (image,) = as_images(gallery[item_id])
    assert (image.item_id, image.uri) == (item_id, str(path))
    np.testing.assert_array_equal(image.image(), RGB)
    assert len(as_images([gallery[item_id], path])) == 2
    with pytest.raises(InputError, match=r"^images: got Gallery; pass "):
        as_images(gallery)


def test_names_and_uris(path: Path) -> None:
    (image,) = as_images(str(path))
    assert (image.name, image.uri, image.item_id) == (str(path), str(path), None)
    (array,) = as_images(RGB, argument="query")
    assert (array.name, array.uri, array.item_id) == ("query", None, None)
    assert repr(as_images([RGB, RGB])) == "<2 images>"
    assert len(repr(array)) < 80


def test_uris_of_items_are_paths_too(tmp_path: Path) -> None:
    digits = open_source("dataset:digits/test[:3]")
    np.testing.assert_array_equal(only(digits[2].uri), digits[2].image())
    pages = [Image.fromarray(RGB), Image.fromarray(GRAY)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(only(f"{tmp_path}/scan.tif#2"), GRAY)
    odd = tmp_path / "a#2.png"
    odd.write_bytes(PNG)
    np.testing.assert_array_equal(only(str(odd)), RGB)


def test_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    np.testing.assert_array_equal(only("~/photo.png"), RGB)


def test_images_of_a_generator_are_read_when_they_are_needed() -> None:
    passed = []

    def images() -> Iterator[ImageArray]:
        for number in range(5):
            passed.append(number)
            yield RGB

    single, inputs = stream_images(images())
    assert not single
    next(inputs)
    next(inputs)
    assert passed == [0, 1]


@pytest.fixture
def canary() -> Iterator[Canary]:
    with canary_server(PNG) as running:
        yield running


def test_urls_are_fetched_only_if_allowed(canary: Canary) -> None:
    for images in (canary.url(), [RGB, canary.url()]):
        with pytest.raises(InputError, match="is a URL, which is fetched only with allow_urls"):
            as_images(images)
    (public,) = as_images(canary.url(), allow_urls=True)
    with pytest.raises(ImageError, match=r"not on the public internet.*allow_private_urls"):
        public.image()
    assert canary.connections == 0
    (image,) = as_images(canary.url(), allow_urls=True, allow_private_urls=True)
    np.testing.assert_array_equal(image.image(), RGB)
    assert image.file_bytes() == PNG
    assert image.uri == image.name == canary.url()


def test_errors_are_pickled_like_others() -> None:
    with pytest.raises(LookalikeError) as caught:
        as_images(RGB / 255)
    assert "value_range" in str(caught.value)
    assert caught.value.format_message(lambda name, _: f"--{name}").count("--value_range") == 1


def test_inputs_are_a_sequence() -> None:
    inputs = as_images(np.stack([RGB, RGB, RGB]))
    assert [each.name for each in inputs[1:]] == ["images[1]", "images[2]"]
    assert isinstance(inputs[-1], InputImage)
