"""Planted duplicates, maps of known clusters, and outliers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, SettingError, UnknownNameError
from lookalike.explore import Duplicates, build_map, find_duplicates, load_map, lof_scores
from lookalike.explore.clusters import describe_clusters, find_clusters
from lookalike.explore.copy_threshold import correlation, thumbnail_vector
from lookalike.explore.layout import compute_layout, measure_quality
from lookalike.explore.map import FILE
from lookalike.explore.page import html
from lookalike.explore.range_search import pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import NeighborGraph, graph_from_embeddings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images

SCENES = 30


def scene(seed: int, side: int = 96) -> Image.Image:
    """Return an image of colored blocks, unlike those of other seeds."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)


def collection(folder: Path) -> Gallery:
    """Return a gallery of scenes, some of them with altered copies."""
    folder.mkdir()
    for seed in range(SCENES):
        scene(seed).save(folder / f"{seed:02d}.png")
    (folder / "00 (copy).png").write_bytes((folder / "00.png").read_bytes())
    scene(1).save(folder / "01 saved.jpg", quality=70)
    scene(2, 192).save(folder / "02 large.png")
    darker = np.asarray(scene(3)) * 0.92
    Image.fromarray(darker.astype(np.uint8)).save(folder / "03 darker.png")
    swapped = np.asarray(scene(4))[..., ::-1]
    Image.fromarray(np.ascontiguousarray(swapped)).save(folder / "04 other colors.png")
    source = open_source(folder)
    encoder = open_encoder("color", sample_images(source))
    gallery = Gallery.create(folder.parent / "made.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return collection(tmp_path_factory.mktemp("explore") / "scenes")


def file_name(row_id: str) -> str:
    return row_id.partition(":")[2]


def groups_of(result: Duplicates) -> dict[str, tuple[str, list[str]]]:
    """Return kind and redundant files by kept file."""
    return {
        file_name(group.keep): (group.kind, [file_name(each.id) for each in group.duplicates])
        for group in result.groups
    }


def clusters_graph(size: int = 60, clusters: int = 5, seed: int = 0) -> NeighborGraph:
    rng = np.random.default_rng(seed)
    centers = np.repeat(np.eye(clusters, 12) * 8, size, axis=0)
    values = (centers + rng.normal(size=(size * clusters, 12))).astype(np.float32)
    return graph_from_embeddings(tuple(f"x:{i:03d}" for i in range(len(values))), values)


def test_range_search_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 8)).astype(np.float32)
    values[7] = values[250]
    distances = np.linalg.norm(values[:, None].astype(float) - values[None], axis=2)
    for max_distance in (0.0, 1.0, 1.7):
        pairs = pairs_within(values, max_distance)
        expected = {(a, b) for a, b in np.argwhere(distances <= max_distance).tolist() if a < b}
        assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
        assert (np.diff(pairs.distances) >= 0).all()
    assert (7, 250) in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)


def test_range_search_with_too_many_pairs_is_rejected() -> None:
    values = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    with pytest.raises(InputError, match="set a smaller max_distance"):
        pairs_within(values, 100)


def test_thumbnail_correlation_ignores_brightness_but_not_color() -> None:
    image = np.asarray(scene(1))
    vector = thumbnail_vector(image)
    assert correlation(vector, thumbnail_vector((image * 0.8).astype(np.uint8))) > 0.99
    assert correlation(vector, thumbnail_vector(np.asarray(scene(2)))) < 0.7
    assert correlation(vector, thumbnail_vector(image[..., ::-1])) < 0.9
    blank = np.full((20, 20), 200, np.uint8)
    assert correlation(thumbnail_vector(blank), thumbnail_vector(blank)) == 0


def test_altered_copies_are_duplicates_and_similar_images_are_not(scenes: Gallery) -> None:
    manifest = (scenes.path / "gallery.json").read_bytes()
    result = find_duplicates(scenes)
    assert groups_of(result) == {
        "00 (copy).png": ("exact", ["00.png"]),
        "01 saved.jpg": ("near", ["01.png"]),
        "02 large.png": ("near", ["02.png"]),
        "03 darker.png": ("near", ["03.png"]),
    }
    assert [file_name(row_id) for row_id in result.redundant] == [
        *("00.png", "01.png", "02.png", "03.png")
    ]
    assert result.summary() == "4 duplicate groups, 4 redundant files (kept: largest)"
    assert result.threshold is not None
    assert result.threshold.copies == 3 * result.threshold.images
    assert result.threshold.recall > 0.85
    assert len(scenes) == SCENES + 5
    assert (scenes.path / "gallery.json").read_bytes() == manifest


