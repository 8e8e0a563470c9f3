"""Synthetic street photographs and drawings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from lookalike.images.compositing import (
    ComposedPhoto,
    PhotoParams,
    cluttered_background,
    compose_photo,
)
from lookalike.images.foreground import find_foreground
from lookalike.images.stylization import MAX_SIDE, restyle
from lookalike.types import ImageArray

STILL = PhotoParams(
    side=200,
    size=(0.5, 0.5),
    rotation=0,
    perspective=0,
    gain=(1, 1),
    tint=0,
    shading=(0, 0),
    blur=(0, 0),
    noise=(0, 0),
    occlusion=(0, 0),
    quality=(95, 95),
)
"""An item at half the size at a random position, without further effects."""

MAGENTA = (255, 0, 255)
GRAY = np.full((240, 300), 128, np.uint8)
GREEN_ON_WHITE = np.full((90, 120, 3), 255, np.uint8)
GREEN_ON_WHITE[20:70, 30:100] = (20, 140, 60)
GREEN_ON_WHITE[40:50, 50:90] = (200, 190, 20)


def item(height: int, width: int) -> tuple[ImageArray, np.ndarray]:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = MAGENTA
    return image, np.ones((height, width), np.float32)


def compose(seed: int) -> ComposedPhoto:
    return compose_photo(GREEN_ON_WHITE, GRAY, np.random.default_rng(seed))


def extent(inside: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_photos_are_reproducible_by_seed() -> None:
    first, again, other = compose(3), compose(3), compose(4)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.box == again.box
    assert np.abs(first.image.astype(int) - other.image).mean() > 1
    assert first.image.shape == (320, 320, 3)
    assert first.image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(100, 100), (100, 50), (40, 130), (600, 500)])
@pytest.mark.parametrize("seed", range(3))
def test_box_bounds_the_item(shape: tuple[int, int], seed: int) -> None:
    magenta, mask = item(*shape)
    photo = compose_photo(magenta, GRAY, np.random.default_rng(seed), mask=mask, params=STILL)
    values = photo.image.astype(int)
    bounds = extent((values[:, :, 0] > 190) & (values[:, :, 1] < 64) & (values[:, :, 2] > 190))
    left, top, width, height = photo.box
    expected = (left, top, left + width, top + height)
    np.testing.assert_allclose(bounds, expected, atol=2)
    assert max(width, height) == pytest.approx(100, abs=2)
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_box_bounds_a_rotated_item_in_perspective(seed: int) -> None:
    magenta, mask = item(80, 120)
    street = replace(STILL, rotation=30, perspective=0.15, size=(0.4, 0.95))
    photo = compose_photo(magenta, GRAY, np.random.default_rng(seed), mask=mask, params=street)
    values = photo.image.astype(int)
    bounds = extent((values[:, :, 0] > 170) & (values[:, :, 1] < 90))
    left, top, width, height = photo.box
    expected = (left, top, left + width, top + height)
    np.testing.assert_allclose(bounds, expected, atol=3)
    assert 0 <= left < left + width <= 200
    assert 0 <= top < top + height <= 200


def test_background_is_unchanged_without_effects() -> None:
    magenta, mask = item(50, 50)
    photo = compose_photo(magenta, GRAY, np.random.default_rng(0), mask=mask, params=STILL)
    left, top, width, height = photo.box
    outside = np.ones((200, 200), bool)
    outside[max(0, top - 17) : top + height + 17, max(0, left - 17) : left + width + 17] = False
    assert np.abs(photo.image[outside].astype(int) - 128).max() <= 2


def test_occlusion_covers_the_stated_share() -> None:
    magenta, mask = item(100, 100)
    occluded = replace(STILL, occlusion=(0.4, 0.4))
    photo = compose_photo(magenta, GRAY, np.random.default_rng(1), mask=mask, params=occluded)
    left, top, width, height = photo.box
    inside = photo.image[top : top + height, left : left + width].astype(int)
    assert (inside[:, :, 1] > 64).mean() == pytest.approx(0.4, abs=0.04)


def test_gray_and_tiny_items_and_backgrounds() -> None:
    gray = np.full((40, 60), 255, np.uint8)
    gray[10:30, 10:50] = 20
    tiny = np.zeros((1, 1), np.uint8)
    for subject, background in ((gray, GRAY), (gray, tiny), (tiny, GRAY), (tiny, tiny)):
        photo = compose_photo(subject, background, np.random.default_rng(0))
        assert photo.image.shape == (320, 320, 3)
    photograph = load_sample_images().images[0]
    photo = compose_photo(GREEN_ON_WHITE, photograph, np.random.default_rng(0))
    assert photo.image.std() > 20


def test_empty_mask_leaves_the_background() -> None:
    empty = np.zeros(GREEN_ON_WHITE.shape[:2], np.float32)
    rng = np.random.default_rng(0)
    photo = compose_photo(GREEN_ON_WHITE, GRAY, rng, mask=empty, params=STILL)
    assert photo.box == (0, 0, 200, 200)
    assert np.abs(photo.image.astype(int) - 128).max() <= 2


def test_drawings_are_reproducible_and_differ_from_the_image() -> None:
    for seed in range(6):
        drawing = restyle(GREEN_ON_WHITE, np.random.default_rng(seed))
        again = restyle(GREEN_ON_WHITE, np.random.default_rng(seed))
        np.testing.assert_array_equal(drawing, again)
        assert drawing.shape == GREEN_ON_WHITE.shape
        assert drawing.dtype == np.uint8
        assert np.abs(drawing.astype(int) - GREEN_ON_WHITE).mean() > 3
    other = restyle(GREEN_ON_WHITE, np.random.default_rng(7))
    assert (other != drawing).any()


def test_drawings_are_small_and_on_white() -> None:
    large = np.full((300, 600, 3), 255, np.uint8)
    large[100:200, 200:400] = (30, 60, 200)
    for seed in range(8):
        drawing = restyle(large, np.random.default_rng(seed))
        assert drawing.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
        corners = drawing[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners >= 253).all()
        assert (drawing.min(axis=2) > 250).mean() > 0.4, "the background is not white"
        assert (drawing.min(axis=2) < 220).mean() > 0.05, "the item is missing"


def test_drawing_with_a_mask_of_the_full_size_image() -> None:
    image = np.full((400, 200), 90, np.uint8)
    mask = np.zeros((400, 200), np.float32)
    mask[100:300, 50:150] = 1
    drawing = restyle(image, np.random.default_rng(0), mask=mask)
    assert drawing.shape == (MAX_SIDE, MAX_SIDE // 2, 3)
    assert (drawing[0] == 255).all()
    blank = restyle(image, np.random.default_rng(0), mask=np.zeros_like(mask))
    assert (blank == 255).all()


def test_cluttered_backgrounds_are_reproducible() -> None:
    images = [GREEN_ON_WHITE, GRAY[:80, :60]]
    masks = [find_foreground(image).mask for image in images]
    first, again, other = (
        cluttered_background(images, masks, np.random.default_rng(seed), side=96)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    assert (first != other).any()
    assert first.std() > 10
