"""Adapting without labels: the projection against a slow version, and small complete runs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.linalg import eigh
from sklearn.decomposition import PCA

from lookalike.encoders.base import Encoder
from lookalike.encoders.persistence import load_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.encoders.whitening import RIDGE, PrincipalComponents, fit_discriminant
from lookalike.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from lookalike.images.stylization import restyle
from lookalike.sources import Source, open_source
from lookalike.sources.sampling import sample_images
from lookalike.training.adapt import AdaptOptions, adapt
from lookalike.training.synthesis import QUERY_DOMAINS
from lookalike.types import ImageArray, Progress
from lookalike.vectors import unit_rows
from tests.conftest import Require
from tests.integration.test_cli import lookalike

pytestmark = pytest.mark.slow

DRAWN = AdaptOptions(query_domain="drawn", views_per_image=3, dim=24)


def drawing(number: int) -> Image.Image:
    """Return a few random colored shapes on white, determined by the number."""
    rng = np.random.default_rng([7, number])
    page = Image.new("RGB", (48, 48), "white")
    pen = ImageDraw.Draw(page)
    for _ in range(4):
        x, y = (int(v) for v in rng.integers(6, 26, 2))
        w, h = (int(v) for v in rng.integers(6, 16, 2))
        color = tuple(int(v) for v in rng.integers(0, 230, 3))
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((x, y, x + w, y + h), fill=color)
    return page


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("collection") / "drawings"
    folder.mkdir()
    for number in range(60):
        drawing(number).save(folder / f"{number:02}.png")
    return open_source(folder)


@pytest.fixture(scope="module")
def base(drawings: Source) -> Encoder:
    return open_encoder("pixels", sample_images(drawings))


def items_and_views(n: int = 80, views: int = 3, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(n, d)) * np.linspace(0.5, 2, d)
    noise = rng.normal(size=(n, views, d)) * np.linspace(1.5, 0.2, d)
    return rows.astype(np.float32), (rows[:, None] + noise).astype(np.float32)


def test_the_projection_solves_the_generalized_eigenproblem() -> None:
    rows, views = items_and_views()
    n, v, d = views.shape
    within = np.zeros((d, d))
    for i in range(n):
        for j in range(v):
            difference = views[i, j].astype(float) - rows[i]
            within += np.outer(difference, difference) / (n * v)
    within += RIDGE * np.trace(within) / d * np.eye(d)
    centered = rows.astype(float) - rows.mean(axis=0, dtype=float)
    _, vectors = eigh(centered.T @ centered, within)
    expected = vectors[:, ::-1][:, :5]
    projection = fit_discriminant(rows, views, 5)
    np.testing.assert_allclose(projection.mean, rows.mean(axis=0), atol=1e-6)
    signs = np.sign((projection.projection * expected).sum(axis=0))
    np.testing.assert_allclose(projection.projection * signs, expected, atol=1e-4)


def test_directions_that_vary_only_within_items_are_suppressed() -> None:
    rows, views = items_and_views()
    rows[:, 0] = 0.001 * rows[:, 0]
    views[:, :, 0] = 5 * np.random.default_rng(1).normal(size=views.shape[:2])
    projection = fit_discriminant(rows, views, 3).projection
    assert np.linalg.norm(projection[0]) < 0.05 * np.linalg.norm(projection, axis=1).max()


def test_the_projection_is_equivariant_to_rotation() -> None:
    rows, views = items_and_views()
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))
    rotation = rotation.astype(np.float32)
    a, b = fit_discriminant(rows, views, 4), fit_discriminant(rows @ rotation, views @ rotation, 4)
    before = (rows - a.mean) @ a.projection
    after = (rows @ rotation - b.mean) @ b.projection
    np.testing.assert_allclose(before @ before.T, after @ after.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30)])
def test_the_components_are_those_of_pca(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows *= np.linspace(1, 3, shape[1], dtype=np.float32)
    components = PrincipalComponents.fit(rows)
    count = min(shape[1], shape[0] - 1)
    expected = PCA(count).fit(rows.astype(float))
    assert components.components.shape == (shape[1], count)
    assert components.components.dtype == np.float32
    cosines = np.abs((components.components * expected.components_.T).sum(axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def recall_at_1(encoder: Encoder, images: list[ImageArray], views: list[ImageArray]) -> float:
    rows, queries = (unit_rows(encoder.encode(some)) for some in (images, views))
    return float(((queries @ rows.T).argmax(axis=1) == np.arange(len(rows))).mean())


def test_adapting_to_drawings_improves_recall_and_is_reproducible(
    drawings: Source, base: Encoder, tmp_path: Path
) -> None:
    adapted = adapt(drawings, encoder=base, out=tmp_path / "e", options=DRAWN)
    images = [item.image() for item in drawings]
    queries = [restyle(image, np.random.default_rng([99, i])) for i, image in enumerate(images)]
    assert recall_at_1(adapted, images, queries) > recall_at_1(base, images, queries)
    loaded = load_encoder(tmp_path / "e")
    assert (loaded.fingerprint, loaded.dim) == (adapted.fingerprint, 24)
    np.testing.assert_array_equal(loaded.encode(images), adapted.encode(images))
    assert not (tmp_path / "e" / "views").exists()
    assert adapt(drawings, encoder=base, options=DRAWN).fingerprint == adapted.fingerprint
    other = adapt(drawings, encoder=base, options=replace(DRAWN, seed=1))
    assert other.fingerprint != adapted.fingerprint
    with pytest.raises(ArtifactError, match="already exists"):
        adapt(drawings, encoder=base, out=tmp_path / "e", options=DRAWN)


@pytest.mark.parametrize("task", ["encode images", "views 1/3", "views 3/3"])
def test_an_interrupted_run_resumes_exactly(
    drawings: Source, base: Encoder, tmp_path: Path, task: str
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.task == task:
            raise KeyboardInterrupt

    out = tmp_path / "e"
    with pytest.raises(KeyboardInterrupt):
        adapt(drawings, encoder=base, out=out, options=DRAWN, progress=interrupt)
    with pytest.raises(ArtifactError, match="interrupted run; resume it with resume=True"):
        adapt(drawings, encoder=base, out=out, options=DRAWN)
    resumed = replace(DRAWN, resume=True)
    for number in range(12):
        drawing(100 + number).save(tmp_path / f"{number}.png")
    others = open_source(tmp_path)
    with pytest.raises(ArtifactError, match=r"run with other settings \(images, data\)"):
        adapt(others, encoder=base, out=out, options=replace(resumed, dim=5))
    manifest = out / "views" / "run.json"  # also one of the version before is resumed
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 3}))
    with pytest.raises(ArtifactError, match=r"run with other settings \(seed\)"):
        adapt(drawings, encoder=base, out=out, options=replace(resumed, seed=4))
    result = adapt(drawings, encoder=base, out=out, options=resumed)
    uninterrupted = adapt(drawings, encoder=base, options=DRAWN)
    assert result.fingerprint == uninterrupted.fingerprint
    np.testing.assert_array_equal(result.projection.projection, uninterrupted.projection.projection)
    with pytest.raises(ArtifactError, match="has nothing to resume"):
        adapt(drawings, encoder=base, out=tmp_path / "new", options=resumed)


def test_a_run_of_another_version_is_not_resumed(
    drawings: Source, base: Encoder, tmp_path: Path
) -> None:
    run = tmp_path / "e" / "views" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps({"views": "drawn", "seed": 0}))
    with pytest.raises(ArtifactError, match=r"another version of lookalike.*choose another out"):
        adapt(drawings, encoder=base, out=tmp_path / "e", options=replace(DRAWN, resume=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AdaptOptions(views_per_image=0), "views_per_image=0 must be at least 1"),
        (
            AdaptOptions(views_per_image=2, contrast=True),
            "views_per_image=2 must be at least 3 with contrast=True",
        ),
        (AdaptOptions(minutes=0), "minutes=0 must be above 0"),
        (AdaptOptions(dim=0), "dim=0 must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(
    drawings: Source, options: AdaptOptions, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        adapt(drawings, options=options)


def test_unknown_query_domains_and_too_many_dimensions_are_refused(
    drawings: Source, base: Encoder
) -> None:
    with pytest.raises(UnknownNameError, match=r"'drwan'.*drawn"):
        adapt(drawings, encoder=base, options=AdaptOptions(query_domain="drwan"))
    with pytest.raises(InputError, match=r"dim=60 must be at most 59 for 60 images"):
        adapt(drawings, encoder=base, options=replace(DRAWN, dim=60))


def test_the_time_limit_ends_a_run_early(drawings: Source, base: Encoder) -> None:
    adapted = adapt(drawings, encoder=base, options=replace(DRAWN, minutes=1e-9))
    assert adapted.origin["views_per_image"] == 1


def test_contrastive_refinement_never_lowers_held_out_recall(
    require: Require, drawings: Source, base: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        from lookalike.training import contrastive_refinement
    except ModuleNotFoundError:
        require(False, "torch is not installed")
    monkeypatch.setattr(contrastive_refinement, "ROUNDS", 2)
    adapted = adapt(drawings, encoder=base, options=replace(DRAWN, contrast=True))
    assert adapted.origin["contrast"]
    assert np.isfinite(adapted.projection.projection).all()
    rows, views = items_and_views()
    start = fit_discriminant(rows, views[:, :-1], 4)
    refined = contrastive_refinement.refine(rows, views, start)

    def recall(projection: np.ndarray) -> float:
        a, b = (
            unit_rows((some - start.mean).astype(np.float32) @ projection)
            for some in (views[:, -1], rows)
        )
        return float(((a @ b.T).argmax(axis=1) == np.arange(len(rows))).mean())

    assert refined.after >= refined.before == pytest.approx(recall(start.projection))
    assert refined.after == pytest.approx(recall(refined.projection.projection))


def test_contrastive_refinement_without_torch_names_the_extra(
    drawings: Source, base: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "lookalike.training.contrastive_refinement", raising=False)
    with pytest.raises(MissingDependencyError, match=r"torch.*lookalike\[train\]|train"):
        adapt(drawings, encoder=base, options=replace(DRAWN, contrast=True))


@pytest.mark.parametrize("query_domain", sorted(QUERY_DOMAINS))
def test_adapt_on_the_command_line(drawings: Source, tmp_path: Path, query_domain: str) -> None:
    folder = tmp_path / "backgrounds"
    folder.mkdir()
    for number in range(3):
        drawing(200 + number).resize((90, 90)).save(folder / f"{number}.png")
    backgrounds = ("--backgrounds", folder) if query_domain == "street" else ()
    arguments = (
        "--encoder",
        "pixels",
        "--views-per-image",
        2,
        "--query-domain",
        query_domain,
        *backgrounds,
    )
    done = lookalike("adapt", drawings.spec, "-o", tmp_path / "e", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["query_domain"], facts["views_per_image"], facts["images"], facts["dim"]) == (
        query_domain,
        2,
        60,
        59,
    )
    assert facts["fingerprint"] == load_encoder(tmp_path / "e").fingerprint
    done = lookalike("adapt", drawings.spec, "-o", tmp_path / "e", "--encoder", "pixels")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_arrays_are_adapted_to_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
    seen: list[Progress] = []
    options = AdaptOptions(views_per_image=2, dim=3)
    adapted = adapt(images, encoder="pixels", options=options, progress=seen.append)
    assert (adapted.dim, adapted.origin["images"]) == (3, 6)
    assert {each.task for each in seen} == {"encode images", "views 1/2", "views 2/2"}
    assert list(tmp_path.iterdir()) == []
