"""Geometric verification of a query and a result by local features.

SIFT features (Lowe 2004), compared as RootSIFT (Arandjelović and Zisserman 2012), are matched
between two images. An affine map that fits many matches is searched as in Philbin et al. 2007
("Object retrieval with large vocabularies and fast spatial matching"): each match proposes a map
by its position, scale and orientation, so that nothing is sampled at random. Matches that fit the
best map are inliers; re-ranking moves results with many inliers to the front. It needs texture,
such as prints, patterns or writing; plain objects have no inliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.cancellation import check_cancelled
from lookalike.config import settings
from lookalike.errors import InputError, MissingDependencyError
from lookalike.images.decode import resize_image, shrink_to
from lookalike.types import ImageArray

MIN_INLIERS = 6
"""Inliers of a verified match; of 8,973 pairs of unrelated images none had as many."""

MAX_FEATURES = 800
"""Features of a candidate."""

MAX_QUERY_FEATURES = 2000
"""Features of a query, whose background may have most of them."""

_MAX_SIDE = 480
"""Larger images are downscaled to this many pixels on the longer side."""

_MIN_SIDE, _ENLARGED_SIDE, _MAX_ENLARGEMENT = 200, 256, 4.0
"""Images below the first size are enlarged to the second, at most by this factor."""

_CONTRAST_THRESHOLD = 0.02
"""Half of OpenCV's default, for objects in the shade."""

_MAX_RATIO = 0.8
"""Largest distance of the nearest descriptor by that of the second nearest (Lowe 2004, 7.1)."""

_TOLERANCE = 8.0
"""Largest error of an inlier in pixels, in both images; perspective is not affine."""

_PROPOSAL_TOLERANCE = 24.0
"""The same for the map that a single match proposes."""

_MAX_PROPOSALS, _MAX_REFINED, _MAX_ROUNDS = 200, 10, 4
"""Maps proposed, maps refined, and rounds of refinement of each."""

_MIN_MATCHES = 4
"""Matches needed to fit a map."""

_MIN_BREADTH = 0.05
"""Breadth by length of the matches' positions below which only a line is fitted."""

_MAX_SCALE, _MAX_STRETCH = 8.0, 4.0
"""Limits of a plausible map: its scale up or down, and the ratio of its axes' scales."""


@dataclass(frozen=True, slots=True)
class Features:
    """Local features of one image, largest first.

    ``points (k, 2)`` (x, y) and ``sizes (k,)`` are in pixels of the image, ``angles (k,)`` in
    radians; ``descriptors (k, 128)`` are unit-length RootSIFT; all float32. ``pixel`` is the size
    of a pixel of the resized image, in which they were detected, in pixels of the image.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    sizes: NDArray[np.float32]
    angles: NDArray[np.float32]
    pixel: float


@dataclass(frozen=True, slots=True)
class GeometricMatch:
    """Inliers of a query and a candidate: points ``(i, 2)`` float32, x and y in pixels.

    ``positions (i, 2)`` are those of the candidate as shares of its width and height, 0 to 1.

    ``affine (3, 3)`` float64 maps the query's ``(x, y, 1)`` to the candidate's; None without
    inliers.
    """

    query_points: NDArray[np.float32]
    candidate_points: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
    positions: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    @property
    def inlier_count(self) -> int:
        """Number of inliers at distinct positions: 0, or at least 4."""
        return len(self.query_points)


_NO_MATCH = GeometricMatch(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))


def reduce_image(image: ImageArray) -> ImageArray:
    """Return what :func:`extract_features` uses of an image: gray ``(H, W)``, at most 480 a side.

    Of the result it detects the same features. Images that are compared are reduced one by one as
    they are decoded, so that never many are in memory at full size.
    """
    return np.asarray(reduce_decoded(Image.fromarray(image)))


def reduce_decoded(image: Image.Image) -> Image.Image:
    """Reduce an image of Pillow like :func:`reduce_image`, in less memory."""
    return shrink_to(_MAX_SIDE)(image.convert("L"))


def extract_features(image: ImageArray, *, max_features: int = MAX_FEATURES) -> Features:
    """Detect the ``max_features`` largest local features of an image.

    Features of highest contrast would lie on the background if that is grass or gravel: of 48
    street photographs of printed items 83 % were verified with the largest features, 73 % with
    those of highest contrast, and 94 % with the 2,000 largest.

    Raises:
        MissingDependencyError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        package = "opencv-python-headless"
        raise MissingDependencyError(package, "geometric re-ranking", "geometric") from error
    gray = _working_size(reduce_image(image))
    sift = cv2.SIFT.create(contrastThreshold=_CONTRAST_THRESHOLD, enable_precise_upscale=True)
    keypoints, descriptors = sift.detectAndCompute(gray, None)
    values = np.array([(*p.pt, p.size, p.angle) for p in keypoints], np.float64).reshape(-1, 4)
    values = values[largest := np.argsort(-values[:, 2], kind="stable")[:max_features]]
    pixels = np.array(image.shape[1::-1]) / gray.shape[::-1]
    pixel = float(pixels.max())
    counts = np.zeros((0, 128), np.float32) if descriptors is None else descriptors[largest]
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return Features(
        points=((values[:, :2] + 0.5) * pixels - 0.5).astype(np.float32),
        descriptors=np.sqrt(counts / sums).astype(np.float32),
        sizes=(values[:, 2] * pixel).astype(np.float32),
        angles=np.deg2rad(values[:, 3]).astype(np.float32),
        pixel=pixel,
    )