def test_keep_rules(scenes: Gallery) -> None:
    assert set(groups_of(find_duplicates(scenes, keep="last"))) == {
        *("00.png", "01.png", "02.png", "03.png")
    }
    assert "02 large.png" in groups_of(find_duplicates(scenes, keep="first"))
    with pytest.raises(UnknownNameError, match="largest"):
        find_duplicates(scenes, keep="largst")


def test_exact_duplicates_are_found_without_reading_images(scenes: Gallery) -> None:
    result = find_duplicates(scenes, exact=True)
    assert groups_of(result) == {"00 (copy).png": ("exact", ["00.png"])}
    assert result.threshold is None
    assert result.summary() == "1 duplicate group, 1 redundant file (kept: largest)"
    assert json.loads(json.dumps(result.as_dict()))["redundant"] == ["scenes:00.png"]


def test_unreadable_images_are_reported_and_not_grouped(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    (tmp_path / "scenes" / "03 darker.png").unlink()
    result = find_duplicates(gallery)
    assert "03 darker.png" not in groups_of(result)
    assert result.unreadable == ("scenes:03 darker.png",)


def test_chains_of_similar_images_do_not_join_a_group(tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    first, last = (np.asarray(scene(seed)).astype(float) for seed in (1, 2))
    for step in range(12):
        mixed = first + (last - first) * step / 11
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{step:02d}.png")
    for seed in range(10, 40):
        scene(seed).save(folder / f"other {seed}.png")
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("pixels", sample_images(source))
    )
    gallery.sync(source)
    for group in find_duplicates(gallery, max_distance=10.0, keep="first").groups:
        kept = thumbnail_vector(np.asarray(Image.open(folder / file_name(group.keep))))
        for each in group.duplicates:
            other = thumbnail_vector(np.asarray(Image.open(folder / file_name(each.id))))
            assert correlation(kept, other) == pytest.approx(each.correlation, abs=1e-5)
            assert each.correlation > 0.9


@pytest.mark.parametrize("max_distance", [-1.0, float("nan")])
def test_max_distance_out_of_range_is_rejected(scenes: Gallery, max_distance: float) -> None:
    with pytest.raises(SettingError, match=r"max_distance=.* must be at least 0"):
        find_duplicates(scenes, max_distance=max_distance)


def test_trustworthiness_equals_scikit_learn() -> None:
    from sklearn.manifold import trustworthiness

    graph = clusters_graph()
    rng = np.random.default_rng(0)
    for points in (graph.embeddings[:, :2], rng.random((len(graph), 2), np.float32)):
        quality = measure_quality(graph, points)
        expected = trustworthiness(graph.embeddings, points, n_neighbors=10)
        assert quality.sampled == len(graph)
        assert quality.trustworthiness == pytest.approx(expected, abs=1e-9)


def test_the_map_preserves_neighborhoods_and_clusters() -> None:
    graph = clusters_graph()
    points = compute_layout(graph)
    assert points.dtype == np.float32
    assert points.min() == 0
    assert points.max() == 1
    quality = measure_quality(graph, points)
    assert quality.trustworthiness > 0.95
    assert 10 / len(graph) < quality.neighborhood_preservation <= 1
    membership = find_clusters(points)
    truth = np.repeat(np.arange(5), 60)
    labels = [None if row % 3 else f"class {truth[row]}" for row in range(len(truth))]
    clusters = describe_clusters(membership, graph.embeddings, labels)
    assert {each.name for each in clusters} == {f"class {number}" for number in range(5)}
    sizes = [each.size for each in clusters]
    assert sizes == sorted(sizes, reverse=True)
    for each in clusters:
        rows = np.flatnonzero(membership == each.number)
        assert len(set(truth[rows])) == 1
        assert each.medoid in rows
        assert each.share == 1


def test_clusters_without_labels_are_numbered() -> None:
    clusters = describe_clusters(np.zeros(4, np.int64), np.eye(4, dtype=np.float32), [None] * 4)
    assert [(each.name, each.label, each.share) for each in clusters] == [("cluster 1", None, None)]


def test_a_label_names_a_cluster_only_as_its_majority() -> None:
    embeddings = np.eye(4, dtype=np.float32)
    (tied,) = describe_clusters(np.zeros(4, np.int64), embeddings, ["a", "a", "b", "b"])
    assert tied.label is None
    (majority,) = describe_clusters(np.zeros(4, np.int64), embeddings, ["a", "a", "b", None])
    assert majority.label == "a"
    assert majority.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("count", [3, 11, 12, 30])
@pytest.mark.parametrize("kind", ["random", "identical"])
def test_small_and_identical_collections_have_maps(count: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 5)) if kind == "random" else np.ones((count, 5))
    ids = tuple(f"{i:02d}" for i in range(count))
    graph = graph_from_embeddings(ids, values.astype(np.float32))
    points = compute_layout(graph)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert 0 <= measure_quality(graph, points).trustworthiness <= 1
    assert len(find_clusters(points)) == count
    assert np.isfinite(lof_scores(graph)).all()


