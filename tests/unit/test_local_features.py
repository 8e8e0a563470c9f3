"""Spatial verification: known warps are found again, other images have nothing in common."""

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
    return [resize_image(np.ascontiguousarray(part), SIDE, SIDE, filter="bicubic") for part in parts]


def known(
    degrees: float, scale: float, *, shear: float = 0.0, tilt: float = 0.0
) -> NDArray[np.float64]:
    """Return a map about the center of a piece, ``(3, 3)``; with a tilt a homography."""
    angle, half = np.deg2rad(degrees), SIDE / 2
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    about = np.array([(cos, shear - sin, 0), (sin, cos, 0), (tilt / half, 0, 1)])
    center = np.array([(1, 0, half), (0, 1, half), (0, 0, 1)])
    moved: NDArray[np.float64] = center @ about @ np.linalg.inv(center)
    return moved


def warped(image: ImageArray, forward: NDArray[np.float64], ground: int = 90) -> ImageArray:
    """Move an image's pixels; Pillow's points are the pixels' corners."""
    half = np.array([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)])
    back = np.linalg.inv(half @ forward @ np.linalg.inv(half))
    numbers = tuple((back / back[2, 2]).ravel()[:8])
    filled = Image.fromarray(image).transform(
        image.shape[1::-1],
        Image.Transform.PERSPECTIVE,
        numbers,
        Image.Resampling.BICUBIC,
        fillcolor=(ground, ground, ground) if image.ndim == 3 else ground,
    )
    return np.asarray(filled)


