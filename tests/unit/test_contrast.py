"""The parts of the contrastive recipe, each beside a slow and obvious version."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import LinearProjection
from lookalike.training.allocator import memory_kept
from lookalike.training.losses import nt_xent
from lookalike.training.tasks import nearest
from lookalike.training.towers import (
    FineHogModule,
    GradientStem,
    Joined,
    Unit,
    affine,
    mirror_tower,
    tower,
)
from lookalike.types import ignore_progress

RNG = np.random.default_rng(0)


def test_nt_xent_is_the_cross_entropy_of_finding_the_other_view() -> None:
    rows = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = 0.0
    for i in range(10):
        scores = [
            float(torch.cosine_similarity(rows[i], rows[j], dim=0)) / 0.2
            for j in range(10)
            if j != i
        ]
        own = float(torch.cosine_similarity(rows[i], rows[(i + 5) % 10], dim=0)) / 0.2
        slow += np.log(np.exp(scores).sum()) - own
    assert nt_xent(rows, 0.2).item() == pytest.approx(slow / 10)


def test_neighbors_are_those_of_brute_force_and_never_the_image_itself() -> None:
    rows = RNG.standard_normal((3000, 8)).astype(np.float32)
    rows[100:140] = rows[100]
    rows[7] = 0
    found = nearest(rows, 5, ignore_progress)
    assert found.shape == (3000, 5)
    assert not (found == np.arange(3000)[:, None]).any()
    norms = np.linalg.norm(rows.astype(float), axis=1)
    unit = rows / np.where(norms > 0, norms, 1)[:, None]
    scores = unit @ unit.T
    np.fill_diagonal(scores, -9)
    best = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(scores, found, 1), best, atol=1e-6)
    assert nearest(rows[:3], 5, ignore_progress).shape == (3, 2)


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (64, 48, 3), (32, 32, 3)])
@pytest.mark.parametrize("count", [20, 300])
def test_fine_hog_as_a_module_is_fine_hog(
    height: int, width: int, channels: int, count: int
) -> None:
    small = RNG.integers(0, 256, (count, height // 4, width // 4, channels), dtype=np.uint8)
    images = small.repeat(4, 1).repeat(4, 2)
    listed = list(images[..., 0] if channels == 1 else images)
    encoder = FineHog.fit("fine", Preprocessing(height, width, channels), listed)
    values = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    found = FineHogModule(encoder)(values).numpy()
    np.testing.assert_allclose(found, encoder.encode(listed), atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(28, 28, 1), (32, 32, 3), (64, 48, 3), (96, 128, 1), (224, 224, 3)],
)
def test_towers_fit_any_size(height: int, width: int, channels: int) -> None:
    images = torch.rand(2, channels, height, width)
    net = tower(channels, height, width)
    assert net(images).shape == (2, 128)
    decoded = mirror_tower(channels, height, width)(net(images))
    assert decoded.shape == images.shape
    assert sum(p.numel() for p in net.parameters()) < 1_500_000


def test_the_tower_for_28_pixels_is_the_one_that_was_measured() -> None:
    assert sum(p.numel() for p in tower(1, 28, 28).parameters()) == 341_714


def test_the_stem_answers_in_the_direction_of_an_edge() -> None:
    stem = GradientStem(1, 28).eval()
    for turns, strongest in ((0, 0), (1, 6), (2, 4), (3, 2)):
        image = torch.zeros(1, 1, 28, 28)
        image[:, :, :, 14:] = 1
        responses = stem(torch.rot90(image, turns, (2, 3)))[0, :8].sum((1, 2))
        assert int(responses.argmax()) == strongest, turns


def test_the_stem_makes_nothing_of_flat_images() -> None:
    flat = GradientStem(3, 32).eval()(torch.full((2, 3, 32, 32), 0.7))
    assert torch.isfinite(flat).all()
    assert flat[:, :8].max() < 0.02


def test_joined_halves_have_their_weights() -> None:
    one, other = torch.randn(4, 6), torch.randn(4, 3)
    joined = Joined(torch.nn.Identity(), torch.nn.Linear(6, 3), 0.5)
    joined.second = torch.nn.Sequential(torch.nn.Flatten())
    joined.second.forward = lambda _: other  # type: ignore[method-assign]
    found = joined(one)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(
        found[:, 6:].norm(dim=1) / found[:, :6].norm(dim=1), torch.full((4,), 0.5)
    )


def test_whitening_as_a_layer_and_its_strength() -> None:
    values = (RNG.standard_normal((500, 8)) * np.arange(1, 9)).astype(np.float32)
    for strength, ratio in ((0.0, 8.0), (0.5, 8**0.5), (1.0, 1.0)):
        whitening = LinearProjection.fit(values, 8, strength)
        assert whitening is not None
        projected = (values - whitening.mean) @ whitening.projection
        spread = np.sqrt(np.diag(np.cov(projected.T)))
        assert spread.max() / spread.min() == pytest.approx(ratio, rel=0.1)
        layer = affine(whitening)(torch.from_numpy(values)).detach().numpy()
        np.testing.assert_allclose(layer, projected, atol=1e-4)
    assert LinearProjection.fit(values[:15], 8) is None
    assert LinearProjection.fit(np.ones((50, 8), np.float32), 8) is None


def test_unit_rows_keep_zero() -> None:
    rows = Unit()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_what_is_done_with_memory_kept_is_as_without() -> None:
    with pytest.raises(ZeroDivisionError), memory_kept():
        _ = 1 // int(torch.zeros(1000, 1000).sum())
    with memory_kept():
        assert torch.ones(1000, 1000).sum() == 1e6
