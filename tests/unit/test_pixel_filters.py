"""Filters of pixels and masks: the same values as scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from lookalike.images.pixel_filters import (
    dilate,
    erode,
    gaussian_blur,
    label_components,
    sample_bilinear,
    sobel,
)

SHAPES = [(1, 1), (1, 7), (9, 2), (31, 40), (160, 97)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("deviation", [0.7, 2, 5.3])
def test_a_blur_is_that_of_scipy(shape: tuple[int, int], deviation: float) -> None:
    values = np.random.default_rng(0).normal(100, 50, (*shape, 3)).astype(np.float32)
    deviations = (deviation, deviation / 2, 0)
    blurred = gaussian_blur(values, deviations)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, ndimage.gaussian_filter(values, deviations), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (9, 2), (31, 40), (8, 9, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_edges_are_those_of_scipy(shape: tuple[int, ...], axis: int) -> None:
    values = np.random.default_rng(1).normal(100, 50, shape).astype(np.float32)
    np.testing.assert_allclose(sobel(values, axis), ndimage.sobel(values, axis), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.6, 0.95, 1])
def test_masks_grow_shrink_and_fall_into_components_as_with_scipy(
    shape: tuple[int, int], share: float
) -> None:
    mask = np.random.default_rng(2).random(shape) < share
    for pixels in (1, 3):
        np.testing.assert_array_equal(
            dilate(mask, pixels), ndimage.binary_dilation(mask, iterations=pixels)
        )
    np.testing.assert_array_equal(erode(mask), ndimage.binary_erosion(mask))
    labels, count = label_components(mask)
    expected, expected_count = ndimage.label(mask)
    np.testing.assert_array_equal(labels, expected)
    assert count == expected_count


def test_a_spiral_is_one_component() -> None:
    mask = np.zeros((41, 41), np.bool_)
    for inset in range(0, 20, 2):
        mask[inset, inset : 41 - inset] = mask[inset : 41 - inset, 40 - inset] = True
        mask[40 - inset, inset : 41 - inset] = mask[inset + 2 : 41 - inset, inset] = True
        mask[inset + 2, inset : inset + 2] = True
    labels, count = label_components(mask)
    np.testing.assert_array_equal(labels, ndimage.label(mask)[0])
    assert count == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_between_pixels_are_those_of_scipy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    x = rng.uniform(-2, shape[1] + 1, (20, 30)).astype(np.float32)
    y = rng.uniform(-2, shape[0] + 1, (20, 30)).astype(np.float32)
    x[0], y[0] = np.arange(30) % shape[1], np.arange(30) % shape[0]
    planes = [
        ndimage.map_coordinates(image[:, :, c], [y, x], order=1, mode="constant", cval=255)
        for c in range(3)
    ]
    np.testing.assert_array_equal(sample_bilinear(image, x, y, 255), np.dstack(planes))
