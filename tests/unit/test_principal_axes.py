"""Principal axes: those of scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from lookalike.vectors import principal_axes


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = 1 / np.arange(1, d + 1)
    rotation = np.linalg.qr(rng.normal(size=(d, min(n, d)))).Q
    low = rng.normal(size=(n, min(n, d))) * scales[: min(n, d)]
    return np.asarray(low @ rotation.T + 5, np.float32)


@pytest.mark.parametrize(
    ("n", "d", "count"),
    [(50, 8, 8), (50, 8, 3), (9, 40, 4), (2, 1, 1), (200, 30, 12), (1_600, 1_700, 5)],
)
def test_mean_axes_and_variances_are_those_of_scikit_learn(n: int, d: int, count: int) -> None:
    values = rows(n, d)
    mean, axes, variances = principal_axes(values, count)
    solver = "full" if min(n, d) <= 1_500 else "randomized"
    pca = PCA(count, svd_solver=solver, random_state=0).fit(values.astype(np.float64))
    assert axes.dtype == np.float32
    assert axes.shape == (count, d)
    np.testing.assert_allclose(mean, pca.mean_, rtol=1e-6)
    np.testing.assert_allclose(variances, pca.explained_variance_, rtol=1e-3)
    cosines = np.abs(np.einsum("ij,ij->i", axes, pca.components_))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1) > 0).all()


@pytest.mark.parametrize("values", [rows(6, 20), np.tile(rows(1, 20), (6, 1))])
def test_axes_without_variance_are_still_of_length_one_and_at_right_angles(
    values: np.ndarray,
) -> None:
    _, axes, variances = principal_axes(values, 6)
    np.testing.assert_allclose(axes @ axes.T, np.eye(6), atol=1e-5)
    assert (variances >= 0).all()
