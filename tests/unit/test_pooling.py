"""Poolings as nodes of a graph, each against its formula in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.encoders.pooling import POOLINGS, region_grid
from lookalike.encoders.pretrained import pool

Maps = NDArray[np.float32]


def random_maps(*shape: int) -> Maps:
    return np.random.default_rng(0).normal(0.2, 1, shape).astype(np.float32)


def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_gem(maps: Maps) -> NDArray[np.floating]:
    """GeM of each channel by its formula, scaled to unit length."""
    cubes = np.maximum(maps.astype(float), 1e-6) ** 3
    return unit(cubes.reshape(*maps.shape[:2], -1).mean(axis=2) ** (1 / 3))


def slow_regions(height: int, width: int) -> list[tuple[int, int, int]]:
    """Return the square regions of Tolias et al. at scales 1 to 3: top, left, side."""
    shorter, longer = min(height, width), max(height, width)
    extra = 0
    if shorter != longer:
        off = {m: abs(1 - (longer - shorter) / m / shorter - 0.4) for m in range(1, 7)}
        extra = min(off, key=lambda m: off[m])
    regions = []
    for scale in (1, 2, 3):
        side = max(1, int(2 * shorter / (scale + 1)))
        rows, columns = scale + extra * (height > width), scale + extra * (width > height)
        for i in range(rows):
            top = round(i * (height - side) / (rows - 1)) if rows > 1 else (height - side) // 2
            for j in range(columns):
                left = (
                    round(j * (width - side) / (columns - 1))
                    if columns > 1
                    else (width - side) // 2
                )
                regions.append((top, left, side))
    return regions


def slow_rmac(maps: Maps, weights: NDArray[np.floating] | None = None) -> NDArray[np.floating]:
    """R-MAC by its definition, each region weighted by a mean, scaled to unit length."""
    out = np.zeros(maps.shape[:2])
    for number, image in enumerate(maps.astype(float)):
        for top, left, side in slow_regions(*maps.shape[2:]):
            rows, columns = slice(top, top + side), slice(left, left + side)
            maxima = np.array([channel[rows, columns].max() for channel in image])
            weight = 1 if weights is None else weights[number, rows, columns].mean()
            out[number] += maxima / np.linalg.norm(maxima) * weight
    return unit(out)


def slow_grid(maps: Maps, starts: tuple[int, ...], side: int) -> NDArray[np.floating]:
    """Means over square cells that start at each of some rows and columns."""
    cells = [
        np.maximum(maps[:, channel, top : top + side, left : left + side], 0).mean(axis=(1, 2))
        for channel in range(maps.shape[1])
        for top in starts
        for left in starts
    ]
    return unit(np.stack(cells, axis=1))


SHAPES = [(7, 7), (5, 8), (9, 6), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gem_average_and_max(shape: tuple[int, int]) -> None:
    maps = random_maps(3, 6, *shape)
    flat = maps.reshape(3, 6, -1)
    for pooling, expected in (
        ("gem", slow_gem(maps)),
        ("avg", unit(flat.mean(axis=2))),
        ("max", unit(flat.max(axis=2))),
    ):
        np.testing.assert_allclose(pool(pooling, [maps]), expected, atol=1e-6)


def test_rmac_region_grid() -> None:
    grid = region_grid(7, 7)
    assert [side for _, _, side in grid] == [7] + [4] * 4 + [3] * 9
    assert grid[:5] == [(0, 0, 7), (0, 0, 4), (0, 3, 4), (3, 0, 4), (3, 3, 4)]
    assert {top for top, _, side in grid if side == 3} == {0, 2, 4}
    assert [side for _, _, side in region_grid(1, 1)] == [1] * 14
    for height in range(2, 15):
        for width in range(max(2, height // 2), 2 * height + 1):
            grid = region_grid(height, width)
            assert grid == slow_regions(height, width)
            covered = np.zeros((height, width), int)
            for top, left, side in grid:
                assert 0 <= top <= top + side <= height
                assert 0 <= left <= left + side <= width
                covered[top : top + side, left : left + side] += 1
            assert covered.min() >= 1, f"a position of {height}x{width} is in no region"


@pytest.mark.parametrize("shape", SHAPES)
def test_rmac_matches_its_definition(shape: tuple[int, int]) -> None:
    maps = random_maps(2, 6, *shape)
    np.testing.assert_allclose(pool("rmac", [maps]), slow_rmac(maps), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_weights_regions_by_feature_norm(shape: tuple[int, int]) -> None:
    maps = random_maps(2, 5, *shape)
    norms = np.sqrt((maps.astype(float) ** 2).sum(axis=1))
    weights = np.sqrt(norms / norms.max(axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(pool("attention", [maps]), slow_rmac(maps, weights), atol=1e-5)


def test_attention_ignores_plain_background() -> None:
    """An item in one corner outweighs a faint background of another channel."""
    maps = np.zeros((1, 2, 7, 7), np.float32)
    maps[:, 1] = 0.01
    maps[:, 0, :3, :3] = 1
    [plain], [weighted] = pool("rmac", [maps]), pool("attention", [maps])
    assert weighted[0] / weighted[1] > 2 * plain[0] / plain[1]


def test_grid_pooling_averages_overlapping_cells() -> None:
    maps = random_maps(2, 3, 7, 7)
    np.testing.assert_allclose(pool("grid", [maps]), slow_grid(maps, (0, 2, 4), 3), atol=1e-6)
    for height, width in ((14, 14), (10, 7), (4, 9), (5, 5)):
        for place in range(height * width):
            one = np.zeros((1, 1, height, width), np.float32)
            one.flat[place] = 1
            assert pool("grid", [one]).max() > 0, "a position is in no cell"
        assert pool("grid", [random_maps(1, 2, height, width)]).shape == (1, 2 * 9)
    assert pool("grid", [random_maps(1, 2, 2, 5)]).shape == (1, 2 * 2 * 3)


def test_multi_layer_parts_have_equal_length() -> None:
    maps = [random_maps(2, 4, 14, 14), random_maps(2, 5, 7, 7), random_maps(2, 6, 7, 7)]
    parts = [
        slow_gem(maps[2]),
        slow_grid(maps[2], (0, 2, 4), 3),
        slow_grid(maps[0], (0, 3, 6, 9), 5),
        slow_grid(maps[1], (0, 2, 4), 3),
    ]
    expected = np.concatenate(parts, axis=1) / 2
    pooled = pool("layers", maps)
    assert pooled.shape == (2, 6 + 6 * 9 + 4 * 16 + 5 * 9)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_the_native_pooling_scales_only() -> None:
    rows = random_maps(3, 5)
    np.testing.assert_allclose(pool("own", [rows]), unit(rows), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_empty_maps_have_finite_embeddings(pooling: str) -> None:
    maps = np.zeros((1, 5, 4, 6), np.float32)
    assert np.isfinite(
        pool(pooling, [maps, maps])[0] if pooling == "layers" else pool(pooling, [maps])
    ).all()
