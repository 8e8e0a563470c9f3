"""Handcrafted encoders against slow reference implementations."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest

from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.handcrafted import Histogram, Pca, Pixels
from lookalike.encoders.hog import FineHog, Hog
from lookalike.encoders.registry import encoder_specs, open_encoder
from lookalike.errors import ImageError, InputError, UnknownNameError
from lookalike.sources import open_source
from lookalike.types import ImageArray

RNG = np.random.default_rng(5)


def smooth(height: int, width: int, channels: int = 0) -> ImageArray:
    shape = (height, width, channels) if channels else (height, width)
    coarse = RNG.random(shape)
    for axis in (0, 1):
        coarse = coarse + np.roll(coarse, 1, axis) + np.roll(coarse, 2, axis)
    return np.asarray(255 * coarse / coarse.max(), dtype=np.uint8)


MIXED = [
    smooth(30, 40),
    smooth(80, 20, 3),
    smooth(64, 64),
    smooth(9, 9, 3),
    smooth(200, 300, 3),
] * 8
SMALL = [smooth(28, 28) for _ in range(40)]
WITHOUT_DOWNLOAD = sorted(spec.name for spec in encoder_specs().values() if spec.download is None)


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
@pytest.mark.parametrize("images", [MIXED, SMALL], ids=["mixed", "small"])
def test_encoding_alone_equals_encoding_in_a_batch(name: str, images: list[ImageArray]) -> None:
    encoder = open_encoder(name, images)
    batch = encoder.encode(images)
    assert batch.shape == (len(images), encoder.dim)
    assert batch.dtype == np.float32
    assert np.isfinite(batch).all()
    alone = np.concatenate([encoder.encode([image]) for image in images])
    np.testing.assert_allclose(alone, batch, atol=1e-5)
    if encoder.normalized:
        np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
def test_stack_and_list_give_equal_embeddings(name: str) -> None:
    encoder = open_encoder(name, SMALL)
    np.testing.assert_array_equal(encoder.encode(np.stack(SMALL)), encoder.encode(SMALL))


@pytest.mark.parametrize("name", WITHOUT_DOWNLOAD)
@pytest.mark.parametrize("value", [0, 255])
def test_constant_images_have_finite_embeddings(name: str, value: int) -> None:
    encoder = open_encoder(name, SMALL)
    assert np.isfinite(encoder.encode([np.full((28, 28), value, np.uint8)])).all()


def test_pixel_values() -> None:
    encoder = open_encoder("pixels", SMALL)
    np.testing.assert_allclose(encoder.encode(SMALL[:1])[0], SMALL[0].ravel() / 255, atol=1e-7)


def test_pca_matches_svd() -> None:
    encoder = open_encoder("pca", SMALL)
    assert isinstance(encoder, Pca)
    pixels = Pixels("p", encoder.preprocessing).encode(SMALL)
    _, _, vt = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    actual, expected = encoder.encode(SMALL), (pixels - pixels.mean(0)) @ vt[:32].T
    np.testing.assert_allclose(np.abs(actual), np.abs(expected), atol=2e-3)
    with pytest.raises(
        InputError, match="needs at least 32 images to fit 32 components; there are 5"
    ):
        open_encoder("pca", SMALL[:5])


def slow_hog(image: ImageArray, orientations: int, cell: int, stride: int) -> np.ndarray:
    values = image.astype(float)
    if values.ndim == 2:
        values = values[..., None]
    height, width, channels = values.shape
    gradients = np.zeros((height, width, 2))
    for y in range(height):
        for x in range(width):
            best = -1.0
            for c in range(channels):
                gx = values[y, x + 1, c] - values[y, x - 1, c] if 0 < x < width - 1 else 0.0
                gy = values[y + 1, x, c] - values[y - 1, x, c] if 0 < y < height - 1 else 0.0
                if gx * gx + gy * gy > best:
                    best = gx * gx + gy * gy
                    gradients[y, x] = gx, gy
    cells = []
    for top in range(0, height - cell + 1, stride):
        for left in range(0, width - cell + 1, stride):
            bins = np.zeros(orientations)
            for y in range(top, top + cell):
                for x in range(left, left + cell):
                    gx, gy = gradients[y, x]
                    position = math.atan2(gy, gx) / math.pi * orientations
                    low = math.floor(position)
                    share = position - low
                    bins[low % orientations] += math.hypot(gx, gy) * (1 - share)
                    bins[(low + 1) % orientations] += math.hypot(gx, gy) * share
            cells.append(bins)
    vector = np.sqrt(np.concatenate(cells))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("orientations", "cell", "stride"), [(9, 8, 4), (6, 8, 8), (12, 6, 2)])
def test_hog_matches_its_definition(
    channels: int, orientations: int, cell: int, stride: int
) -> None:
    image = smooth(24, 32, channels if channels > 1 else 0)
    encoder = Hog("hog", Preprocessing(24, 32, channels), orientations, cell, stride)
    expected = slow_hog(image, orientations, cell, stride)
    np.testing.assert_allclose(encoder.encode([image])[0], expected, atol=2e-5)


def slow_fine_cells(image: ImageArray, stride: int) -> np.ndarray:
    values = image.astype(float).reshape(*image.shape[:2], -1)
    height, width, channels = values.shape
    background = values[[0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=0)

    def at(y: int, x: int) -> np.ndarray:
        return values[y, x] if 0 <= y < height and 0 <= x < width else background

    cells = []
    for top in range(-stride // 2, height - stride, stride):
        for left in range(-stride // 2, width - stride, stride):
            bins = np.zeros(16)
            for y in range(max(top, 0), min(top + 2 * stride, height)):
                for x in range(max(left, 0), min(left + 2 * stride, width)):
                    gx, gy = at(y, x + 1) - at(y, x - 1), at(y + 1, x) - at(y - 1, x)
                    best = max(range(channels), key=lambda c: math.hypot(gx[c], gy[c]))
                    position = math.atan2(gy[best], gx[best]) / (2 * math.pi) * 16
                    low = math.floor(position)
                    size = math.hypot(gx[best], gy[best])
                    bins[low % 16] += size * (1 - position + low)
                    bins[(low + 1) % 16] += size * (position - low)
            cells.append(bins)
    vector = np.sqrt(np.concatenate(cells))
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("height", "width", "channels", "stride"), [(28, 32, 0, 2), (56, 48, 3, 4)]
)
def test_fine_hog_matches_its_definition(
    height: int, width: int, channels: int, stride: int
) -> None:
    image = smooth(height, width, channels)
    encoder = FineHog.fit("fine", Preprocessing(height, width, channels or 1), [image])
    assert encoder.stride == stride
    expected = slow_fine_cells(image, stride)
    assert encoder.dim == len(expected)
    np.testing.assert_allclose(encoder.encode([image])[0], expected, atol=3e-5)


@pytest.mark.slow
def test_fine_hog_is_half_whitened() -> None:
    images = [item.image() for item in open_source("dataset:digits/train[:400]")]
    encoder = FineHog.fit("fine", Preprocessing(28, 28, 1), images, dim=16)
    assert encoder.dim == 16
    cells = FineHog.fit("plain", Preprocessing(28, 28, 1), images[:10]).encode(images)
    values, vectors = np.linalg.eigh(np.cov(cells.T.astype(float)))
    values, vectors = values[::-1][:16], vectors[:, ::-1][:, :16]
    slow = (cells - cells.mean(axis=0)) @ (vectors / (values + 1e-4 * values[0]) ** 0.25)
    slow /= np.linalg.norm(slow, axis=1, keepdims=True)
    embeddings = encoder.encode(images)
    np.testing.assert_allclose(embeddings @ embeddings.T, slow @ slow.T, atol=5e-3)


def test_plain_background_has_no_edge() -> None:
    dark = np.zeros((28, 28), np.uint8)
    dark[8:20, 10:14] = 200
    light = dark + np.uint8(55)
    encoder = open_encoder("hog-fine", [dark])
    of_dark, of_light = (encoder.encode([image]) for image in (dark, light))
    np.testing.assert_allclose(of_dark, of_light, atol=1e-6)


def test_randomized_pca_finds_the_leading_components() -> None:
    images = [smooth(64, 64, 3) for _ in range(40)]
    embeddings = Pca.fit("pca", Preprocessing(64, 64, 3), images, 8).encode(images)
    values = np.stack(images).reshape(40, -1) / 255
    sizes = np.linalg.svd(values - values.mean(axis=0), compute_uv=False)
    max_energy = (sizes[:8] ** 2).sum()
    # Of noise, whose components hardly differ, a randomized search may miss a little.
    assert 0.95 * max_energy < (embeddings**2).sum() <= 1.0001 * max_energy
    np.testing.assert_allclose(embeddings.mean(axis=0), 0, atol=1e-3)


def test_hog_cells_must_fit_the_image() -> None:
    for arguments in ((9, 8, 3), (9, 40, 8)):
        with pytest.raises(InputError, match="do not fit images of 28x28"):
            Hog("hog", Preprocessing(28, 28, 1), *arguments)


def slow_hsv(image: ImageArray) -> np.ndarray:
    counts = np.zeros((8, 4, 4))
    for red, green, blue in image.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        counts[min(int(h * 8), 7), min(int(s * 4), 3), min(int(v * 4), 3)] += 1
    return np.sqrt(counts.ravel() / counts.sum())


def test_color_histogram_matches_colorsys() -> None:
    image = RNG.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    embeddings = open_encoder("color", [image]).encode([image])[0]
    # Colors that lie on a bin's border may fall to either side of it in float32.
    assert np.abs(embeddings**2 - slow_hsv(image) ** 2).sum() < 0.002


def slow_lbp(image: ImageArray) -> np.ndarray:
    height, width = image.shape
    at = lambda y, x: int(image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])  # noqa: E731
    circle = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    counts: dict[tuple[int, ...], int] = {}
    for y in range(height):
        for x in range(width):
            bits = tuple(int(at(y + dy, x + dx) >= at(y, x)) for dy, dx in circle)
            uniform = sum(bits[i] != bits[i - 1] for i in range(8)) <= 2
            key = bits if uniform else ()
            counts[key] = counts.get(key, 0) + 1
    return np.sqrt(np.sort([n / (height * width) for n in counts.values()]))


def test_texture_matches_its_definition() -> None:
    image = RNG.integers(0, 40, (20, 24), dtype=np.uint8)
    embeddings = Histogram("t", Preprocessing(20, 24, 1), "lbp").encode([image])[0]
    assert len(embeddings) == 59
    np.testing.assert_allclose(np.sort(embeddings[embeddings > 0]), slow_lbp(image), atol=1e-6)


def test_spatial_pyramid_depends_on_position() -> None:
    left = np.zeros((64, 64, 3), np.uint8)
    left[:, :32] = (255, 0, 0)
    right = left[:, ::-1].copy()
    flat, pyramid = (open_encoder(n, [left]) for n in ("color", "color-pyramid"))
    np.testing.assert_allclose(flat.encode([left]), flat.encode([right]))
    assert np.linalg.norm(pyramid.encode([left]) - pyramid.encode([right])) > 0.5
    assert pyramid.dim == 21 * flat.dim
    quarters = Histogram("q", Preprocessing(64, 64, 3), "hsv", (2,)).encode([left])[0]
    parts = [left[:32, :32], left[:32, 32:], left[32:, :32], left[32:, 32:]]
    each = Histogram("h", Preprocessing(32, 32, 3), "hsv").encode(parts)
    np.testing.assert_allclose(quarters, each.ravel() / 2, atol=1e-6)


def test_untrained_accepts_any_size() -> None:
    encoder: Encoder = open_encoder("untrained", SMALL)
    assert encoder.dim == 196


def test_exact_preprocessing_refuses_other_sizes() -> None:
    with pytest.raises(ImageError, match="40x30 pixels, but the encoder accepts only 28x28"):
        Preprocessing(28, 28, 1, exact=True).apply([smooth(30, 40)])


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'pixels'"):
        open_encoder("pixel", SMALL)
    with pytest.raises(InputError, match="images: has no images"):
        open_encoder("pixels", [])
