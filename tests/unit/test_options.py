"""What may follow an encoder's name, and the encoders that it makes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.composite import MultiViewEncoder, ProjectedEncoder
from lookalike.encoders.options import SHRINKAGE, EncoderOptions, whiten_encoder
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import find_encoder_spec, open_encoder
from lookalike.encoders.whitening import LinearProjection
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.images.decode import pad_image, resize_image
from lookalike.sources import open_source
from lookalike.types import ImageArray
from lookalike.vectors import unit_rows

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(12)]


def test_options_are_parsed() -> None:
    parts = ["size=224:320", " fit=white", "mirror", "foreground", "whiten=256"]
    assert EncoderOptions.parse("x", parts) == EncoderOptions(
        sizes=(224, 320), fit="white", mirror=True, foreground=True, whiten=256
    )
    assert EncoderOptions.parse("x", ["size=96"]) == EncoderOptions(sizes=(96,))
    assert EncoderOptions.parse("x", []) == EncoderOptions()


@pytest.mark.parametrize(
    ("part", "error", "expected"),
    [
        ("mirrored", UnknownNameError, "option of encoder 'x': 'mirrored': did you mean 'mirror'"),
        ("", UnknownNameError, "option of encoder 'x': ''"),
        ("fit=withe", UnknownNameError, "fit of encoder 'x': 'withe': did you mean 'white'"),
        ("fit=", UnknownNameError, "fit of encoder 'x': ''"),
        ("fit", SettingError, "'fit' must be fit=VALUE"),
        ("size", SettingError, "'size' must be size=VALUE"),
        ("size=abc", SettingError, "size=abc must be pixels, as in size=224 or size=224:320"),
        ("size=224:", SettingError, "size=224: must be pixels"),
        ("size=0", SettingError, "size=0 must be pixels"),
        ("mirror=1", SettingError, "'mirror=1' must be mirror$"),
        ("foreground=", SettingError, "'foreground=' must be foreground$"),
        ("whiten=0", SettingError, "whiten=0 must be a number of dimensions"),
        ("whiten=-3", SettingError, "whiten=-3 must be a number of dimensions"),
        ("whiten=2:3", SettingError, "whiten=2:3 must be a number of dimensions"),
    ],
)
def test_invalid_options_are_refused(part: str, error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        EncoderOptions.parse("x", [part])


@pytest.mark.parametrize("option", ["size=64", "fit=white", "size=64:96,mirror"])
def test_size_and_fit_need_a_network(option: str) -> None:
    with pytest.raises(SettingError, match=r"'hog,.*size and fit are for pretrained networks"):
        find_encoder_spec(f"hog,{option}")
    assert find_encoder_spec("hog,mirror").name == "hog,mirror"


def test_spec_of_an_encoder_with_options() -> None:
    assert not find_encoder_spec("pixels,mirror").baseline
    plain, whitened = find_encoder_spec("pixels,mirror"), find_encoder_spec("pixels,whiten=7")
    assert (plain.sample, plain.side) == (200, 128)
    assert whitened.sample >= 5000
    assert (whitened.side, whitened.dim) == (256, 7)
    concatenated = find_encoder_spec("pixels,whiten=7+hog")
    assert (concatenated.name, concatenated.sample) == ("pixels,whiten=7+hog", whitened.sample)
    with pytest.raises(UnknownNameError, match="did you mean 'hog'"):
        find_encoder_spec("hogg,mirror")


WIDE = RNG.integers(0, 256, (4, 8, 3), dtype=np.uint8)


def centered_on(color: int | np.ndarray) -> ImageArray:
    square = np.empty((8, 8, 3), np.uint8)
    square[:] = color
    square[2:6] = WIDE
    return square


def apply_fit(fit: str, side: int, crop: float | None = None) -> ImageArray:
    [row] = Preprocessing(side, side, 3, crop=crop).with_fit(fit).apply([WIDE])
    return row


def test_fit_modes() -> None:
    np.testing.assert_array_equal(apply_fit("white", 8), centered_on(255))
    border = np.concatenate([WIDE[0], WIDE[-1], WIDE[:, 0], WIDE[:, -1]])
    median = np.median(border, axis=0).astype(np.uint8)
    np.testing.assert_array_equal(apply_fit("border", 8), centered_on(median))
    np.testing.assert_array_equal(apply_fit("crop", 4), WIDE[:, 2:6])
    np.testing.assert_array_equal(apply_fit("crop", 2, crop=0.5), WIDE[1:3, 3:5])
    np.testing.assert_array_equal(apply_fit("stretch", 4, crop=0.5), resize_image(WIDE, 4, 4))


def test_a_fit_mode_replaces_crop_and_pad() -> None:
    cropped = Preprocessing(8, 8, 3, crop=0.875)
    assert cropped.with_fit("crop") == cropped
    white = cropped.with_fit("white")
    assert (white.crop, white.pad) == (None, "white")
    assert white.with_fit("border").pad == "border"
    assert white.with_fit("crop").crop == 1
    assert white.with_fit("stretch") == Preprocessing(8, 8, 3)
    assert Preprocessing(**white.as_dict()) == white
    assert "pad" not in cropped.as_dict()
    with pytest.raises(UnknownNameError, match=r"unknown fit 'whit'.*did you mean 'white'"):
        cropped.with_fit("whit")
    for invalid in ({"pad": "black"}, {"pad": "white", "crop": 0.5}):
        with pytest.raises(ValueError, match="pad"):
            Preprocessing(8, 8, 3, **invalid)


def test_padding_centers_the_image() -> None:
    tall = np.zeros((9, 2), np.uint8)
    square = pad_image(tall, 1, "white")
    assert square.shape == (9, 9)
    assert (square[:, 3:5] == 0).all()
    assert (np.delete(square, (3, 4), axis=1) == 255).all()
    assert pad_image(tall, 2, "border").shape == (9, round(9 / 2))
    assert pad_image(WIDE, 0.5, "white") is WIDE
    assert pad_image(WIDE, 2, "white").shape == (16, 8, 3)


def test_a_stack_is_preprocessed_like_single_images() -> None:
    stack = RNG.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    for crop in (None, 0.5, 1):
        preprocessing = Preprocessing(16, 16, 1, crop=crop)
        alone = np.concatenate([preprocessing.apply([image]) for image in stack])
        np.testing.assert_array_equal(preprocessing.apply(stack), alone)


@pytest.mark.parametrize("name", ["hog", "pixels", "color-pyramid"])
def test_mirror_averages_with_the_mirror_image(name: str) -> None:
    encoder = open_encoder(f"{name},mirror", IMAGES)
    assert isinstance(encoder, MultiViewEncoder)
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in IMAGES]
    embeddings = encoder.encode(IMAGES)
    np.testing.assert_allclose(embeddings, encoder.encode(mirrored), atol=1e-6)
    plain = open_encoder(name, IMAGES)
    slow = unit_rows(unit_rows(plain.encode(IMAGES)) + unit_rows(plain.encode(mirrored)))
    np.testing.assert_allclose(embeddings, slow, atol=1e-6)
    assert (encoder.dim, encoder.normalized) == (plain.dim, True)


def with_item_at(top: int, left: int) -> ImageArray:
    item = np.random.default_rng(5).integers(0, 90, (40, 50, 3), dtype=np.uint8)
    image = np.full((140, 140, 3), 255, np.uint8)
    image[top : top + 40, left : left + 50] = item
    return image


def test_foreground_makes_embeddings_invariant_to_position() -> None:
    images = [with_item_at(20, 20), with_item_at(80, 60)]
    plain = open_encoder("pixels", images)
    cropping = open_encoder("pixels,foreground", images)
    first, second = unit_rows(np.asarray(plain.encode(images), np.float32))
    apart = 1 - float(first @ second)
    assert apart > 0.05
    first, second = cropping.encode(images)
    assert first @ second == pytest.approx(1, abs=1e-5)
    # Without a detected object the whole image is encoded.
    blank = np.full((140, 140, 3), 200, np.uint8)
    np.testing.assert_allclose(
        cropping.encode([blank]), unit_rows(plain.encode([blank])), atol=1e-6
    )


def test_averaging_different_dimensions_is_refused() -> None:
    hog, color = open_encoder("hog", IMAGES), open_encoder("color", IMAGES)
    with pytest.raises(
        InputError, match=rf"'x'.*embeddings of \[{hog.dim}, {color.dim}\] dimensions"
    ):
        MultiViewEncoder("x", (hog, color))


def correlated(rows: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.asarray(rng.normal(2, np.geomspace(3, 0.1, 12), (rows, 12)), np.float32)


def test_whitened_components_have_unit_covariance() -> None:
    rows = correlated(400)
    fitted = LinearProjection.fit_shrunk(rows, 5, 0)
    whitened = (rows - fitted.mean) @ fitted.projection
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(5), atol=1e-3)


def test_shrunk_whitening_matches_its_definition() -> None:
    rows = correlated(400)
    fitted = LinearProjection.fit_shrunk(rows, 5, 0.2)
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(float)))
    values, vectors = values[::-1][:5], vectors[:, ::-1][:, :5]
    shrunk = 0.8 * values + 0.2 * values.mean()
    expected = (rows - rows.mean(axis=0)) @ vectors / np.sqrt(shrunk)
    whitened = (rows - fitted.mean) @ fitted.projection
    np.testing.assert_allclose(np.abs(whitened), np.abs(expected), atol=2e-3)
    assert np.all([a >= b for a, b in pairwise(whitened.var(axis=0))])


def test_shrinkage_bounds_directions_without_variance() -> None:
    rows = correlated(30)
    rows[:, 3:] = 1
    fitted = LinearProjection.fit_shrunk(rows, 10, SHRINKAGE)
    assert np.abs((rows - fitted.mean) @ fitted.projection).max() < 10


def test_encoder_whitened_on_a_collection() -> None:
    source = open_source("dataset:digits/train[:300]")
    encoder = open_encoder("pixels,whiten=16", source)
    assert isinstance(encoder, ProjectedEncoder)
    assert (encoder.name, encoder.dim, encoder.normalized) == ("pixels,whiten=16", 16, True)
    assert encoder.origin == {"learned": "whitening", "images": 300, "shrinkage": SHRINKAGE}
    images = [item.image() for item in source]
    rows = unit_rows(encoder.encoder.encode(images))
    values = (rows - encoder.projection.mean) @ encoder.projection.projection
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-3)
    variances = values.var(axis=0)
    assert 0.6 < variances.min() < variances.max() < 1.1
    expected = unit_rows(values.astype(np.float32))
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(images[:1]), encoder.encode(images)[:1], atol=1e-6)


def test_whitening_needs_enough_dimensions_and_images() -> None:
    encoder = open_encoder("pixels", IMAGES)
    with pytest.raises(InputError, match=f"whiten=99999: .* has only {encoder.dim} dimensions"):
        whiten_encoder(encoder, IMAGES, 99_999)
    with pytest.raises(InputError, match=r"whiten=12: .* there are 12; use at most whiten=6"):
        open_encoder("pixels,whiten=12", IMAGES)
    assert whiten_encoder(encoder, IMAGES, 11).dim == 11
    with pytest.raises(InputError, match=r"whiten=1: .* there are 0; use at most whiten=1"):
        whiten_encoder(encoder, [], 1)
    with pytest.raises(InputError, match="whiten=4: all 12 images have the same embedding"):
        open_encoder("pixels,whiten=4", IMAGES[:1] * 12)


@pytest.mark.parametrize(
    "name",
    [
        "hog,mirror",
        "pixels,whiten=4",
        "pixels,mirror,foreground,whiten=5",
        "pixels,mirror,whiten=3+hog,foreground",
        "pca+color,whiten=2+hog-fine,mirror,whiten=4",
    ],
)
def test_composite_encoders_survive_saving(name: str, tmp_path: Path) -> None:
    images = [RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(70)]
    encoder = open_encoder(name, images)
    save_encoder(encoder, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert (loaded.name, loaded.dim, loaded.fingerprint) == (name, encoder.dim, encoder.fingerprint)
    np.testing.assert_array_equal(loaded.encode(images[:9]), encoder.encode(images[:9]))
    assert loaded.describe() == encoder.describe()


def test_fingerprint_depends_on_views_and_projection() -> None:
    def encoder(options: str, images: list[ImageArray] = IMAGES) -> Encoder:
        return open_encoder(f"pixels{options}", images)

    options = ("", ",mirror", ",foreground", ",mirror,foreground", ",whiten=3", ",whiten=4")
    prints = [encoder(each).fingerprint for each in (*options, ",mirror,whiten=3")]
    others = [np.ascontiguousarray(image[::-1]) for image in IMAGES]
    prints.append(encoder(",whiten=3", others).fingerprint)
    assert len(set(prints)) == len(prints)
    assert encoder(",whiten=3").fingerprint in prints
    assert re.fullmatch(r"[0-9a-f]{64}", prints[-1])
    part = encoder("")
    one, other = (MultiViewEncoder(name, (part,), True) for name in ("a", "b"))
    assert one.fingerprint == other.fingerprint
