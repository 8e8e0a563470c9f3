"""Images are resized and cropped as networks are trained: first the one, then the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lookalike.documents import Fields
from lookalike.encoders.base import Preprocessing
from lookalike.errors import ArtifactError, SettingError
from lookalike.types import ImageArray

RNG = np.random.default_rng(0)
SHAPES = [(40, 56), (56, 40), (41, 40), (24, 24), (23, 90), (64, 64)]


def photo(height: int, width: int) -> ImageArray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def shorter_side(image: ImageArray, side: int) -> Image.Image:
    """Return an image whose shorter side is resized to so many pixels, in Pillow's own steps."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("side", [24, 27, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shorter_side_is_resized_before_the_crop(shape: tuple[int, int], side: int) -> None:
    image = photo(*shape)
    resized = shorter_side(image, side)
    left, top = (resized.width - 24) // 2, (resized.height - 24) // 2
    expected = np.asarray(resized.crop((left, top, left + 24, top + 24)))
    p = Preprocessing(24, 24, 3, filter="bicubic", resize=(side, side), resize_mode="cover")
    np.testing.assert_array_equal(p.apply([image])[0], expected)
    exact = Preprocessing(24, 24, 3, resize=(side, side))
    squashed = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    offset = (side - 24) // 2
    box = (offset, offset, offset + 24, offset + 24)
    np.testing.assert_array_equal(exact.apply([image])[0], np.asarray(squashed.crop(box)))


def test_an_image_that_is_smaller_than_the_crop_is_padded() -> None:
    image = photo(20, 40)
    p = Preprocessing(21, 21, 3, resize=(21, 21), resize_mode="contain", fill=(10, 20, 30))
    resized = Image.fromarray(image).resize((21, 10), Image.Resampling.BILINEAR)
    for top, each in ((6, p), (5, replace(p, round_offset=True))):
        [row] = each.apply([image])
        np.testing.assert_array_equal(row[top : top + 10], np.asarray(resized))
        outside = np.delete(row, range(top, top + 10), axis=0)
        assert (outside == (10, 20, 30)).all()
    [gray] = Preprocessing(21, 21, 3, resize=(16, 16), resize_mode="cover").apply([image[:, :, 0]])
    assert (gray[[0, 1, 2, -1, -2]] == 0).all()
    assert gray[3:-2].any(axis=(1, 2)).all()


def test_the_crop_is_placed_as_the_reference_does() -> None:
    image = photo(9, 12)  # three columns more than the crop: it begins at 1 or at 2
    plain = Preprocessing(9, 9, 3, resize=(9, 9), resize_mode="cover")
    np.testing.assert_array_equal(plain.apply([image])[0], image[:, 1:10])
    rounded = replace(plain, round_offset=True)
    np.testing.assert_array_equal(rounded.apply([image])[0], image[:, 2:11])


def test_an_image_of_extreme_aspect_ratio_is_not_resized_as_a_whole() -> None:
    column = np.repeat(RNG.integers(0, 256, (1, 4000, 3), dtype=np.uint8), 2, axis=0)
    p = Preprocessing(32, 32, 3, filter="bicubic", resize=(36, 36), resize_mode="cover")
    resized = shorter_side(column, 36)  # 72,000 pixels wide
    left = (resized.width - 32) // 2
    expected = np.asarray(resized.crop((left, 2, left + 32, 34))).astype(int)
    assert np.abs(p.apply([column])[0] - expected).max() <= 1


def test_fields_are_saved_only_where_they_are_used() -> None:
    plain = {"height": 8, "width": 8, "channels": 3, "exact": False}
    assert Preprocessing(8, 8, 3).as_dict() == plain
    p = Preprocessing(8, 8, 3, resize=(9, 10), resize_mode="contain", fill=(1, 2, 3))
    saved = p.as_dict()
    assert saved == plain | {"resize": [9, 10], "resize_mode": "contain", "fill": [1, 2, 3]}
    assert Preprocessing.restore(Fields(saved, "x", "")) == p
    for broken in ({"resize": [9]}, {"fill": [1]}, {"resize_mode": "x"}, {"crop": 0.5}):
        with pytest.raises(ArtifactError):
            Preprocessing.restore(Fields(saved | broken, "x", ""))


def test_another_size_or_fit_keeps_what_it_can() -> None:
    p = Preprocessing(224, 224, 3, resize=(256, 256), resize_mode="cover")
    assert p.with_size(112, 112).resize == (128, 128)
    assert p.with_fit("crop") == p
    assert p.with_fit("stretch") == Preprocessing(224, 224, 3)
    assert p.with_fit("white") == Preprocessing(224, 224, 3, pad="white")
    squashed = Preprocessing(8, 8, 3, resize=(8, 8))
    assert squashed.with_fit("crop") == Preprocessing(8, 8, 3, crop=1.0)
    with pytest.raises(SettingError, match="size"):
        p.with_size(5000, 10)