def match_features(query: Features, candidate: Features) -> GeometricMatch:
    """Match the features of two images and return the inliers of the best affine map.

    Affine maps rather than homographies, which any four wrong matches determine: 5 % of unrelated
    pairs had inliers with homographies, 1 % with affine maps, and 0.05 % with those proposed by a
    match's own scale and orientation. As many true pairs were verified; the tolerance allows for
    perspective. Maps that mirror, stretch by more than 4 or scale by more than 8 are refused.
    """
    pairs = _match_descriptors(query.descriptors, candidate.descriptors)
    if len(pairs) < _MIN_MATCHES:
        return _NO_MATCH
    query_points, candidate_points = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
    source = query_points / np.float64(query.pixel)
    target = candidate_points / np.float64(candidate.pixel)
    proposals = _propose_maps(query, candidate, pairs[:: -(-len(pairs) // _MAX_PROPOSALS)])
    proposals = proposals[_plausible(proposals)]
    support = (_errors(proposals, source, target) < _PROPOSAL_TOLERANCE).sum(axis=1)
    best = _NO_MATCH
    for index in np.argsort(-support, kind="stable")[:_MAX_REFINED]:
        if support[index] < max(_MIN_MATCHES, best.inlier_count + 1):
            break
        affine = _refine_map(proposals[index], source, target)
        inliers = np.flatnonzero(_errors(affine[None], source, target)[0] < _TOLERANCE)
        for points in (source, target):  # SIFT detects several features at some positions
            cells = np.rint(points[inliers] / 2)
            inliers = inliers[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
        if len(inliers) >= max(_MIN_MATCHES, best.inlier_count + 1):
            affine = candidate.pixel * affine / (query.pixel, query.pixel, 1)
            affine = np.vstack([affine, (0, 0, 1)])
            best = GeometricMatch(query_points[inliers], candidate_points[inliers], affine)
    return best


def verify_candidates(
    query: ImageArray, candidates: Sequence[ImageArray | None]
) -> list[GeometricMatch | None]:
    """Match a query with each candidate image in threads; None for unreadable images.

    The result is the same for images of :func:`reduce_image`, of which the points are.

    Raises:
        MissingDependencyError: OpenCV is not installed.
        CancelledError: the work was cancelled, or its time is over.
    """
    features = extract_features(query, max_features=MAX_QUERY_FEATURES)

    def verify(candidate: ImageArray | None) -> GeometricMatch | None:
        check_cancelled()
        if candidate is None:
            return None
        reduced = reduce_image(candidate)
        match = match_features(features, extract_features(reduced))
        shares = (match.candidate_points + 0.5) / np.array(reduced.shape[1::-1], np.float32)
        return replace(match, positions=np.clip(shares, 0, 1))

    with ThreadPoolExecutor(settings().threads, thread_name_prefix="lookalike-geometric") as pool:
        matches = [pool.submit(copy_context().run, verify, each) for each in candidates]
        try:
            return [match.result() for match in matches]
        finally:
            for match in matches:
                match.cancel()


def rerank_order(distances: Sequence[float], inliers: Sequence[int | None]) -> list[int]:
    """Return the new order of results, as indices into the old one.

    Results with at least :data:`MIN_INLIERS` inliers come first, by decreasing inliers, then by
    distance. All others keep their order, including those without a count (None).

    Raises:
        InputError: the lengths differ.
    """
    if len(distances) != len(inliers):
        raise InputError(f"got {len(distances)} distances, but {len(inliers)} inlier counts")
    verified = [index for index, count in enumerate(inliers) if (count or 0) >= MIN_INLIERS]
    verified.sort(key=lambda index: (-(inliers[index] or 0), distances[index]))
    return list(dict.fromkeys([*verified, *range(len(inliers))]))


def _working_size(gray: ImageArray) -> ImageArray:
    """Enlarge a small image to the size at which features are detected."""
    longer = max(gray.shape)
    if longer >= _MIN_SIDE:
        return gray
    scale = min(_ENLARGED_SIDE / longer, _MAX_ENLARGEMENT)
    height, width = (round(length * scale) for length in gray.shape)
    return resize_image(gray, height, width, filter="bicubic")


def _match_descriptors(
    query: NDArray[np.float32], candidate: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Return ``(m, 2)`` indices of mutual nearest descriptors that pass the ratio test."""
    if len(query) < 2 or len(candidate) < 2:
        return np.zeros((0, 2), np.intp)
    similarity = query @ candidate.T  # (k, l)
    each = np.arange(len(query))
    nearest = similarity.argmax(axis=1)
    mutual = similarity.argmax(axis=0)[nearest] == each
    first = 2 - 2 * similarity[each, nearest]  # squared distance
    similarity[each, nearest] = -1
    second = 2 - 2 * similarity.max(axis=1)
    passed = mutual & (first < _MAX_RATIO**2 * second)
    return np.stack([each[passed], nearest[passed]], axis=1)


def _propose_maps(
    query: Features, candidate: Features, pairs: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the similarity ``(h, 2, 3)`` that maps each match's query feature to the other."""
    i, j = pairs.T
    scale = (candidate.sizes[j] / candidate.pixel) / (
        query.sizes[i].astype(np.float64) / query.pixel
    )
    angle = candidate.angles[j].astype(np.float64) - query.angles[i]
    x, y = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([(x, -y), (y, x)]).transpose(2, 0, 1)
    mapped = np.einsum("hij,hj->hi", linear, query.points[i] / query.pixel)
    return np.dstack([linear, candidate.points[j] / candidate.pixel - mapped])


def _plausible(maps: NDArray[np.float64]) -> NDArray[np.bool_]:
    large, small = np.linalg.svd(maps[:, :, :2], compute_uv=False).T
    in_range = (large <= _MAX_SCALE) & (small >= 1 / _MAX_SCALE) & (large <= _MAX_STRETCH * small)
    return np.asarray(in_range & (np.linalg.det(maps[:, :, :2]) > 0))


def _errors(
    maps: NDArray[np.float64], source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the transfer error of each match in pixels, the larger of both images: ``(h, m)``."""
    linear = maps[:, :, :2].transpose(0, 2, 1)
    forward = source @ linear + maps[:, None, :, 2] - target  # (h, m, 2)
    backward = forward @ np.linalg.inv(linear)
    return np.asarray(np.maximum(*(np.linalg.norm(v, axis=2) for v in (forward, backward))))


def _refine_map(
    affine: NDArray[np.float64], source: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Refit a map ``(2, 3)`` to its inliers until it converges (Chum et al. 2003).

    Across inliers on a line, the linear part stays as proposed.
    """
    tolerance = _PROPOSAL_TOLERANCE
    for _ in range(_MAX_ROUNDS):
        inliers = _errors(affine[None], source, target)[0] < tolerance
        if inliers.sum() < _MIN_MATCHES:
            break
        source_mean, target_mean = source[inliers].mean(axis=0), target[inliers].mean(axis=0)
        centered, linear = source[inliers] - source_mean, affine[:, :2]
        residual = target[inliers] - target_mean - centered @ linear.T
        linear = linear + np.linalg.lstsq(centered, residual, rcond=_MIN_BREADTH)[0].T
        fitted = np.column_stack([linear, target_mean - linear @ source_mean])
        if not _plausible(fitted[None])[0]:
            break
        affine, tolerance = fitted, _TOLERANCE
    return affine
