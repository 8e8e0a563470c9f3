"""Image corruptions: invariants and strength."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.errors import UnknownNameError
from lookalike.images.corruptions import (
    CORRUPTIONS,
    GRAY,
    NOISE_LEVELS,
    Corruption,
    find_corruptions,
)
from lookalike.images.decode import resize_image
from lookalike.types import ImageArray

KINDS = ("crop", "rotation", "brightness", "blur", "noise", "jpeg", "occlusion")
SHAPES = ((28, 28), (40, 50, 3), (1, 1), (1, 1, 3), (2, 3), (3, 1, 3), (1, 100), (9, 200, 3))


def textured(shape: tuple[int, ...], seed: int = 0) -> ImageArray:
    """An image with coarse structure and fine grain, without black or white pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(70, 190, (4, 5, *shape[2:]), dtype=np.uint8)
    image = resize_image(coarse, *shape[:2]).astype(np.int64)
    return (image + rng.integers(-9, 10, image.shape)).astype(np.uint8)


def corrupt(name: str, image: ImageArray, seed: int = 0) -> ImageArray:
    return CORRUPTIONS[name].apply(image, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_shape_dtype_and_original_are_kept(name: str, shape: tuple[int, ...]) -> None:
    image = textured(shape)
    image.flags.writeable = False
    before = image.copy()
    corrupted = corrupt(name, image)
    assert corrupted.shape == shape
    assert corrupted.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(28, 28), (40, 50, 3)], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_corruptions_change_the_image_and_depend_on_the_seed(
    name: str, shape: tuple[int, ...]
) -> None:
    image = textured(shape)
    for seed in range(20):
        corrupted = corrupt(name, image, seed)
        np.testing.assert_array_equal(corrupted, corrupt(name, image, seed))
        assert np.abs(corrupted.astype(int) - image).max() > 5, seed
    differs = (corrupt(name, image, 0) != corrupt(name, image, 1)).any()
    assert differs == (name not in ("blur", "jpeg"))  # these two are deterministic


@pytest.mark.parametrize("name", KINDS)
def test_channels_are_corrupted_alike(name: str) -> None:
    gray = textured((30, 30))
    corrupted = corrupt(name, np.repeat(gray[..., None], 3, axis=2))
    if name == "noise":  # drawn for each channel
        assert (corrupted[..., 0] != corrupted[..., 1]).mean() > 0.9
    else:
        assert np.abs(corrupted.astype(int) - corrupt(name, gray)[..., None]).max() <= 1


def test_crop_has_the_stated_area() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None], 200, axis=0)
    shares = []
    for seed in range(50):
        columns = corrupt("crop", ramp, seed)[100].astype(int)
        shares.append(((columns[-1] - columns[0] + 1) / 200) ** 2)
    assert 0.58 <= min(shares) < 0.64
    assert 0.76 < max(shares) <= 0.82


def test_rotation_goes_both_ways_and_fills_with_the_background() -> None:
    image = np.full((61, 61, 3), (200, 30, 90), np.uint8)
    image[28:33, 10:51] = (0, 0, 255)  # a horizontal bar
    angles = []
    for seed in range(40):
        corrupted = corrupt("rotation", image, seed)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert corrupted[corner].tolist() == [200, 30, 90]
        y, x = np.nonzero(corrupted[..., 2] > 200)
        angles.append(np.degrees(np.arctan(np.polyfit(x - 30, y - 30, 1)[0])))
    sizes = np.abs(angles)
    assert sizes.min() > 4
    assert sizes.max() < 16
    assert min(angles) < 0 < max(angles)


def test_brightness_goes_both_ways_and_is_monotonic() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    means = []
    for seed in range(30):
        corrupted = corrupt("brightness", levels, seed)[0].astype(int)
        assert (np.diff(corrupted) >= 0).all()
        assert corrupted[0] == 0
        means.append(corrupted.mean())
    assert min(means) < 100
    assert max(means) > 155
    assert not [m for m in means if 115 < m < 140]


def test_blur_is_proportional_to_the_size() -> None:
    def spread(side: int) -> float:
        dot = np.zeros((side, side), np.uint8)
        dot[side // 2, :] = 255
        profile = corrupt("blur", dot)[:, side // 2].astype(float)
        position = np.arange(side) - side // 2
        return float(np.sqrt((profile * position**2).sum() / profile.sum()))

    assert spread(100) == pytest.approx(3, rel=0.2)
    assert spread(200) == pytest.approx(6, rel=0.2)


def test_noise_has_the_stated_strength() -> None:
    image = np.full((200, 200), 128, np.uint8)
    difference = corrupt("noise", image).astype(float) - 128
    assert difference.std() == pytest.approx(NOISE_LEVELS, rel=0.03)
    assert abs(difference.mean()) < 1


@pytest.mark.parametrize("shape", [(30, 30), (30, 60, 3)], ids=str)
def test_occlusion_covers_a_ninth(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    positions = set()
    for seed in range(20):
        covered = corrupt("occlusion", image, seed) == GRAY
        rows, columns = np.nonzero(covered if covered.ndim == 2 else covered.all(axis=2))
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        assert len(rows) == height * width == shape[0] * shape[1] // 9
        assert (height, width) == (shape[0] // 3, shape[1] // 3)
        positions.add((rows.min(), columns.min()))
    assert len(positions) > 10


def test_corruptions_are_returned_in_registry_order() -> None:
    assert tuple(CORRUPTIONS) == KINDS
    assert all(isinstance(kind, Corruption) and kind.summary for kind in find_corruptions())
    assert [kind.name for kind in find_corruptions()] == list(KINDS)
    assert [kind.name for kind in find_corruptions(["noise", "crop"])] == ["crop", "noise"]
    assert find_corruptions([]) == ()
    with pytest.raises(UnknownNameError, match="did you mean 'rotation'"):
        find_corruptions(["crop", "rotations"])
