"""Geometric verification: known warps are recovered, unrelated images have no inliers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from lookalike.errors import InputError, MissingDependencyError
from lookalike.images.decode import decode, resize_image, to_channels
from lookalike.images.local_features import (
    MAX_FEATURES,
    MIN_INLIERS,
    Features,
    GeometricMatch,
    extract_features,
    match_features,
    rerank_order,
    verify_candidates,
)
from lookalike.report import figures
from lookalike.types import ImageArray

pytestmark = pytest.mark.slow

SIDE = 320
SKIMAGE = ("astronaut", "camera", "chelsea", "coffee", "page", "text")


@pytest.fixture(scope="module")
def house() -> ImageArray:
    """A part of a photograph of a Chinese house, ``(320, 320, 3)``."""
    return np.ascontiguousarray(load_sample_images().images[0][107:, :SIDE])


@pytest.fixture(scope="module")
def flower() -> ImageArray:
    return np.ascontiguousarray(load_sample_images().images[1][53 : 53 + SIDE, 160 : 160 + SIDE])


@pytest.fixture(scope="module")
def pieces() -> list[ImageArray]:
    """Eight parts of the house's photograph that do not overlap, ``(320, 320, 3)``."""
    photograph = load_sample_images().images[0][107:]
    corners = [(top, left) for top in (0, 160) for left in (0, 160, 320, 480)]
    parts = [photograph[top : top + 160, left : left + 160] for top, left in corners]
    return [
        resize_image(np.ascontiguousarray(part), SIDE, SIDE, filter="bicubic") for part in parts
    ]


def warp(
    degrees: float, scale: float, *, shear: float = 0.0, tilt: float = 0.0
) -> NDArray[np.float64]:
    """Return a map about the center of an image, ``(3, 3)``; with a tilt a homography."""
    angle, half = np.deg2rad(degrees), SIDE / 2
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([(cos, shear - sin, 0), (sin, cos, 0), (tilt / half, 0, 1)])
    center = np.array([(1, 0, half), (0, 1, half), (0, 0, 1)])
    centered: NDArray[np.float64] = center @ linear @ np.linalg.inv(center)
    return centered


def apply_warp(image: ImageArray, forward: NDArray[np.float64], background: int = 90) -> ImageArray:
    """Warp an image; Pillow's coordinates refer to the corners of pixels."""
    half = np.array([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)])
    back = np.linalg.inv(half @ forward @ np.linalg.inv(half))
    coefficients = tuple((back / back[2, 2]).ravel()[:8])
    warped = Image.fromarray(image).transform(
        image.shape[1::-1],
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=(background,) * 3 if image.ndim == 3 else background,
    )
    return np.asarray(warped)


