"""The user's calls of every encoder: encode, encode_text, open_encoder, repr."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.composite import combine
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.encoders.options import whiten_encoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import encoder_specs, find_encoder_spec, open_encoder, sample_of
from lookalike.errors import ArtifactError, ImageError, InputError, SettingError, UnknownNameError
from lookalike.sources import open_source
from lookalike.types import Embeddings, ImageArray, Progress
from tests.canary_server import canary_server
from tests.color_words import color_words

RNG = np.random.default_rng(2)
IMAGES = [RNG.integers(0, 256, (40 + i, 50, 3)).astype(np.uint8) for i in range(11)]
SAMPLE = IMAGES * 3
NAMES = ("pixels", "pca", "hog", "hog-fine", "color", "texture", "untrained", "hog+color,mirror")


class Recorder(Encoder):
    """Encodes an image as its size and first pixel, and records the sizes of batches."""

    name = "recorder"
    dim = 3
    normalized = False
    fingerprint = "0" * 64

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_batch(self, images: Sequence[ImageArray] | np.ndarray[Any, Any]) -> Embeddings:
        self.batches.append(len(images))
        if any(image.shape[0] == 13 for image in images):
            raise ImageError("13 rows are not accepted")
        rows = [[*image.shape[:2], image.flat[0]] for image in images]
        return np.array(rows, np.float32).reshape(len(images), 3)

    def files(self) -> Mapping[str, bytes]:
        return {}

    def describe(self) -> Mapping[str, Any]:
        return {"kind": self.name, "name": self.name}


@pytest.mark.parametrize("name", NAMES)
def test_encode_equals_the_batch_method_bit_for_bit(name: str) -> None:
    encoder = open_encoder(name, SAMPLE)
    expected = encoder.encode_batch(IMAGES)
    for batch_size in (1, 4, 64):
        embeddings = encoder.encode(IMAGES, batch_size=batch_size)
        assert embeddings.shape == (11, encoder.dim)
        assert embeddings.dtype == np.float32
        # A product of matrices is summed in another order for another number of rows.
        tolerance = 1e-5 if name == "pca" and batch_size < len(IMAGES) else 0
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=tolerance)


def test_one_image_is_a_vector_and_a_list_of_one_is_not(tmp_path: Path) -> None:
    encoder = open_encoder("color", IMAGES)
    path = tmp_path / "a.png"
    Image.fromarray(IMAGES[0]).save(path)
    expected = encoder.encode_batch(IMAGES[:1])[0]
    for image in (IMAGES[0], path, str(path), path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(encoder.encode(image), expected)
        np.testing.assert_array_equal(encoder.encode([image]), expected[None])
    mixed = encoder.encode([path, Image.open(path), IMAGES[0], io.BytesIO(path.read_bytes())])
    np.testing.assert_array_equal(mixed, np.stack([expected] * 4))


def test_an_array_of_three_channels_is_one_image() -> None:
    encoder = open_encoder("color", IMAGES)
    assert encoder.encode(np.zeros((80, 100, 3), np.uint8)).shape == (encoder.dim,)
    assert encoder.encode(np.zeros((80, 100, 3, 1), np.uint8)).shape == (80, encoder.dim)


def test_floats_are_scaled_once_and_only_if_told() -> None:
    encoder = open_encoder("pixels", IMAGES)
    with pytest.raises(InputError, match=r"images: .*value_range=\(0, 1\)"):
        encoder.encode(IMAGES[0] / 255)
    np.testing.assert_array_equal(
        encoder.encode(IMAGES[0] / 255, value_range=(0, 1)), encoder.encode(IMAGES[0])
    )


def test_batches_bound_what_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_THREADS", "1")
    encoder = Recorder()
    read = 0
    ahead = []

    def images() -> Iterator[ImageArray]:
        nonlocal read
        for _ in range(100):
            read += 1
            ahead.append(read - sum(encoder.batches))
            yield IMAGES[0]

    assert encoder.encode(images(), batch_size=10, show_progress=False).shape == (100, 3)
    assert encoder.batches == [10] * 10
    assert max(ahead) <= 10 + 3 * 8  # the batch, and what threads read ahead


def test_progress_goes_to_a_callback() -> None:
    reports: list[Progress] = []
    Recorder().encode(IMAGES, batch_size=4, show_progress=reports.append)
    assert [(p.task, p.done, p.total) for p in reports] == [
        ("encode", 0, 11),
        ("encode", 4, 11),
        ("encode", 8, 11),
        ("encode", 11, 11),
    ]
    reports.clear()
    Recorder().encode(iter(IMAGES), show_progress=reports.append)
    assert [(p.done, p.total) for p in reports] == [(0, None), (11, None)]


def test_rejected_and_broken_images_are_named(tmp_path: Path) -> None:
    thirteen = np.zeros((13, 9), np.uint8)
    with pytest.raises(ImageError, match=r"^images\[2\]: 13 rows are not accepted"):
        Recorder().encode([IMAGES[0], IMAGES[1], thirteen])
    with pytest.raises(ImageError, match=r"^images: 13 rows are not accepted"):
        Recorder().encode(thirteen)
    (tmp_path / "b.png").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"b\.png: unsupported image format"):
        Recorder().encode([IMAGES[0], tmp_path / "b.png"])


@pytest.mark.parametrize("images", [None, [], 3, {}, [None], np.zeros((3, 3), complex)])
def test_no_images_are_one_typed_error(images: Any) -> None:
    with pytest.raises(InputError, match=r"^images"):
        Recorder().encode(images)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "3", None, True])
def test_batch_size_is_checked(batch_size: Any) -> None:
    with pytest.raises(SettingError, match=r"batch_size.* must be a number of at least 1"):
        Recorder().encode(IMAGES, batch_size=batch_size)


def test_urls_of_this_machine() -> None:
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "PNG")
    encoder = open_encoder("color", IMAGES)
    with canary_server(file.getvalue()) as canary:
        with pytest.raises(InputError, match="fetched only with allow_urls=True"):
            encoder.encode(canary.url())
        embedding = encoder.encode(canary.url(), allow_urls=True, allow_private_urls=True)
    np.testing.assert_array_equal(embedding, encoder.encode(IMAGES[0]))


def test_images_only() -> None:
    encoder = open_encoder("untrained")
    assert not encoder.supports_text
    for texts in ("a cat", ["a cat"], []):
        with pytest.raises(InputError, match="encoder 'untrained' supports images only"):
            encoder.encode_text(texts)


class Words(Recorder):
    """Also encodes a text as its length."""

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        return np.array([[len(text)] * 3 for text in texts], np.float32)


def test_texts_in_several_sentences() -> None:
    encoder = color_words()
    rows = [encoder.encode_text(text) for text in ("red", "red blue", "red green")]
    expected = np.mean(rows, axis=0)
    ensemble = encoder.encode_text("red", templates=["{}", "{} blue", "{} green"])
    np.testing.assert_allclose(ensemble, expected / np.linalg.norm(expected), atol=1e-6)
    several = encoder.encode_text(["red", "green"], templates=["{}", "{} blue"])
    alone = [encoder.encode_text(text, templates=["{}", "{} blue"]) for text in ("red", "green")]
    np.testing.assert_allclose(several, alone, atol=1e-6)
    bad: Any
    for bad in ("a {}", ["no place"], ["{} and {}"], [3]):
        with pytest.raises(SettingError, match="templates must be a list of texts with one"):
            encoder.encode_text("red", templates=bad)


def test_texts() -> None:
    assert Words().supports_text
    np.testing.assert_array_equal(Words().encode_text("abc"), [3, 3, 3])
    np.testing.assert_array_equal(Words().encode_text(["abc", "d"]), [[3, 3, 3], [1, 1, 1]])
    assert ImageTextEncoder.encode_text_batch is not Encoder.encode_text_batch
    for texts, message in (
        ([], "texts: has no texts"),
        (None, "texts: expected a text or a list of texts, not NoneType"),
        (b"abc", "texts: .* not bytes"),
        ({"a": 1}, "texts: .* not dict"),
        (["a", 3], r"texts\[1\]: expected a text, not int"),
        (" ", "the text query is empty"),
        (["a", ""], "the text query is empty"),
    ):
        with pytest.raises(InputError, match=message):
            Words().encode_text(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_repr_is_one_short_line(name: str, tmp_path: Path) -> None:
    encoder = open_encoder(name, SAMPLE)
    save_encoder(encoder, tmp_path / "e")
    for each in (encoder, load_encoder(tmp_path / "e")):
        text = repr(each)
        assert text.startswith(f"<Encoder {name!r} dim={encoder.dim} ")
        assert text.endswith(f"fingerprint={encoder.fingerprint[:8]}…>")
        assert ("normalized" in text) == encoder.normalized
        assert "\n" not in text
        assert len(text) < 100
        assert not re.search("0x", text)


def test_repr_of_composites() -> None:
    pixels = open_encoder("pixels", IMAGES)
    whitened = whiten_encoder(pixels, IMAGES, 4)
    assert repr(whitened).startswith("<Encoder 'pixels,whiten=4' dim=4 normalized fingerprint=")
    assert len(repr(combine([pixels, whitened]))) < 110


def test_networks_need_no_images() -> None:
    assert find_encoder_spec("timm:resnet18").sample == 0
    assert find_encoder_spec("onnx:model.onnx").sample == 0
    assert find_encoder_spec("transformers:x").sample == 0
    assert encoder_specs()["efficientnet-lite0"].sample == 0
    assert find_encoder_spec("untrained,mirror").sample == 0
    assert find_encoder_spec("untrained,whiten=4").sample == find_encoder_spec("pca").sample

    def unread() -> Iterator[ImageArray]:
        raise AssertionError("nothing is sampled")
        yield

    encoder = la.open_encoder("untrained")
    assert la.open_encoder("untrained", unread()).fingerprint == encoder.fingerprint
    assert la.open_encoder("untrained", "no folder").fingerprint == encoder.fingerprint


@pytest.mark.parametrize("name", ["hog", "pca", "pixels", "untrained+color", "untrained,whiten=4"])
def test_fitted_encoders_say_what_to_pass(name: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"open_encoder({name!r}, 'photos')")):
        la.open_encoder(name)


def test_encoders_are_fitted_to_a_folder_a_source_or_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(photos / f"{number:02}.png")
    paths = sorted(photos.iterdir())
    expected = open_encoder("hog-fine", IMAGES).fingerprint
    for images in (
        photos,
        str(photos),
        open_source(photos),
        paths,
        list(map(str, paths)),
        [Image.open(path) for path in paths],
        (path.read_bytes() for path in paths),
    ):
        assert open_encoder("hog-fine", images).fingerprint == expected
    alone = open_encoder("color", str(paths[0])).fingerprint
    assert alone == open_encoder("color", IMAGES[0]).fingerprint
    assert open_encoder("pixels", "dataset:digits/test[:5]").dim == 64
    assert open_encoder("pixels", "dataset:digits/test#3").dim == 64


def test_only_as_many_images_are_read_as_the_encoder_needs() -> None:
    read = []

    class Lazy:
        def image(self) -> ImageArray:
            read.append(self)
            return IMAGES[0]

    open_encoder("color", [Lazy() for _ in range(1000)])
    assert len(read) == encoder_specs()["color"].sample == 200


def test_large_images_are_scaled_down_for_fitting() -> None:
    large = [np.repeat(np.repeat(image, 6, 0), 6, 1) for image in IMAGES]
    assert {max(image.shape) for image in sample_of(large, 5)} == {128}


def test_encoder_objects_and_saved_folders_are_names_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder("color", IMAGES)
    assert open_encoder(encoder) is encoder
    save_encoder(encoder, tmp_path / "mine.encoder")
    save_encoder(encoder, tmp_path / "other")
    save_encoder(encoder, tmp_path / "untrained")
    monkeypatch.chdir(tmp_path)
    for name in ("mine.encoder", tmp_path / "mine.encoder", "other", Path("untrained")):
        assert open_encoder(name).fingerprint == encoder.fingerprint
    assert open_encoder("untrained").fingerprint != encoder.fingerprint
    with pytest.raises(ArtifactError, match=r"none\.encoder"):
        open_encoder("none.encoder")
    with pytest.raises(UnknownNameError, match="did you mean 'color'"):
        open_encoder("colour")
    others: tuple[Any, ...] = (None, 3, b"hog", ["hog"], Recorder)
    for other in others:
        with pytest.raises(InputError, match="name: expected the name of an encoder"):
            open_encoder(other)


def test_unreadable_images_are_no_sample(tmp_path: Path) -> None:
    with pytest.raises(la.LookalikeError, match="no such file or folder"):
        open_encoder("hog", "no folder")
    with pytest.raises(InputError, match="images: has no images"):
        open_encoder("hog", [])
    with pytest.raises(InputError, match="images: got int 3; pass"):
        open_encoder("hog", 3)  # type: ignore[arg-type]


def test_an_encoder_that_nobody_could_restore_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no installed package restores .*from_callable"):
        save_encoder(Recorder(), tmp_path / "e")
    assert not (tmp_path / "e").exists()
    mixed = combine([open_encoder("color", IMAGES), Recorder()])
    with pytest.raises(InputError, match="no installed package restores"):
        save_encoder(mixed, tmp_path / "e")


def test_preprocessing_is_exported() -> None:
    assert la.encoders.Preprocessing is Preprocessing
