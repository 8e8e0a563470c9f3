"""The style of drawings, measured on the images of a gallery."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.server.sketch import sketch_style
from lookalike.types import ImageArray


def line(background: int, ink: int, width: int, length: int) -> ImageArray:
    image = np.full((28, 28), background, np.uint8)
    image[4 : 4 + length, 10 : 10 + width] = ink
    return image


@pytest.mark.parametrize(("background", "ink"), [(0, 255), (255, 0), (250, 30)])
def test_style_is_measured_on_the_images(background: int, ink: int) -> None:
    style = sketch_style([line(background, ink, width, 20) for width in (2, 3, 4)])
    assert style is not None
    assert (style.side, style.background) == (28, background)
    assert style.ink == (255 if background == 0 else 0)
    assert style.extent == pytest.approx(20 / 28)
    assert 2 <= style.stroke_width <= 4


@pytest.mark.parametrize(
    "images",
    [
        [],
        [np.zeros((28, 28, 3), np.uint8)],
        [np.zeros((65, 20), np.uint8)],
        [np.zeros((28, 28), np.uint8)],
        [np.arange(28 * 28, dtype=np.uint32).astype(np.uint8).reshape(28, 28)],
    ],
    ids=["none", "color", "large", "blank", "texture"],
)
def test_images_that_are_not_drawings(images: list[ImageArray]) -> None:
    assert sketch_style(images) is None