def relit(image: ImageArray, seed: int = 0) -> ImageArray:
    """Add a brightness gradient and noise."""
    rng = np.random.default_rng(seed)
    light = np.linspace(0.9, 0.5, image.shape[1]).reshape(1, -1, *[1] * (image.ndim - 2))
    noisy = image * light + 10 + rng.normal(0, 6, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def transform(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float64]:
    projected = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(projected[:, :2] / projected[:, 2:])


def max_error(match: GeometricMatch, forward: NDArray[np.floating]) -> float:
    """Return the largest error of a match's map in the center of the image, in pixels."""
    assert match.affine is not None
    grid = np.stack(np.meshgrid(*[np.linspace(70, 250, 7)] * 2), axis=-1).reshape(-1, 2)
    error = transform(match.affine, grid) - transform(forward, grid)
    return float(np.linalg.norm(error, axis=1).max())


def equal(one: GeometricMatch | None, other: GeometricMatch | None) -> bool:
    assert one is not None
    assert other is not None
    assert one.affine is not None
    assert other.affine is not None
    return (
        np.array_equal(one.query_points, other.query_points)
        and np.array_equal(one.candidate_points, other.candidate_points)
        and np.array_equal(one.affine, other.affine)
    )


@pytest.mark.parametrize(
    "forward",
    [
        warp(0, 1),
        warp(25, 0.8),
        warp(-140, 0.6),
        warp(90, 0.5),
        warp(15, 1.6),
        warp(10, 0.8, shear=0.25),
    ],
    ids=["identity", "rotated", "far rotated", "quarter turn", "enlarged", "sheared"],
)
def test_affine_warps_are_recovered(house: ImageArray, forward: NDArray[np.float64]) -> None:
    view = relit(apply_warp(house, forward))
    match = match_features(extract_features(view), extract_features(house))
    assert match.inlier_count == len(match.candidate_points) >= 25
    assert max_error(match, np.linalg.inv(forward)) < 3
    assert match.query_points.dtype == match.candidate_points.dtype == np.float32
    assert match.affine is not None
    projected = transform(match.affine, match.query_points)
    assert np.linalg.norm(projected - match.candidate_points, axis=1).max() < 8


def test_perspective_is_tolerated(house: ImageArray) -> None:
    forward = warp(12, 0.75, tilt=0.12)
    match = match_features(
        extract_features(relit(apply_warp(house, forward))), extract_features(house)
    )
    assert match.inlier_count >= 50
    projected = transform(np.linalg.inv(forward), match.query_points)
    errors = np.linalg.norm(projected - match.candidate_points, axis=1)
    assert np.median(errors) < 1.5
    assert errors.max() < 8


@pytest.mark.parametrize("name", SKIMAGE)
def test_warps_of_scikit_image_photographs_are_recovered(name: str, house: ImageArray) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    image = resize_image(decode(Path(data.__file__).parent / f"{name}.png"), SIDE, SIDE)
    forward = warp(-20, 0.7, shear=0.1)
    features = extract_features(image)
    match = match_features(extract_features(relit(apply_warp(image, forward))), features)
    assert match.inlier_count >= 20
    assert max_error(match, np.linalg.inv(forward)) < 3
    assert match_features(extract_features(house), features).inlier_count == 0


def test_unrelated_photographs_have_no_inliers(
    pieces: list[ImageArray], house: ImageArray, flower: ImageArray
) -> None:
    features = extract_features(flower)
    for other in map(extract_features, (house, *pieces)):
        match = match_features(features, other)
        assert match_features(other, features).inlier_count == 0
        assert (match.inlier_count, match.affine) == (0, None)
        assert match.query_points.shape == match.candidate_points.shape == (0, 2)


def test_points_are_in_pixels_of_the_image(house: ImageArray) -> None:
    large = resize_image(house, 4 * SIDE, 4 * SIDE, filter="bicubic")
    small = resize_image(house, SIDE // 4, SIDE // 4)
    for image, scale in ((large, 4.0), (small, 0.25)):
        match = match_features(extract_features(house), extract_features(image))
        assert match.inlier_count >= 20
        assert match.affine is not None
        np.testing.assert_allclose(match.affine[:2, :2], np.eye(2) * scale, atol=0.02 * scale)
    # Scale limits apply after resizing, where an image 16 times as large has the same size.
    assert match_features(extract_features(large), extract_features(small)).inlier_count >= 20


def test_largest_features_are_kept(house: ImageArray) -> None:
    features = extract_features(house)
    assert features.points.shape == (len(features.points), 2)
    assert 100 < len(features.points) <= MAX_FEATURES
    assert features.descriptors.shape == (len(features.points), 128)
    assert features.points.dtype == features.descriptors.dtype == np.float32
    assert np.all((features.points >= -1) & (features.points <= SIDE))
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert np.all(np.diff(features.sizes) <= 0)
    few = extract_features(house, max_features=50)
    np.testing.assert_array_equal(few.points, features.points[:50])


def test_small_icons_are_enlarged(house: ImageArray, flower: ImageArray) -> None:
    icons = [resize_image(image, 64, 64) for image in (house, flower)]
    assert min(len(extract_features(icon).points) for icon in icons) >= 50
    match = match_features(extract_features(relit(house)), extract_features(icons[0]))
    assert match.inlier_count >= MIN_INLIERS
    assert match.candidate_points.max() < 64


def features_at(
    points: NDArray[np.float64], seed: int = 0, angle: float = 0, size: float = 4
) -> Features:
    """Return features at these points with distinct descriptors."""
    drawn = np.random.default_rng(seed).random((len(points), 128)).astype(np.float32) ** 4
    descriptors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    count = len(points)
    return Features(
        points.astype(np.float32),
        descriptors,
        np.full(count, size, np.float32),
        np.full(count, angle, np.float32),
        1.0,
    )


SCATTERED = np.random.default_rng(1).uniform(0, 3000, (40, 2))


@pytest.mark.parametrize(
    ("points", "size", "inliers"),
    [
        (SCATTERED + 20, 4, 40),
        (SCATTERED * 7, 28, 40),
        (SCATTERED * 9, 36, 0),
        (SCATTERED / 9, 4 / 9, 0),
        (SCATTERED * (-1, 1), 4, 0),
        (SCATTERED * (1, 0.01), 4, 0),
        (SCATTERED * 0 + 5, 4, 0),
    ],
    ids=["shifted", "scaled", "too large", "too small", "mirrored", "flat", "one position"],
)
def test_implausible_maps_are_refused(
    points: NDArray[np.float64], size: float, inliers: int
) -> None:
    match = match_features(features_at(SCATTERED), features_at(points, size=size))
    assert match.inlier_count == inliers
    assert (match.affine is None) == (inliers == 0)


def test_collinear_points_can_match() -> None:
    line = np.column_stack([np.arange(12) * 20.0, np.full(12, 40.0)])
    match = match_features(features_at(line), features_at(line * 0.5 + 9, size=2))
    assert match.inlier_count == 12
    assert match.affine is not None
    np.testing.assert_allclose(match.affine, [(0.5, 0, 9), (0, 0.5, 9), (0, 0, 1)], atol=1e-4)


def test_at_least_four_inliers_at_distinct_positions() -> None:
    assert match_features(features_at(SCATTERED[:3]), features_at(SCATTERED[:3])).inlier_count == 0
    assert match_features(features_at(SCATTERED[:4]), features_at(SCATTERED[:4])).inlier_count == 4
    doubled = np.repeat(SCATTERED[:5], 3, axis=0)
    assert match_features(features_at(doubled), features_at(doubled)).inlier_count == 5


PLAIN: dict[str, Callable[[], ImageArray]] = {
    "white": lambda: np.full((200, 300, 3), 255, np.uint8),
    "gray white": lambda: np.full((200, 300), 255, np.uint8),
    "one pixel": lambda: np.zeros((1, 1, 3), np.uint8),
    "a line": lambda: np.zeros((1, 5000), np.uint8),
    "tall": lambda: np.random.default_rng(0).integers(0, 256, (900, 2), dtype=np.uint8),
    "16 px": lambda: np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8),
    "dots": lambda: np.tile(np.array([(0, 255), (255, 0)], np.uint8), (80, 80)),
    "squares": lambda: np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((30, 30))).astype(np.uint8),
}


