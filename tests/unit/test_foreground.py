"""Foreground segmentation and boxes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from lookalike.errors import InputError
from lookalike.images.foreground import FOREGROUND_MARGIN, Box, Foreground, find_foreground
from lookalike.types import ImageArray

BACKGROUNDS = [(255, 255, 255), (30, 60, 90), (0, 0, 0)]


def overlap(foreground: Foreground, expected: np.ndarray) -> float:
    """Intersection over union."""
    mask = foreground.mask > 0.5
    return float((mask & expected).sum() / (mask | expected).sum())


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def draw(background: tuple[int, int, int], shape: np.ndarray) -> ImageArray:
    image = np.empty((*shape.shape, 3), np.uint8)
    image[:] = background
    image[shape] = (200, 30, 120)
    return image


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_object_on_plain_background_is_segmented_exactly(background: tuple[int, int, int]) -> None:
    shape = disc(120, 150, 50, 90, 30)
    foreground = find_foreground(draw(background, shape))
    assert foreground.detected
    assert foreground.mask.shape == (120, 150)
    assert foreground.mask.dtype == np.float32
    assert overlap(foreground, shape) == 1


def test_mask_has_the_size_of_a_large_image() -> None:
    shape = disc(600, 800, 300, 350, 200)
    foreground = find_foreground(draw((255, 255, 255), shape))
    assert foreground.mask.shape == (600, 800)
    assert overlap(foreground, shape) > 0.97
    assert (foreground.mask.min(), foreground.mask.max()) == (0, 1)


def test_background_may_be_noisy() -> None:
    rng = np.random.default_rng(0)
    shape = disc(120, 120, 60, 60, 35)
    noise = rng.integers(-6, 7, (120, 120, 3))
    image = np.clip(draw((230, 230, 230), shape) + noise, 0, 255).astype(np.uint8)
    assert overlap(find_foreground(image), shape) == 1


def test_object_may_touch_half_of_the_border() -> None:
    """The corners still have the background color."""
    shape = np.zeros((100, 100), bool)
    shape[:, 20:80] = True
    foreground = find_foreground(draw((255, 255, 255), shape))
    assert foreground.detected
    assert overlap(foreground, shape) == 1


def test_enclosed_background_counts_as_object() -> None:
    outer, inner = disc(100, 100, 50, 50, 40), disc(100, 100, 50, 50, 20)
    assert overlap(find_foreground(draw((255, 255, 255), outer & ~inner)), outer) == 1
    # A gap in the ring connects its inside to the background.
    ring = outer & ~inner
    ring[48:53, 50:] = False
    assert overlap(find_foreground(draw((255, 255, 255), ring)), ring) == 1


def test_photograph_is_segmented_by_color() -> None:
    """The border has no single color; the petals differ most from it."""
    flower = load_sample_images().images[1]
    foreground = find_foreground(flower)
    assert foreground.detected
    assert foreground.mask.shape == flower.shape[:2]
    assert 0.05 < foreground.mask.mean() < 0.6
    inside = flower[foreground.mask > 0.5].mean(axis=0)
    outside = flower[foreground.mask <= 0.5].mean(axis=0)
    assert inside[0] - outside[0] > 50  # they are red and yellow, on dark green


def test_object_on_two_colored_background() -> None:
    shape = disc(120, 120, 60, 60, 30)
    image = np.full((120, 120, 3), (20, 90, 20), np.uint8)
    image[60:] = (120, 190, 220)
    image[shape] = (220, 20, 20)
    foreground = find_foreground(image)
    assert foreground.detected
    assert overlap(foreground, shape) > 0.85


@pytest.mark.parametrize(
    "image",
    [
        np.full((50, 70, 3), 255, np.uint8),
        np.full((50, 70), 7, np.uint8),
        np.full((1, 1), 9, np.uint8),
        np.full((1, 1, 3), 9, np.uint8),
        np.full((3, 3), 9, np.uint8),
        np.arange(27, dtype=np.uint8).reshape(3, 3, 3),
    ],
    ids=lambda image: str(image.shape),
)
def test_mask_is_one_everywhere_without_an_object(image: ImageArray) -> None:
    foreground = find_foreground(image)
    assert not foreground.detected
    np.testing.assert_array_equal(foreground.mask, np.ones(image.shape[:2], np.float32))
    height, width = image.shape[:2]
    assert foreground.box() == foreground.box(FOREGROUND_MARGIN) == (0, 0, width, height)


def test_a_single_pixel_is_no_object() -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    image[50, 50] = 0
    assert not find_foreground(image).detected


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (3, 3, 3), (1, 200, 3)])
def test_tiny_images(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        foreground = find_foreground(rng.integers(0, 256, shape, dtype=np.uint8))
        assert foreground.mask.shape == shape[:2]
        assert np.isfinite(foreground.mask).all()
        assert foreground.box(FOREGROUND_MARGIN).width >= 1


def test_one_pixel_of_nine_is_an_object() -> None:
    image = np.full((3, 3), 255, np.uint8)
    image[1, 1] = 0
    foreground = find_foreground(image)
    assert foreground.detected
    assert foreground.box() == (1, 1, 1, 1)


def test_gray_image_is_segmented_like_its_rgb_version() -> None:
    shape = disc(80, 80, 40, 30, 20)
    gray = np.where(shape, 40, 250).astype(np.uint8)
    foreground = find_foreground(gray)
    assert overlap(foreground, shape) == 1
    np.testing.assert_array_equal(foreground.mask, find_foreground(np.dstack([gray] * 3)).mask)


def test_bounding_box_and_margin_stay_inside_the_image() -> None:
    mask = np.zeros((100, 200), np.float32)
    mask[30:50, 100:141] = 1
    foreground = Foreground(mask, detected=True)
    assert foreground.box() == (100, 30, 41, 20)
    assert foreground.box(0.1) == (96, 26, 49, 28)
    assert foreground.box(5) == (0, 0, 200, 100)
    assert Foreground(np.zeros((4, 6), np.float32), detected=True).box() == (0, 0, 6, 4)


def test_box_crops_an_image() -> None:
    image = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10)
    crop = Box.parse("2, 3,4,5").crop(image)
    np.testing.assert_array_equal(crop, image[3:8, 2:6])
    assert crop.flags.c_contiguous
    assert Box(0, 0, 10, 12).crop(image).shape == (12, 10)
    assert Box(9, 11, 1, 1).crop(np.dstack([image] * 3)).shape == (1, 1, 3)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1.5,2,3,4", "1 2 3 4"])
def test_box_needs_four_whole_numbers(text: str) -> None:
    with pytest.raises(
        InputError, match=rf"""box={text or "''"} must be x,y,w,h in whole pixels"""
    ):
        Box.parse(text)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 4), (0, 0, 4, -1), (-1, 0, 4, 4), (0, -1, 4, 4), (7, 0, 4, 4), (0, 17, 4, 4)]
)
def test_box_outside_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    text = ",".join(map(str, box))
    expected = rf"box={text} must have .* inside the image, which is 10x20 pixels"
    with pytest.raises(InputError, match=expected):
        Box.parse(text).crop(np.zeros((20, 10, 3), np.uint8))
