"""What of an image is its item, and parts of images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from lookalike.errors import InputError
from lookalike.images.foreground import FOREGROUND_MARGIN, Box, Foreground, find_foreground
from lookalike.types import ImageArray

GROUNDS = [(255, 255, 255), (30, 60, 90), (0, 0, 0)]


def overlap(found: Foreground, drawn: np.ndarray) -> float:
    """Intersection over union."""
    mask = found.mask > 0.5
    return float((mask & drawn).sum() / (mask | drawn).sum())


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def drawn_on(ground: tuple[int, int, int], shape: np.ndarray) -> ImageArray:
    image = np.empty((*shape.shape, 3), np.uint8)
    image[:] = ground
    image[shape] = (200, 30, 120)
    return image


@pytest.mark.parametrize("ground", GROUNDS)
def test_on_plain_ground_the_item_is_found_exactly(ground: tuple[int, int, int]) -> None:
    shape = disc(120, 150, 50, 90, 30)
    found = find_foreground(drawn_on(ground, shape))
    assert found.detected
    assert (found.mask.shape, found.mask.dtype) == ((120, 150), np.float32)
    assert overlap(found, shape) == 1


def test_a_large_image_is_looked_at_small_and_its_mask_is_large() -> None:
    shape = disc(600, 800, 300, 350, 200)
    found = find_foreground(drawn_on((255, 255, 255), shape))
    assert found.mask.shape == (600, 800)
    assert overlap(found, shape) > 0.97
    assert (found.mask.min(), found.mask.max()) == (0, 1)


def test_noise_on_the_ground_is_ground() -> None:
    rng = np.random.default_rng(0)
    shape = disc(120, 120, 60, 60, 35)
    noise = rng.integers(-6, 7, (120, 120, 3))
    image = np.clip(drawn_on((230, 230, 230), shape) + noise, 0, 255).astype(np.uint8)
    assert overlap(find_foreground(image), shape) == 1


def test_an_item_that_leaves_the_image_between_plain_corners() -> None:
    """Half of the border is the item's: the corners say what is ground."""
    shape = np.zeros((100, 100), bool)
    shape[:, 20:80] = True
    found = find_foreground(drawn_on((255, 255, 255), shape))
    assert found.detected
    assert overlap(found, shape) == 1


def test_what_is_inside_a_ring_cannot_be_reached_and_counts_as_item() -> None:
    outer, inner = disc(100, 100, 50, 50, 40), disc(100, 100, 50, 50, 20)
    assert overlap(find_foreground(drawn_on((255, 255, 255), outer & ~inner)), outer) == 1
    # A gap in the ring lets the ground in.
    ring = outer & ~inner
    ring[48:53, 50:] = False
    assert overlap(find_foreground(drawn_on((255, 255, 255), ring)), ring) == 1


def test_of_a_photograph_a_part_is_guessed() -> None:
    """No color is common to the border; the petals are what is least like it."""
    flower = load_sample_images().images[1]
    found = find_foreground(flower)
    assert found.detected
    assert found.mask.shape == flower.shape[:2]
    assert 0.05 < found.mask.mean() < 0.6
    inside = flower[found.mask > 0.5].mean(axis=0)
    outside = flower[found.mask <= 0.5].mean(axis=0)
    assert inside[0] - outside[0] > 50  # they are red and yellow, on dark green


def test_an_item_on_ground_of_two_colors_is_found_by_falling_back() -> None:
    shape = disc(120, 120, 60, 60, 30)
    image = np.full((120, 120, 3), (20, 90, 20), np.uint8)
    image[60:] = (120, 190, 220)
    image[shape] = (220, 20, 20)
    found = find_foreground(image)
    assert found.detected
    assert overlap(found, shape) > 0.85


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
def test_where_nothing_is_found_the_mask_is_one_everywhere(image: ImageArray) -> None:
    found = find_foreground(image)
    assert not found.detected
    np.testing.assert_array_equal(found.mask, np.ones(image.shape[:2], np.float32))
    height, width = image.shape[:2]
    assert found.box() == found.box(FOREGROUND_MARGIN) == (0, 0, width, height)


def test_a_speck_is_not_believed() -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    image[50, 50] = 0
    assert not find_foreground(image).detected


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (3, 3, 3), (1, 200, 3)])
def test_tiny_images_of_anything(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        found = find_foreground(rng.integers(0, 256, shape, dtype=np.uint8))
        assert found.mask.shape == shape[:2]
        assert np.isfinite(found.mask).all()
        assert found.box(FOREGROUND_MARGIN).width >= 1


def test_the_one_dark_pixel_of_nine_is_the_item() -> None:
    image = np.full((3, 3), 255, np.uint8)
    image[1, 1] = 0
    found = find_foreground(image)
    assert found.detected
    assert found.box() == (1, 1, 1, 1)


def test_a_gray_image_is_taken_like_its_colors() -> None:
    shape = disc(80, 80, 40, 30, 20)
    gray = np.where(shape, 40, 250).astype(np.uint8)
    found = find_foreground(gray)
    assert overlap(found, shape) == 1
    np.testing.assert_array_equal(found.mask, find_foreground(np.dstack([gray] * 3)).mask)


def test_the_box_and_its_margin_stay_inside_the_image() -> None:
    mask = np.zeros((100, 200), np.float32)
    mask[30:50, 100:141] = 1
    found = Foreground(mask, detected=True)
    assert found.box() == (100, 30, 41, 20)
    assert found.box(0.1) == (96, 26, 49, 28)
    assert found.box(5) == (0, 0, 200, 100)
    assert Foreground(np.zeros((4, 6), np.float32), detected=True).box() == (0, 0, 6, 4)


def test_a_box_cuts_what_it_says() -> None:
    image = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10)
    cut = Box.parse("2, 3,4,5").crop(image)
    np.testing.assert_array_equal(cut, image[3:8, 2:6])
    assert cut.flags.c_contiguous
    assert Box(0, 0, 10, 12).crop(image).shape == (12, 10)
    assert Box(9, 11, 1, 1).crop(np.dstack([image] * 3)).shape == (1, 1, 3)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1.5,2,3,4", "1 2 3 4"])
def test_a_box_that_is_not_four_whole_numbers(text: str) -> None:
    with pytest.raises(InputError, match=rf"--box {text}: must be x,y,w,h in whole pixels"):
        Box.parse(text)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 4), (0, 0, 4, -1), (-1, 0, 4, 4), (0, -1, 4, 4), (7, 0, 4, 4), (0, 17, 4, 4)]
)
def test_a_box_outside_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    said = ",".join(map(str, box))
    expected = rf"--box {said}: must have .* inside the image, which is 10x20 pixels"
    with pytest.raises(InputError, match=expected):
        Box.parse(said).crop(np.zeros((20, 10, 3), np.uint8))
