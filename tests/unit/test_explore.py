"""Planted duplicates, maps of known clusters, and outliers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, SettingError, UnknownNameError
from lookalike.explore import Duplicates, build_map, find_duplicates, load_map, lof_scores
from lookalike.explore.clusters import describe_clusters, find_clusters
from lookalike.explore.copy_threshold import (
    calibrate_threshold,
    correlation,
    thumbnail_vector,
)
from lookalike.explore.keep_rules import FileFacts, KeepOrder, matches
from lookalike.explore.layout import compute_layout, measure_quality
from lookalike.explore.map import FILE
from lookalike.explore.page import html
from lookalike.explore.range_search import pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import NeighborGraph, graph_from_embeddings, neighbor_graph
from lookalike.images.header import ImageHeader
from lookalike.sources import SourceOptions, open_source
from lookalike.sources.sampling import sample_images
from lookalike.stores.base import Record
from lookalike.types import Embeddings, Metric
from lookalike.vectors import VectorView

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
        pairs = pairs_within(VectorView.of(values), max_distance)
        expected = {(a, b) for a, b in np.argwhere(distances <= max_distance).tolist() if a < b}
        assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
        assert (np.diff(pairs.distances) >= 0).all()
    assert (7, 250) in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)


def test_range_search_with_too_many_pairs_is_rejected() -> None:
    values = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    with pytest.raises(InputError, match="set a smaller max_distance"):
        pairs_within(VectorView.of(values), 100)


def test_thumbnail_correlation_ignores_brightness_but_not_color() -> None:
    image = np.asarray(scene(1))
    vector = thumbnail_vector(image)
    assert correlation(vector, thumbnail_vector((image * 0.8).astype(np.uint8))) > 0.99
    assert correlation(vector, thumbnail_vector(np.asarray(scene(2)))) < 0.7
    assert correlation(vector, thumbnail_vector(image[..., ::-1])) < 0.9


@pytest.mark.parametrize("color", [0, 255, (200, 180, 40)])
def test_images_of_one_color_have_no_thumbnail_to_compare(
    color: int | tuple[int, int, int],
) -> None:
    blank = np.empty((40, 30, 3), np.uint8)
    blank[:] = color
    noisy = blank.astype(int) + np.random.default_rng(0).integers(-4, 5, blank.shape)
    for image in (blank, np.clip(noisy, 0, 255).astype(np.uint8)):
        assert thumbnail_vector(image) is None
        assert np.isnan(correlation(thumbnail_vector(image), thumbnail_vector(image)))


def test_altered_copies_are_duplicates_and_similar_images_are_not(scenes: Gallery) -> None:
    manifest = (scenes.path / "gallery.json").read_bytes()
    result = find_duplicates(scenes)
    assert groups_of(result) == {
        "00 (copy).png": ("exact", ["00.png"]),
        "01.png": ("near", ["01 saved.jpg"]),
        "02 large.png": ("near", ["02.png"]),
        "03.png": ("near", ["03 darker.png"]),
    }
    assert {file_name(group.keep): group.decided_by for group in result.groups} == {
        "00 (copy).png": ("id",),
        "01.png": ("lossless",),
        "02 large.png": ("pixels",),
        "03.png": ("file size",),
    }
    assert result.summary() == "4 duplicate groups, 4 redundant files (kept: largest)"
    assert result.threshold is not None
    assert result.threshold.copies == 3 * result.threshold.images
    assert result.threshold.recall > 0.85
    assert result.no_content == ()
    assert len(scenes) == SCENES + 5
    assert (scenes.path / "gallery.json").read_bytes() == manifest


def test_keep_rules(scenes: Gallery) -> None:
    last = find_duplicates(scenes, keep="last")
    assert set(groups_of(last)) == {"00.png", "01.png", "02.png", "03.png"}
    assert {group.decided_by for group in last.groups} == {("id",)}
    assert "02 large.png" in groups_of(find_duplicates(scenes, keep="first"))
    with pytest.raises(UnknownNameError, match="largest"):
        find_duplicates(scenes, keep="largst")
    with pytest.raises(SettingError, match="must not be empty"):
        find_duplicates(scenes, prefer=["a", "!"])


def test_each_preferred_path_decides_among_those_that_the_ones_before_leave(
    scenes: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    order = KeepOrder("first", ["!backup", "new", "p/old"])
    paths = ("other/a", "new/a", "backup/new/a", "backup/a", "backup/old/a", "old/a")
    keys = {
        path: order.key(Record(f"p:{path}", f"/d/{path}", {}, ""), place, None)
        for place, path in enumerate(paths)
    }
    assert sorted(paths, key=keys.__getitem__) == [
        *("new/a", "old/a", "other/a"),
        *("backup/new/a", "backup/a", "backup/old/a"),
    ]
    assert order.decision(keys["new/a"], keys["other/a"]) == "preferred path"
    find_duplicates(scenes, exact=True, prefer=["*.png", "!nowhere"])
    assert [record.message for record in caplog.records] == [
        "no image matches the preferred path 'nowhere'"
    ]


def test_preferred_paths_decide_among_equal_files(scenes: Gallery) -> None:
    for pattern in ("??.png", "scenes:00.png", "*/scenes/00.PNG"):
        group = find_duplicates(scenes, exact=True, prefer=["nothing", pattern]).groups[0]
        assert (file_name(group.keep), group.decided_by) == ("00.png", ("preferred path",))
    by_content = groups_of(find_duplicates(scenes, prefer=["*saved*", "*darker*"]))
    assert {"01.png", "03.png"} <= set(by_content)
    by_id = groups_of(find_duplicates(scenes, keep="first", prefer=["*.jpg"]))
    assert "01 saved.jpg" in by_id
    record = Record("s:backup/2019/a.jpg", "/disk/photos/backup/2019/a.jpg", {}, "")
    assert matches(record, "backup")
    assert matches(record, "backup/2019")
    assert matches(record, "/disk/photos")
    assert not matches(record, "!backup")
    assert matches(record, "!2018")
    assert not matches(record, "2018")
    assert not matches(record, "photos/*")


def test_exact_duplicates_are_found_without_decoding_images(scenes: Gallery) -> None:
    result = find_duplicates(scenes, exact=True)
    assert groups_of(result) == {"00 (copy).png": ("exact", ["00.png"])}
    assert result.threshold is None
    assert result.summary() == "1 duplicate group, 1 redundant file (kept: largest)"
    assert json.loads(json.dumps(result.as_dict()))["redundant"] == ["scenes:00.png"]


def test_unreadable_images_are_reported_and_never_kept(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    (tmp_path / "scenes" / "03 darker.png").unlink()
    (tmp_path / "scenes" / "00 (copy).png").unlink()
    result = find_duplicates(gallery)
    assert groups_of(result)["00.png"] == ("exact", ["00 (copy).png"])
    decisions = {file_name(group.keep): group.decided_by for group in result.groups}
    assert decisions["00.png"] == ("readable",)
    assert "03.png" not in groups_of(result)
    assert set(result.unreadable) == {"scenes:00 (copy).png", "scenes:03 darker.png"}
    for keep in ("first", "last"):
        assert "00.png" in groups_of(find_duplicates(gallery, exact=True, keep=keep))


def test_files_that_have_changed_since_are_in_no_group(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    folder = tmp_path / "scenes"
    scene(80).save(folder / "00.png")
    scene(81).save(folder / "02 large.png")
    (folder / "01.png").touch()
    result = find_duplicates(gallery)
    assert set(groups_of(result)) == {"01.png", "03.png"}
    # The large one is no copy any more by its pixels, so that nobody asks what it was.
    assert result.changed == ("scenes:00.png",)
    assert "1 row changed since" in "\n".join(result.notes())


def test_rows_of_one_file_are_not_redundant(tmp_path: Path) -> None:
    gallery = few_images(tmp_path)
    link = tmp_path / "few" / "link.png"
    link.symlink_to(tmp_path / "few" / "0.png")
    (tmp_path / "few" / "copy.png").write_bytes((tmp_path / "few" / "0.png").read_bytes())
    gallery.sync(open_source(tmp_path / "few"))
    for exact in (True, False):
        result = find_duplicates(gallery, exact=exact)
        assert groups_of(result) == {"0.png": ("exact", ["copy.png"])}
        assert result.same_file == ("few:link.png",)


def photograph(seed: int, width: int, height: int) -> Image.Image:
    """Return an image of colored blocks of any size, unlike those of other seeds."""
    return scene(seed).resize((width, height), Image.Resampling.BILINEAR)


def test_the_original_is_kept_by_its_file_not_by_decoded_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(20, 40):
        scene(seed).save(folder / f"other {seed}.png")
    camera = photograph(1, 2200, 1650)  # decoded at a quarter of its size
    camera.save(folder / "z camera.jpg", quality=92)
    camera.resize((1024, 768)).save(folder / "a mail.jpg", quality=92)
    edited = photograph(2, 300, 200)
    edited.save(folder / "z edited.png")
    edited.save(folder / "a saved.jpg", quality=95)
    best = photograph(3, 300, 200)
    best.save(folder / "z best.jpg", quality=90)
    best.save(folder / "a again.jpg", quality=40)
    plain = photograph(4, 300, 200)
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    plain.save(folder / "a stripped.jpg", quality=90)
    plain.save(folder / "z exif.jpg", quality=90, exif=exif)
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    result = find_duplicates(gallery)
    assert {
        file_name(group.keep): (file_name(group.duplicates[0].id), group.duplicates[0].decided_by)
        for group in result.groups
    } == {
        "z camera.jpg": ("a mail.jpg", "pixels"),
        "z edited.png": ("a saved.jpg", "lossless"),
        "z best.jpg": ("a again.jpg", "JPEG quality"),
        "z exif.jpg": ("a stripped.jpg", "file size"),
    }
    rows = {row["id"]: row for row in result.rows()}
    assert rows["photos:a mail.jpg"]["decided_by"] == "pixels"
    assert rows["photos:z camera.jpg"]["decided_by"] == "pixels"


def header(**changes: Any) -> ImageHeader:
    plain = ImageHeader(
        width=4,
        height=3,
        format="JPEG",
        pages=1,
        lossless=False,
        jpeg_quality=90,
        has_exif=False,
        captured_at=None,
    )
    return replace(plain, **changes)


def test_criteria_decide_in_order() -> None:
    record = Record("s:a", "/s/a", {}, "")
    plain = FileFacts(12, 100, header())
    better = {
        "pixels": FileFacts(13, 1, header(jpeg_quality=1)),
        "lossless": FileFacts(12, 1, header(lossless=True, jpeg_quality=None)),
        "JPEG quality": FileFacts(12, 1, header(jpeg_quality=91)),
        "file size": FileFacts(12, 101, header()),
        "EXIF": FileFacts(12, 100, header(has_exif=True)),
        "capture time": FileFacts(12, 100, header(captured_at=datetime(2019, 5, 1))),
    }
    order = KeepOrder("largest", ["*/z"])
    kept = order.key(Record("s:b", "/s/b", {}, ""), 1, plain)
    for name, facts in better.items():
        key = order.key(record, 9, facts)
        assert key < kept
        assert order.decision(key, kept) == name
    late = order.key(record, 0, FileFacts(12, 100, header(captured_at=datetime(2020, 5, 1))))
    early = order.key(record, 1, FileFacts(12, 100, header(captured_at=datetime(2019, 5, 1))))
    assert early < late
    preferred = order.key(Record("s:z", "/s/z", {}, ""), 2, plain)
    assert preferred < kept
    assert order.decision(preferred, kept) == "preferred path"
    assert kept < order.key(record, 0, None)
    assert order.decision(kept, order.key(record, 0, None)) == "readable"
    # A file of another lossy format states no quality: between good and bad JPEGs.
    webp = FileFacts(12, 100, header(format="WEBP", jpeg_quality=None))
    bad = FileFacts(12, 100, header(jpeg_quality=30))
    assert kept < order.key(record, 0, webp) < order.key(record, 0, bad)


def test_blank_images_neither_loosen_the_threshold_nor_join_groups(tmp_path: Path) -> None:
    folder = tmp_path / "textures"
    folder.mkdir()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noise = scene(seed).convert("L").resize((64, 64))
        values = 120 + (np.asarray(noise).astype(float) - 128) / 8 + rng.normal(0, 4, (64, 64))
        texture = np.clip(values[..., None] + [30, 0, -40], 0, 255).astype(np.uint8)
        Image.fromarray(texture).save(folder / f"{seed:02d}.png")
    source = open_source(folder)
    encoder = open_encoder("hog", sample_images(source))
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source)
    without = find_duplicates(gallery)
    assert without.groups == ()
    for level in range(6):
        Image.new("RGB", (64, 64), (250 - level,) * 3).save(folder / f"blank {level}.png")
    Image.new("RGB", (64, 64), (250,) * 3).save(folder / "blank again.bmp")
    (folder / "blank copy.png").write_bytes((folder / "blank 3.png").read_bytes())
    gallery.sync(open_source(folder))
    result = find_duplicates(gallery)
    assert groups_of(result) == {
        "blank again.bmp": ("pixels", ["blank 0.png"]),
        "blank 3.png": ("exact", ["blank copy.png"]),
    }
    assert result.as_dict()["no_content"] == sorted(
        f"textures:{name}"
        for name in ("blank again.bmp", *(f"blank {level}.png" for level in range(6)))
    )
    assert without.threshold is not None
    assert result.threshold is not None
    assert result.threshold.images == 30
    assert result.threshold.correlation == without.threshold.correlation


def test_a_gallery_of_blank_images_has_no_threshold(tmp_path: Path) -> None:
    folder = tmp_path / "blanks"
    folder.mkdir()
    for level in range(120):
        Image.new("L", (8, 8), level).save(folder / f"{level}.png")
    Image.new("L", (8, 8), 7).save(folder / "other.bmp")
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    result = find_duplicates(gallery)
    assert result.threshold is None
    assert len(result.no_content) == 121
    assert [group.kind for group in result.groups] == ["pixels"]


def test_many_blank_images_do_not_exhaust_the_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(12):
        scene(seed).save(folder / f"{seed:02d}.png")
    rng = np.random.default_rng(0)
    for number in range(130):
        page = np.asarray(rng.integers(245, 252, (24, 24)), np.uint8)
        Image.fromarray(page).save(folder / f"page {number:03d}.png")
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    result = find_duplicates(gallery)
    assert result.groups == ()
    assert len(result.no_content) == 130


def test_an_image_that_is_blank_once_brightened_leaves_the_threshold_defined() -> None:
    rng = np.random.default_rng(0)
    # 10 % brighter, all of it is white.
    images = [np.asarray(rng.integers(232, 256, (64, 64)), np.uint8) for _ in range(3)]
    pale = [np.repeat(np.repeat(image[::16, ::16], 16, 0), 16, 1) for image in images]
    encoder = open_encoder("pixels", [np.asarray(scene(seed)) for seed in range(5)])

    def nearest(queries: Embeddings, k: int) -> NDArray[np.float64]:
        return np.ones((len(queries), min(k, 1)))

    threshold = calibrate_threshold(pale, encoder, Metric.COSINE, nearest)
    assert threshold is not None
    assert (threshold.images, threshold.copies) == (3, 6)
    assert threshold.correlation > 0.9
    blank = [np.full((64, 64), 9, np.uint8)]
    assert calibrate_threshold(blank, encoder, Metric.COSINE, nearest) is None


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
        assert kept is not None
        for each in group.duplicates:
            other = thumbnail_vector(np.asarray(Image.open(folder / file_name(each.id))))
            assert correlation(kept, other) == pytest.approx(each.correlation, abs=1e-5)
            assert each.correlation is not None
            assert each.correlation > 0.9


@pytest.mark.parametrize("max_distance", [-1.0, float("nan")])
def test_max_distance_out_of_range_is_rejected(scenes: Gallery, max_distance: float) -> None:
    with pytest.raises(SettingError, match=r"max_distance=.* must be at least 0"):
        find_duplicates(scenes, max_distance=max_distance)


def test_trustworthiness_equals_scikit_learn() -> None:
    from sklearn.manifold import trustworthiness

    graph = clusters_graph()
    rng = np.random.default_rng(0)
    for points in (graph.embeddings[:][:, :2], rng.random((len(graph), 2), np.float32)):
        quality = measure_quality(graph, points)
        expected = trustworthiness(graph.embeddings[:], points, n_neighbors=10)
        assert quality.sampled == len(graph)
        assert quality.trustworthiness == pytest.approx(expected, abs=1e-9)


def test_the_map_preserves_neighborhoods_and_clusters() -> None:
    graph = clusters_graph()
    points = compute_layout(graph)
    assert points.dtype == np.float32
    assert points.min() == 0
    assert points.max() == 1
    quality = measure_quality(graph, points)
    assert quality.trustworthiness is not None
    assert quality.trustworthiness > 0.95
    assert quality.neighborhood_preservation is not None
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
    view = VectorView.of(np.eye(4, dtype=np.float32))
    clusters = describe_clusters(np.zeros(4, np.int64), view, [None] * 4)
    assert [(each.name, each.label, each.share) for each in clusters] == [("cluster 1", None, None)]


def test_a_label_names_a_cluster_only_as_its_majority() -> None:
    view = VectorView.of(np.eye(4, dtype=np.float32))
    (tied,) = describe_clusters(np.zeros(4, np.int64), view, ["a", "a", "b", "b"])
    assert tied.label is None
    (majority,) = describe_clusters(np.zeros(4, np.int64), view, ["a", "a", "b", None])
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
    trustworthiness = measure_quality(graph, points).trustworthiness
    if kind == "identical":
        assert trustworthiness is None
    else:
        assert trustworthiness is not None
        assert 0 <= trustworthiness <= 1
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
    assert build_map(gallery).origin.created_at == built.origin.created_at
    gallery.remove([built.ids[0]])
    stale = load_map(gallery)
    assert stale is not None
    assert (stale.stale, stale.origin.changes) == (True, "1 commit")
    assert len(build_map(gallery).ids) == len(built.ids) - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1}', "written by an older lookalike; recompute it: lookalike explore map"),
        ('{"format": 99}', "written by a newer lookalike"),
        ('{"format": 2}', "written by an older lookalike"),
        ('{"format": 3}', "map.json of g.gallery: field 'identity' is missing; recompute it"),
        ("[]", "must be a JSON object"),
    ],
)
def test_unusable_map_files_are_reported_and_replaced(
    tmp_path: Path, text: str, message: str
) -> None:
    gallery = few_images(tmp_path)
    (gallery.path / FILE.name).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        load_map(gallery)
    assert len(build_map(gallery).ids) == 3


def test_zero_embeddings_are_counted_and_not_on_the_map(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(14):
        (folder / str(seed % 2)).mkdir(exist_ok=True)
        scene(seed).save(folder / str(seed % 2) / f"{seed}.png")
    for level in (1, 200):
        Image.new("L", (96, 96), level).save(folder / "0" / f"blank {level}.png")
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("hog", sample_images(source))
    )
    gallery.sync(source)
    graph = neighbor_graph(gallery)
    assert graph.zero_embeddings == ("scans:0/blank 1.png", "scans:0/blank 200.png")
    assert len(graph) == 14
    built = build_map(gallery)
    assert built.zero_embeddings == graph.zero_embeddings
    assert len(built.ids) == len(built.lof_scores) == len(built.columns["label"]) == 14
    assert np.isfinite(built.lof_scores).all()
    saved = load_map(gallery)
    assert saved is not None
    assert saved.zero_embeddings == built.zero_embeddings
    assert build_map(gallery).origin.created_at == built.origin.created_at
    result = find_duplicates(gallery)
    assert set(result.no_content) == set(graph.zero_embeddings)


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


def test_pages_of_one_file_are_not_redundant(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(12):
        scene(seed).save(folder / f"{seed:02d}.png")
    pages = [scene(50), scene(50), scene(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    source = open_source(folder, options=SourceOptions(pages="all"))
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    assert len(gallery) == 15
    result = find_duplicates(gallery)
    assert {file_name(group.keep) for group in result.groups} == {"stack.tif#3"}
    assert [file_name(row_id) for row_id in result.redundant] == ["03.png"]