def relit(image: ImageArray, seed: int = 0) -> ImageArray:
    """Darken from one side to the other, and add noise."""
    rng = np.random.default_rng(seed)
    light = np.linspace(0.9, 0.5, image.shape[1]).reshape(1, -1, *[1] * (image.ndim - 2))
    noisy = image * light + 10 + rng.normal(0, 6, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def mapped(by: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    moved = np.column_stack([points, np.ones(len(points))]) @ by.T
    return np.asarray(moved[:, :2] / moved[:, 2:])


def missed(match: GeometricMatch, forward: NDArray[np.float64]) -> float:
    """Return by how many pixels a match maps the middle of the image wrongly, at most."""
    assert match.affine is not None
    grid = np.stack(np.meshgrid(*[np.linspace(70, 250, 7)] * 2), axis=-1).reshape(-1, 2)
    wrong = mapped(match.affine, grid) - mapped(forward, grid)
    return float(np.linalg.norm(wrong, axis=1).max())


def same(one: GeometricMatch | None, other: GeometricMatch | None) -> bool:
    assert one is not None
    assert other is not None
    assert one.affine is not None
    assert other.affine is not None
    return (
        np.array_equal(one.query_points, other.query_points)
        and np.array_equal(one.row_points, other.row_points)
        and np.array_equal(one.affine, other.affine)
    )


@pytest.mark.parametrize(
    "forward",
    [
        known(0, 1),
        known(25, 0.8),
        known(-140, 0.6),
        known(90, 0.5),
        known(15, 1.6),
        known(10, 0.8, shear=0.25),
    ],
    ids=["as it is", "turned", "far round", "a quarter", "larger", "sheared"],
)
def test_a_photograph_moved_relit_and_noisy_is_found_where_it_is(
    house: ImageArray, forward: NDArray[np.float64]
) -> None:
    view = relit(warped(house, forward))
    match = match_features(extract_features(view), extract_features(house))
    assert match.inlier_count == len(match.row_points) >= 25
    assert missed(match, np.linalg.inv(forward)) < 3
    assert match.query_points.dtype == match.row_points.dtype == np.float32
    assert match.affine is not None
    there = mapped(match.affine, match.query_points)
    assert np.linalg.norm(there - match.row_points, axis=1).max() < 8


def test_perspective_is_within_the_tolerance(house: ImageArray) -> None:
    forward = known(12, 0.75, tilt=0.12)
    match = match_features(extract_features(relit(warped(house, forward))), extract_features(house))
    assert match.inlier_count >= 50
    there = mapped(np.linalg.inv(forward), match.query_points)
    wrong = np.linalg.norm(there - match.row_points, axis=1)
    assert np.median(wrong) < 1.5
    assert wrong.max() < 8


@pytest.mark.parametrize("name", SKIMAGE)
def test_photographs_of_scikit_image(name: str, house: ImageArray) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    image = resize_image(decode(Path(data.__file__).parent / f"{name}.png"), SIDE, SIDE)
    forward = known(-20, 0.7, shear=0.1)
    row = extract_features(image)
    match = match_features(extract_features(relit(warped(image, forward))), row)
    assert match.inlier_count >= 20
    assert missed(match, np.linalg.inv(forward)) < 3
    assert match_features(extract_features(house), row).inlier_count == 0


def test_other_photographs_have_nothing_in_common(
    pieces: list[ImageArray], house: ImageArray, flower: ImageArray
) -> None:
    found = extract_features(flower)
    for other in map(extract_features, (house, *pieces)):
        match = match_features(found, other)
        assert match_features(other, found).inlier_count == 0
        assert (match.inlier_count, match.affine) == (0, None)
        assert match.query_points.shape == match.row_points.shape == (0, 2)


def test_points_are_in_the_image_s_own_pixels(house: ImageArray) -> None:
    large = resize_image(house, 4 * SIDE, 4 * SIDE, filter="bicubic")
    small = resize_image(house, SIDE // 4, SIDE // 4)
    for image, scale in ((large, 4.0), (small, 0.25)):
        match = match_features(extract_features(house), extract_features(image))
        assert match.inlier_count >= 20
        assert match.affine is not None
        np.testing.assert_allclose(match.affine[:2, :2], np.eye(2) * scale, atol=0.02 * scale)
    # What is refused is judged at the sizes looked at: 16 times as large is no scale at all there.
    assert match_features(extract_features(large), extract_features(small)).inlier_count >= 20


def test_features_are_unit_length_and_the_largest(house: ImageArray) -> None:
    found = extract_features(house)
    assert found.points.shape == (len(found.points), 2)
    assert 100 < len(found.points) <= MAX_FEATURES
    assert found.descriptors.shape == (len(found.points), 128)
    assert found.points.dtype == found.descriptors.dtype == np.float32
    assert np.all((found.points >= -1) & (found.points <= SIDE))
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert np.all(np.diff(found.sizes) <= 0)
    few = extract_features(house, max_features=50)
    np.testing.assert_array_equal(few.points, found.points[:50])


def test_small_icons_are_enlarged(house: ImageArray, flower: ImageArray) -> None:
    icons = [resize_image(image, 64, 64) for image in (house, flower)]
    assert min(len(extract_features(icon).points) for icon in icons) >= 50
    match = match_features(extract_features(relit(house)), extract_features(icons[0]))
    assert match.inlier_count >= MIN_INLIERS
    assert match.row_points.max() < 64


def given(points: NDArray[np.float64], seed: int = 0, turn: float = 0, size: float = 4) -> Features:
    """Return features at these points, each with a descriptor of its own."""
    drawn = np.random.default_rng(seed).random((len(points), 128)).astype(np.float32) ** 4
    descriptors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    count = len(points)
    return Features(
        points.astype(np.float32),
        descriptors,
        np.full(count, size, np.float32),
        np.full(count, turn, np.float32),
        1.0,
    )


SCATTERED = np.random.default_rng(1).uniform(0, 3000, (40, 2))


@pytest.mark.parametrize(
    ("moved", "size", "found"),
    [
        (SCATTERED + 20, 4, 40),
        (SCATTERED * 7, 28, 40),
        (SCATTERED * 9, 36, 0),
        (SCATTERED / 9, 4 / 9, 0),
        (SCATTERED * (-1, 1), 4, 0),
        (SCATTERED * (1, 0.01), 4, 0),
        (SCATTERED * 0 + 5, 4, 0),
    ],
    ids=["moved", "scaled", "too large", "too small", "mirrored", "flat", "one place"],
)
def test_maps_that_no_view_makes_are_refused(
    moved: NDArray[np.float64], size: float, found: int
) -> None:
    match = match_features(given(SCATTERED), given(moved, size=size))
    assert match.inlier_count == found
    assert (match.affine is None) == (found == 0)


def test_a_line_of_points_is_enough() -> None:
    line = np.column_stack([np.arange(12) * 20.0, np.full(12, 40.0)])
    match = match_features(given(line), given(line * 0.5 + 9, size=2))
    assert match.inlier_count == 12
    assert match.affine is not None
    np.testing.assert_allclose(match.affine, [(0.5, 0, 9), (0, 0.5, 9), (0, 0, 1)], atol=1e-4)


def test_fewer_than_four_count_as_none_and_a_place_counts_once() -> None:
    assert match_features(given(SCATTERED[:3]), given(SCATTERED[:3])).inlier_count == 0
    assert match_features(given(SCATTERED[:4]), given(SCATTERED[:4])).inlier_count == 4
    doubled = np.repeat(SCATTERED[:5], 3, axis=0)
    assert match_features(given(doubled), given(doubled)).inlier_count == 5


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
def test_images_with_little_in_them_do_no_harm(name: str, house: ImageArray) -> None:
    plain = PLAIN[name]()
    found = extract_features(plain)
    assert found.points.shape[1:] == (2,)
    assert found.descriptors.shape == (len(found.points), 128)
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.descriptors).all()
    assert match_features(extract_features(house), found).inlier_count == 0
    assert match_features(found, extract_features(house)).inlier_count == 0
    assert match_features(found, found).inlier_count >= 0


def test_gray_and_color_are_verified_with_each_other(house: ImageArray) -> None:
    gray = to_channels(house, 1)[:, :, 0]
    match = match_features(extract_features(gray), extract_features(warped(house, known(8, 0.9))))
    assert match.inlier_count >= 50


@pytest.mark.parametrize("threads", ["1", "3"])
def test_rank_finds_the_right_one_among_eight(
    pieces: list[ImageArray], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_THREADS", threads)
    query = relit(warped(pieces[5], known(20, 0.6)))
    rows = [*pieces[:3], None, *pieces[3:]]
    found = verify_candidates(query, rows)
    assert found[3] is None
    counts = [None if match is None else match.inlier_count for match in found]
    assert rerank_order(range(len(rows)), counts)[0] == 6
    assert [index for index, count in enumerate(counts) if (count or 0) >= MIN_INLIERS] == [6]
    assert same(found[6], verify_candidates(query, rows)[6])
    assert verify_candidates(query, []) == []


def test_the_same_twice_is_the_same(house: ImageArray) -> None:
    view = relit(warped(house, known(20, 0.7)))
    one, other = (match_features(extract_features(view), extract_features(house)) for _ in range(2))
    assert same(one, other)
    found, again = extract_features(view), extract_features(view.copy())
    np.testing.assert_array_equal(found.descriptors, again.descriptors)


def test_verified_hits_come_first_and_others_keep_their_order() -> None:
    least = MIN_INLIERS
    assert rerank_order([], []) == []
    assert rerank_order([0.1, 0.2, 0.3], [0, least - 1, 4]) == [0, 1, 2]
    assert rerank_order([0.1, 0.2, 0.3, 0.4], [0, least, None, 90]) == [3, 1, 0, 2]
    assert rerank_order([0.3, 0.2, 0.1, 0.2], [9, 9, 9, 9]) == [2, 1, 3, 0]
    assert rerank_order([0.5, 0.5, 0.5, 0.5], [9, 0, 9, 9]) == [0, 2, 3, 1]
    rng = np.random.default_rng(0)
    distances, inliers = rng.random(200), rng.integers(0, 20, 200)
    slow = sorted(
        range(200),
        key=lambda i: (0, -inliers[i], distances[i]) if inliers[i] >= least else (1, 0, i),
    )
    assert rerank_order(distances.tolist(), inliers.tolist()) == slow
    with pytest.raises(InputError, match="2 distances for 1 numbers of inliers"):
        rerank_order([0.1, 0.2], [3])


def test_without_opencv_the_extra_is_named(
    house: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = r"spatial needs the package 'opencv-python-headless': .*\[spatial\]"
    with pytest.raises(MissingDependencyError, match=said):
        verify_candidates(house, [None])


def test_matches_are_drawn(house: ImageArray) -> None:
    gray = to_channels(house, 1)[:100, :, 0]
    sizes = []
    for row, title in ((house, ""), (house, "a title"), (np.full((40, 90), 9, np.uint8), "")):
        match = match_features(extract_features(gray), extract_features(row))
        figure = figures.matches(gray, row, match, title)
        axes = figure.axes[0]
        assert axes.get_title().startswith(title)
        said = f"{match.inlier_count} inliers" if match.inlier_count else "no inliers"
        assert axes.get_title().endswith(said)
        assert len(axes.collections[0].get_segments()) == match.inlier_count  # type: ignore[attr-defined]
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        sizes.append(len(buffer.getvalue()))
    assert min(sizes[:2]) > sizes[2] > 1000