@pytest.mark.parametrize("name", PLAIN)
def test_images_without_texture_have_no_inliers(name: str, house: ImageArray) -> None:
    plain = PLAIN[name]()
    features = extract_features(plain)
    assert features.points.shape[1:] == (2,)
    assert features.descriptors.shape == (len(features.points), 128)
    assert np.isfinite(features.points).all()
    assert np.isfinite(features.descriptors).all()
    assert match_features(extract_features(house), features).inlier_count == 0
    assert match_features(features, extract_features(house)).inlier_count == 0
    assert match_features(features, features).inlier_count >= 0


def test_gray_matches_color(house: ImageArray) -> None:
    gray = to_channels(house, 1)[:, :, 0]
    match = match_features(
        extract_features(gray), extract_features(apply_warp(house, warp(8, 0.9)))
    )
    assert match.inlier_count >= 50


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_correct_candidate_of_eight_is_verified(
    pieces: list[ImageArray], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_THREADS", threads)
    query = relit(apply_warp(pieces[5], warp(20, 0.6)))
    candidates = [*pieces[:3], None, *pieces[3:]]
    matches = verify_candidates(query, candidates)
    assert matches[3] is None
    counts = [None if match is None else match.inlier_count for match in matches]
    assert rerank_order(range(len(candidates)), counts)[0] == 6
    assert [index for index, count in enumerate(counts) if (count or 0) >= MIN_INLIERS] == [6]
    assert equal(matches[6], verify_candidates(query, candidates)[6])
    assert verify_candidates(query, []) == []


def test_features_and_matches_are_deterministic(house: ImageArray) -> None:
    view = relit(apply_warp(house, warp(20, 0.7)))
    one, other = (match_features(extract_features(view), extract_features(house)) for _ in range(2))
    assert equal(one, other)
    first, second = extract_features(view), extract_features(view.copy())
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_verified_results_come_first_and_others_keep_their_order() -> None:
    assert rerank_order([], []) == []
    assert rerank_order([0.1, 0.2, 0.3], [0, MIN_INLIERS - 1, 4]) == [0, 1, 2]
    assert rerank_order([0.1, 0.2, 0.3, 0.4], [0, MIN_INLIERS, None, 90]) == [3, 1, 0, 2]
    assert rerank_order([0.3, 0.2, 0.1, 0.2], [9, 9, 9, 9]) == [2, 1, 3, 0]
    assert rerank_order([0.5, 0.5, 0.5, 0.5], [9, 0, 9, 9]) == [0, 2, 3, 1]
    rng = np.random.default_rng(0)
    distances, inliers = rng.random(200), rng.integers(0, 20, 200)
    slow = sorted(
        range(200),
        key=lambda i: (0, -inliers[i], distances[i]) if inliers[i] >= MIN_INLIERS else (1, 0, i),
    )
    assert rerank_order(distances.tolist(), inliers.tolist()) == slow
    with pytest.raises(InputError, match="got 2 distances, but 1 inlier counts"):
        rerank_order([0.1, 0.2], [3])


def test_missing_opencv_names_the_extra(house: ImageArray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = r"geometric re-ranking needs the package 'opencv-python-headless': .*\[geometric\]"
    with pytest.raises(MissingDependencyError, match=message):
        verify_candidates(house, [None])


def test_match_figure_shows_inliers(house: ImageArray) -> None:
    gray = to_channels(house, 1)[:100, :, 0]
    sizes = []
    for row, title in ((house, ""), (house, "a title"), (np.full((40, 90), 9, np.uint8), "")):
        match = match_features(extract_features(gray), extract_features(row))
        figure = figures.matches(gray, row, match, title)
        axes = figure.axes[0]
        assert axes.get_title().startswith(title)
        count = f"{match.inlier_count} inliers" if match.inlier_count else "no inliers"
        assert axes.get_title().endswith(count)
        assert len(axes.collections[0].get_segments()) == match.inlier_count  # type: ignore[attr-defined]
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        sizes.append(len(buffer.getvalue()))
    assert min(sizes[:2]) > sizes[2] > 1000