def test_lof_scores_equal_scikit_learn() -> None:
    from sklearn.neighbors import LocalOutlierFactor

    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 4)).astype(np.float32)
    values[0] = 9
    graph = graph_from_embeddings(tuple(f"{i:03d}" for i in range(200)), values)
    model = LocalOutlierFactor(20).fit(values)
    np.testing.assert_allclose(lof_scores(graph), -model.negative_outlier_factor_, rtol=1e-4)
    assert lof_scores(graph).argmax() == 0


def test_a_saved_map_is_reused_until_the_rows_change(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    assert load_map(gallery) is None
    built = build_map(gallery)
    saved = load_map(gallery)
    assert saved is not None
    assert not saved.stale
    assert saved.ids == built.ids
    np.testing.assert_allclose(saved.points, built.points, atol=1e-4)
    np.testing.assert_array_equal(saved.membership, built.membership)
    np.testing.assert_array_equal(saved.neighbors, built.neighbors)
    np.testing.assert_array_equal(saved.lof_scores, built.lof_scores)
    assert saved.quality == built.quality
    assert saved.clusters == built.clusters
    assert build_map(gallery).created_at == built.created_at
    gallery.remove([built.ids[0]])
    stale = load_map(gallery)
    assert stale is not None
    assert stale.stale
    assert len(build_map(gallery).ids) == len(built.ids) - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1}', "written by an older lookalike; recompute it: lookalike explore map"),
        ('{"format": 99}', "written by a newer lookalike"),
        ('{"format": 2}', "damaged"),
        ("[]", "damaged"),
    ],
)
def test_unusable_map_files_are_reported_and_replaced(
    tmp_path: Path, text: str, message: str
) -> None:
    gallery = few_images(tmp_path)
    (gallery.path / FILE).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        load_map(gallery)
    assert len(build_map(gallery).ids) == 3


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    collection_map = build_map(gallery)
    page = html(collection_map, gallery, thumbnails=16)
    data = page_data(page)
    assert data["ids"] == list(collection_map.ids)
    assert len(data["sheets"]) == 1
    assert str(tmp_path) not in page
    assert "https://" not in page
    assert "__" not in page.partition('<script id="data"')[0]
    assert page_data(html(collection_map, gallery, thumbnails=0))["sheets"] == []
    with pytest.raises(SettingError, match="thumbnails=1000 must be from 0"):
        html(collection_map, gallery, thumbnails=1000)


def page_data(page: str) -> Any:
    _, _, rest = page.partition('<script id="data" type="application/json">')
    return json.loads(rest.partition("</script>")[0])


def few_images(folder: Path) -> Gallery:
    """Return a gallery of three images."""
    images = folder / "few"
    images.mkdir()
    for seed in range(3):
        scene(seed).save(images / f"{seed}.png")
    source = open_source(images)
    gallery = Gallery.create(
        folder / "g.gallery", encoder=open_encoder("pixels", sample_images(source))
    )
    gallery.sync(source)
    return gallery


def test_a_map_needs_three_images_and_duplicates_two(tmp_path: Path) -> None:
    gallery = few_images(tmp_path)
    collection_map = build_map(gallery)
    assert len(collection_map.ids) == 3
    assert "few:0.png" in html(collection_map, gallery)
    assert find_duplicates(gallery).groups == ()
    gallery.remove(["few:0.png"])
    with pytest.raises(InputError, match="has 2 images; a map needs at least three"):
        build_map(gallery)
    gallery.remove(["few:1.png"])
    with pytest.raises(InputError, match="has 1 image; at least two"):
        find_duplicates(gallery)
