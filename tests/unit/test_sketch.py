"""What drawings must be like to look like the images of a gallery."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.server.sketch import paper_of
from lookalike.types import ImageArray


def line(ground: int, ink: int, width: int, length: int) -> ImageArray:
    image = np.full((28, 28), ground, np.uint8)
    image[4 : 4 + length, 10 : 10 + width] = ink
    return image


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (250, 30)])
def test_paper_is_measured_on_the_images(ground: int, ink: int) -> None:
    paper = paper_of([line(ground, ink, width, 20) for width in (2, 3, 4)])
    assert paper is not None
    assert (paper.side, paper.ground) == (28, ground)
    assert paper.pen == (255 if ground == 0 else 0)
    assert paper.share == pytest.approx(20 / 28)
    assert 2 <= paper.stroke <= 4


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
def test_other_images_are_not_drawn(images: list[ImageArray]) -> None:
    assert paper_of(images) is None
