"""The comparison of an exported network with the one in torch, and the code that must be stable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.export import MIN_COSINE, compare_embeddings
from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import MIN_DEVIATION, LinearProjection
from lookalike.training.towers import FineHogModule, GradientStem, gradients
from lookalike.vectors import unit_rows


def random_rows(count: int = 60, dim: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


@pytest.mark.parametrize("scale", [1, 1e-20, 1e20])
def test_rounding_errors_agree_at_any_scale(scale: float) -> None:
    rows = unit_rows(random_rows()) * np.float32(scale)
    agreement = compare_embeddings(rows, rows * np.float32(1 + 1e-6))
    assert agreement.sufficient
    assert agreement.cosine == pytest.approx(1)
    assert agreement.as_dict() == {
        "images": 60,
        "cosine": agreement.cosine,
        "neighbors": 1.0,
        "sufficient": True,
    }


def test_one_wrong_row_is_enough_to_disagree() -> None:
    rows = random_rows()
    other = rows.copy()
    other[17] = rows[18]
    agreement = compare_embeddings(rows, other)
    slow = rows[17] @ rows[18] / np.linalg.norm(rows[17]) / np.linalg.norm(rows[18])
    assert agreement.cosine == pytest.approx(slow, abs=1e-6)
    assert not agreement.sufficient


def test_a_cosine_at_the_limit_is_the_last_that_agrees() -> None:
    rows = np.eye(50, dtype=np.float32)
    for cosine, sufficient in ((MIN_COSINE + 1e-5, True), (MIN_COSINE - 1e-5, False)):
        turned = cosine * rows + np.sqrt(1 - cosine**2) * np.roll(rows, 1, axis=1)
        agreement = compare_embeddings(rows, turned.astype(np.float32))
        assert agreement.cosine == pytest.approx(cosine)
        assert agreement.sufficient == sufficient


def test_other_neighbors_disagree_even_with_the_right_directions() -> None:
    rows = random_rows(dim=2)
    lengths = np.random.default_rng(1).uniform(0.5, 2, (60, 1)).astype(np.float32)
    agreement = compare_embeddings(rows, rows * lengths)
    assert agreement.cosine == pytest.approx(1)
    own, other = (
        np.argsort(np.linalg.norm(each[:, None] - each, axis=2) + 1e9 * np.eye(60), 1)[:, :10]
        for each in (rows, rows * lengths)
    )
    slow = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(own, other, strict=True)])
    assert agreement.neighbors == pytest.approx(slow, abs=0.01)
    assert not agreement.sufficient


def test_ties_and_zeros_are_no_disagreement() -> None:
    rows = np.repeat(random_rows(4), 30, axis=0)
    rows[:5] = 0
    noise = 1e-6 * np.random.default_rng(1).normal(size=rows.shape).astype(np.float32)
    assert compare_embeddings(rows, rows + noise).sufficient
    zeros = np.zeros((3, 4), np.float32)
    assert compare_embeddings(zeros, zeros).sufficient
    assert not compare_embeddings(rows, np.zeros_like(rows)).sufficient


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_disagree(value: float) -> None:
    rows = random_rows()
    broken = rows.copy()
    broken[3, 3] = value
    agreement = compare_embeddings(rows, broken)
    assert not agreement.sufficient
    assert agreement.as_dict()["cosine"] is None


def tied_image() -> torch.Tensor:
    """Return an image ``(1, 3, 32, 32)`` whose channels have equal but other gradients."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 200, (32, 32))
    levels = np.stack([first, first.T, 200 - first])
    return torch.from_numpy(levels[None].astype(np.float32)) / 255


def test_of_equal_gradients_the_first_is_taken_whatever_the_arithmetic() -> None:
    image = tied_image()
    x, y = gradients(image)
    for other in (gradients(image.double()), gradients(image.clone() * (1 + 1e-7))):
        for one, same in zip((x, y), other, strict=True):
            torch.testing.assert_close(one, same.float(), atol=1e-6, rtol=0)
    first_x, first_y = gradients(image[:, :1])
    larger = (x * x + y * y) > (first_x * first_x + first_y * first_y) + 1e-6
    torch.testing.assert_close(x[~larger], first_x[~larger])
    stem = GradientStem(3, 32).eval()
    exact = GradientStem(3, 32).eval().double()
    torch.testing.assert_close(stem(image), exact(image.double()).float(), atol=1e-5, rtol=0)


def test_edges_at_45_degrees_leave_no_rounding_errors_in_other_bins() -> None:
    y, x = np.mgrid[:32, :32]
    ramp = (x + y + 40).astype(np.uint8)
    plain = FineHog.fit("fine", Preprocessing(32, 32, 1), [ramp])
    cells = FineHogModule(plain)(torch.from_numpy(ramp[None, None]).float() / 255)
    inside = cells.reshape(16, 16, 16)[2:-2, 2:-2].numpy()
    assert np.count_nonzero(inside) == inside[..., 2].size
    assert (inside[..., 2] > 0).all()


def test_gradients_of_8_bit_images_have_no_share_below_the_rounding_limit() -> None:
    from lookalike.training.towers import _ROUNDING

    x, y = np.meshgrid(np.arange(-255, 256), np.arange(-255, 256))
    position = np.arctan2(y, x) * 16 / (2 * np.pi)
    share = np.abs(position - np.round(position))
    assert share[share > 1e-12].min() > 2 * _ROUNDING


def test_nearly_equal_rows_are_not_whitened() -> None:
    rng = np.random.default_rng(0)
    center = unit_rows(rng.normal(size=(1, 32)).astype(np.float32))
    direction = rng.normal(size=(300, 1)) * rng.normal(size=(1, 32)) / 32**0.5
    for deviation, whitened in ((2 * MIN_DEVIATION, True), (MIN_DEVIATION / 2, False)):
        rows = (center + deviation * direction).astype(np.float32)
        assert (LinearProjection.fit(rows, 16) is not None) == whitened
