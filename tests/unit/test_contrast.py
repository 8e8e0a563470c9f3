"""The parts of the contrastive recipe, each compared with a slow and obvious version."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.hog import FineHog
from lookalike.encoders.whitening import LinearProjection
from lookalike.training.allocator import retain_memory
from lookalike.training.losses import nt_xent
from lookalike.training.tasks import nearest_neighbors
from lookalike.training.towers import (
    Concatenated,
    FineHogModule,
    GradientStem,
    UnitLength,
    mirror_tower,
    projection_layer,
    tower,
)
from lookalike.types import ignore_progress

RNG = np.random.default_rng(0)


def test_nt_xent_is_the_cross_entropy_of_identifying_the_other_view() -> None:
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


def test_neighbors_are_exact_and_never_the_image_itself() -> None:
    rows = RNG.standard_normal((3000, 8)).astype(np.float32)
    rows[100:140] = rows[100]
    rows[7] = 0
    neighbors = nearest_neighbors(rows, 5, ignore_progress)
    assert neighbors.shape == (3000, 5)
    assert not (neighbors == np.arange(3000)[:, None]).any()
    norms = np.linalg.norm(rows.astype(float), axis=1)
    unit = rows / np.where(norms > 0, norms, 1)[:, None]
    scores = unit @ unit.T
    np.fill_diagonal(scores, -9)
    best = -np.sort(-scores, axis=1)[:, :5]
    np.testing.assert_allclose(np.take_along_axis(scores, neighbors, 1), best, atol=1e-6)
    assert nearest_neighbors(rows[:3], 5, ignore_progress).shape == (3, 2)


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (64, 48, 3), (32, 32, 3)])
@pytest.mark.parametrize("count", [20, 300])
def test_the_fine_hog_module_equals_fine_hog(
    height: int, width: int, channels: int, count: int
) -> None:
    small = RNG.integers(0, 256, (count, height // 4, width // 4, channels), dtype=np.uint8)
    images = small.repeat(4, 1).repeat(4, 2)
    listed = list(images[..., 0] if channels == 1 else images)
    encoder = FineHog.fit("fine", Preprocessing(height, width, channels), listed)
    values = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    embeddings = FineHogModule(encoder)(values).numpy()
    np.testing.assert_allclose(embeddings, encoder.encode(listed), atol=1e-4)


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


def test_the_tower_for_28_pixels_has_the_documented_size() -> None:
    assert sum(p.numel() for p in tower(1, 28, 28).parameters()) == 341_714


def test_the_stem_responds_in_the_direction_of_an_edge() -> None:
    stem = GradientStem(1, 28).eval()
    for turns, strongest in ((0, 0), (1, 6), (2, 4), (3, 2)):
        image = torch.zeros(1, 1, 28, 28)
        image[:, :, :, 14:] = 1
        responses = stem(torch.rot90(image, turns, (2, 3)))[0, :8].sum((1, 2))
        assert int(responses.argmax()) == strongest, turns


def test_the_stem_does_not_respond_to_flat_images() -> None:
    flat = GradientStem(3, 32).eval()(torch.full((2, 3, 32, 32), 0.7))
    assert torch.isfinite(flat).all()
    assert flat[:, :8].max() < 0.02


def test_concatenated_halves_have_their_weights() -> None:
    first, second = torch.randn(4, 6), torch.randn(4, 3)
    module = Concatenated(torch.nn.Identity(), torch.nn.Linear(6, 3), 0.5)
    module.second = torch.nn.Sequential(torch.nn.Flatten())
    module.second.forward = lambda _: second  # type: ignore[method-assign]
    rows = module(first)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(
        rows[:, 6:].norm(dim=1) / rows[:, :6].norm(dim=1), torch.full((4,), 0.5)
    )


def test_whitening_as_a_layer_at_several_strengths() -> None:
    values = (RNG.standard_normal((500, 8)) * np.arange(1, 9)).astype(np.float32)
    for strength, ratio in ((0.0, 8.0), (0.5, 8**0.5), (1.0, 1.0)):
        whitening = LinearProjection.fit(values, 8, strength)
        assert whitening is not None
        projected = (values - whitening.mean) @ whitening.projection
        spread = np.sqrt(np.diag(np.cov(projected.T)))
        assert spread.max() / spread.min() == pytest.approx(ratio, rel=0.1)
        layer = projection_layer(whitening)(torch.from_numpy(values)).detach().numpy()
        np.testing.assert_allclose(layer, projected, atol=1e-4)
    assert LinearProjection.fit(values[:15], 8) is None
    assert LinearProjection.fit(np.ones((50, 8), np.float32), 8) is None


def test_zero_rows_stay_zero() -> None:
    rows = UnitLength()(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_retained_memory_changes_no_result_and_no_error() -> None:
    with pytest.raises(ZeroDivisionError), retain_memory():
        _ = 1 // int(torch.zeros(1000, 1000).sum())
    with retain_memory():
        assert torch.ones(1000, 1000).sum() == 1e6
