"""Augmentation presets."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from lookalike.errors import UnknownNameError
from lookalike.training.augmentations import AUGMENTATIONS, Augmentations, find_augmentations

MAGNITUDES = {
    "rotation": 20,
    "scale": 0.3,
    "anisotropy": 0.3,
    "shear": 0.3,
    "shift": 0.2,
    "crop": 0.4,
    "aspect": 1.5,
    "mirror": True,
    "elastic": 0.05,
    "thickness": 0.7,
    "blur": 1,
    "gamma": 0.5,
    "brightness": 0.3,
    "contrast": 0.5,
    "saturation": 0.5,
    "erase": 1,
}
COLOR_ONLY = {"saturation"}


def images(n: int = 6, channels: int = 1, height: int = 28, width: int = 32) -> torch.Tensor:
    small = torch.rand((n, channels, 7, 8), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48), (1, 1, 1)])
def test_augmentation_keeps_shape_and_range_and_is_determined_by_the_generator(
    name: str, shape: tuple[int, int, int]
) -> None:
    original = torch.rand((5, *shape), generator=generator())
    before = original.clone()
    view = AUGMENTATIONS[name](original, generator(1))
    assert view.shape == original.shape
    assert view.min() >= 0
    assert view.max() <= 1
    assert torch.isfinite(view).all()
    assert torch.equal(view, AUGMENTATIONS[name](original, generator(1)))
    assert torch.equal(original, before)
    if shape[1] > 1:
        assert not torch.equal(view, AUGMENTATIONS[name](original, generator(2)))


def test_without_magnitudes_images_are_unchanged() -> None:
    original = images(channels=3)
    torch.testing.assert_close(
        Augmentations(name="none", summary="")(original, generator()), original
    )


def test_every_augmentation_has_a_test_value() -> None:
    named = {f.name for f in fields(Augmentations)} - {"name", "summary", "gray"}
    assert named == set(MAGNITUDES)


@pytest.mark.parametrize("name", sorted(MAGNITUDES))
@pytest.mark.parametrize("channels", [1, 3])
def test_each_augmentation_alone_changes_images(name: str, channels: int) -> None:
    original = images(12, channels)
    magnitude: dict[str, Any] = {name: MAGNITUDES[name]}
    view = Augmentations(name="one", summary="", **magnitude)(original, generator())
    changed = (view - original).abs().flatten(1).amax(1) > 1e-3
    if name in COLOR_ONLY and channels == 1:
        assert not changed.any()
        return
    assert changed.any()
    if name == "mirror":
        flipped = original.flip(3)
        for row, same, other in zip(view, original, flipped, strict=True):
            assert min((row - same).abs().max(), (row - other).abs().max()) < 1e-4
        assert 0 < changed.sum() < 12


def test_only_a_share_of_the_images_is_blurred() -> None:
    original = images(200, 3)
    views = Augmentations(name="blur", summary="", blur=0.3)(original, generator())
    share = ((views - original).abs().flatten(1).amax(1) > 1e-3).float().mean()
    assert 0.2 < share < 0.4
    every = Augmentations(name="blur", summary="", blur=1)(original, generator())
    changed = (views - every).abs().flatten(1).amax(1) < 1e-6
    assert changed.float().mean() == share


def test_rotation_is_about_the_center_and_bounded() -> None:
    dot = torch.zeros(400, 1, 41, 41)
    dot[:, 0, 19:22, 35:38] = 1
    rotated = Augmentations(name="turn", summary="", rotation=30)(dot, generator())
    positions = torch.arange(41.0) - 20
    mass = rotated.sum((1, 2, 3))
    x = (rotated.sum(2)[:, 0] * positions).sum(1) / mass
    y = (rotated.sum(3)[:, 0] * positions).sum(1) / mass
    angles = torch.atan2(y, x).rad2deg()
    torch.testing.assert_close(torch.hypot(x, y), torch.full((400,), 16.0), atol=0.4, rtol=0)
    assert 28 < angles.abs().max() < 31
    assert abs(angles.mean()) < 3


def test_thickness_dilates_and_erodes_strokes() -> None:
    stroke = torch.zeros(200, 1, 28, 28)
    stroke[:, :, 10:18, 13:16] = 1
    sums = Augmentations(name="thick", summary="", thickness=0.7)(stroke, generator()).sum(
        (1, 2, 3)
    )
    assert sums.min() < 24 * 0.6
    assert sums.max() > 24 * 1.4


def test_grayscale_keeps_the_luma() -> None:
    original = images(4, 3)
    gray = Augmentations(name="gray", summary="", saturation=1e-9, gray=1)(original, generator())
    luma = (original * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1)
    for channel in range(3):
        torch.testing.assert_close(gray[:, channel], luma, atol=1e-4, rtol=0)


def test_crops_keep_at_least_the_minimum_area() -> None:
    ramp = torch.linspace(0, 1, 64).expand(300, 1, 64, 64)
    crops = Augmentations(name="crop", summary="", crop=0.49)(ramp, generator())[:, 0, 0]
    widths = (crops[:, -1] - crops[:, 0]).numpy()
    assert 0.68 < widths.min() < 0.75
    assert 0.97 < widths.max() <= 1
    assert np.std(crops[:, 0].numpy()) > 0.03


def test_the_nearest_preset_name_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        find_augmentations("digit")
