"""Duplicates planted in a collection, maps of known clusters, and what fits nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, SettingError, UnknownNameError
from lookalike.explore import Duplicates, build_map, duplicates, load_map, lof_scores
from lookalike.explore.clusters import cluster, described
from lookalike.explore.copy_threshold import likeness, small
from lookalike.explore.layout import faith, lay_out
from lookalike.explore.map import FILE
from lookalike.explore.page import html
from lookalike.explore.range_search import pairs_within
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import NeighborGraph, graph_from_embeddings
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images

SCENES = 30


def scene(seed: int, side: int = 96) -> Image.Image:
    """Return a picture of colored blocks unlike that of any other seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)


def collection(folder: Path) -> Gallery:
    """Return a gallery of scenes, of which some were copied in one way or another."""
    folder.mkdir()
    for seed in range(SCENES):
        scene(seed).save(folder / f"{seed:02d}.png")
    (folder / "00 (copy).png").write_bytes((folder / "00.png").read_bytes())
    scene(1).save(folder / "01 saved.jpg", quality=70)
    scene(2, 192).save(folder / "02 large.png")
    darker = np.asarray(scene(3)) * 0.92
    Image.fromarray(darker.astype(np.uint8)).save(folder / "03 darker.png")
    turned = np.asarray(scene(4))[..., ::-1]
    Image.fromarray(np.ascontiguousarray(turned)).save(folder / "04 other colors.png")
    source = open_source(folder)
    encoder = open_encoder("color", sample_images(source))
    gallery = Gallery.create(folder.parent / "made.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return collection(tmp_path_factory.mktemp("explore") / "scenes")


def grouped(found: Duplicates) -> dict[str, tuple[str, list[str]]]:
    def name(row_id: str) -> str:
        return row_id.partition(":")[2]

    return {name(g.keep): (g.kind, [name(o.id) for o in g.others]) for g in found.groups}


def blobs(each: int = 60, kinds: int = 5, seed: int = 0) -> NeighborGraph:
    rng = np.random.default_rng(seed)
    values = np.repeat(np.eye(kinds, 12) * 8, each, axis=0) + rng.normal(size=(each * kinds, 12))
    return graph_from_embeddings(
        tuple(f"x:{i:03d}" for i in range(len(values))), values.astype(np.float32)
    )


def test_pairs_are_those_of_computing_every_distance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 8)).astype(np.float32)
    values[7] = values[250]
    apart = np.linalg.norm(values[:, None].astype(float) - values[None], axis=2)
    for within in (0.0, 1.0, 1.7):
        found = pairs_within(values, within)
        expected = {(a, b) for a, b in np.argwhere(apart <= within).tolist() if a < b}
        assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
        assert (np.diff(found.distances) >= 0).all()
    assert (7, 250) in zip(found.first.tolist(), found.second.tolist(), strict=True)


def test_a_distance_that_everything_is_within_is_refused() -> None:
    values = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    with pytest.raises(InputError, match="smaller --within"):
        pairs_within(values, 100)


def test_likeness_is_of_what_is_seen_not_of_light() -> None:
    one = np.asarray(scene(1))
    assert likeness(small(one), small((one * 0.8).astype(np.uint8))) > 0.99
    assert likeness(small(one), small(np.asarray(scene(2)))) < 0.7
    assert likeness(small(one), small(one[..., ::-1])) < 0.9
    blank = np.full((20, 20), 200, np.uint8)
    assert likeness(small(blank), small(blank)) == 0


def test_copies_are_found_and_what_is_only_similar_is_not(scenes: Gallery) -> None:
    before = (scenes.path / "gallery.json").read_bytes()
    found = duplicates(scenes)
    assert grouped(found) == {
        "00 (copy).png": ("exact", ["00.png"]),
        "01 saved.jpg": ("visual", ["01.png"]),
        "02 large.png": ("visual", ["02.png"]),
        "03 darker.png": ("visual", ["03.png"]),
    }
    assert [row_id.partition(":")[2] for row_id in found.spare] == [
        *("00.png", "01.png", "02.png", "03.png")
    ]
    assert found.threshold is not None
    assert found.threshold.copies == 3 * found.threshold.images
    assert found.threshold.found > 0.85
    assert len(scenes) == SCENES + 5
    assert (scenes.path / "gallery.json").read_bytes() == before


def test_the_rule_says_which_is_kept(scenes: Gallery) -> None:
    assert set(grouped(duplicates(scenes, keep="last"))) == {
        *("00.png", "01.png", "02.png", "03.png")
    }
    assert "02 large.png" in grouped(duplicates(scenes, keep="first"))
    with pytest.raises(UnknownNameError, match="largest"):
        duplicates(scenes, keep="largst")


def test_exact_ones_alone_need_no_image(scenes: Gallery) -> None:
    found = duplicates(scenes, visual=False)
    assert grouped(found) == {"00 (copy).png": ("exact", ["00.png"])}
    assert found.threshold is None
    assert json.loads(json.dumps(found.as_dict()))["spare"] == ["scenes:00.png"]


def test_an_image_that_is_gone_is_named_and_not_guessed_at(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    (tmp_path / "scenes" / "03 darker.png").unlink()
    found = duplicates(gallery)
    assert "03 darker.png" not in grouped(found)
    assert found.unread == ("scenes:03 darker.png",)


def test_no_chain_joins_what_is_not_alike(tmp_path: Path) -> None:
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
    for group in duplicates(gallery, within=10.0, keep="first").groups:
        kept = np.asarray(Image.open(folder / group.keep.partition(":")[2]))
        for other in group.others:
            seen = np.asarray(Image.open(folder / other.id.partition(":")[2]))
            assert likeness(small(kept), small(seen)) == pytest.approx(other.likeness, abs=1e-5)
            assert other.likeness > 0.9


@pytest.mark.parametrize(("within", "error"), [(-1.0, SettingError), (float("nan"), SettingError)])
def test_a_distance_that_is_none_is_refused(
    scenes: Gallery, within: float, error: type[Exception]
) -> None:
    with pytest.raises(error, match="--within"):
        duplicates(scenes, within=within)


def test_trustworthiness_is_scikit_learns() -> None:
    from sklearn.manifold import trustworthiness

    graph = blobs()
    rng = np.random.default_rng(0)
    for points in (graph.embeddings[:, :2], rng.random((len(graph), 2), np.float32)):
        found = faith(graph, points)
        expected = trustworthiness(graph.embeddings, points, n_neighbors=10)
        assert found.judged == len(graph)
        assert found.trustworthiness == pytest.approx(expected, abs=1e-9)


def test_the_map_keeps_neighbors_and_clusters_are_found_on_it() -> None:
    graph = blobs()
    points = lay_out(graph)
    assert points.dtype == np.float32
    assert points.min() == 0
    assert points.max() == 1
    assert faith(graph, points).trustworthiness > 0.95
    numbers = cluster(points)
    truth = np.repeat(np.arange(5), 60)
    labels = [None if row % 3 else f"kind {truth[row]}" for row in range(len(truth))]
    found = described(numbers, graph.embeddings, labels)
    assert {each.name for each in found} == {f"kind {kind}" for kind in range(5)}
    assert [each.size for each in found] == sorted((each.size for each in found), reverse=True)
    for each in found:
        rows = np.flatnonzero(numbers == each.number)
        assert len(set(truth[rows])) == 1
        assert each.medoid in rows
        assert each.share == 1


def test_clusters_without_labels_have_numbers() -> None:
    found = described(np.zeros(4, np.int64), np.eye(4, dtype=np.float32), [None] * 4)
    assert [(each.name, each.label, each.share) for each in found] == [("cluster 1", None, None)]


@pytest.mark.parametrize("count", [3, 11, 12, 30])
@pytest.mark.parametrize("kind", ["random", "equal"])
def test_small_and_equal_collections_have_maps(count: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 5)) if kind == "random" else np.ones((count, 5))
    graph = graph_from_embeddings(
        tuple(f"{i:02d}" for i in range(count)), values.astype(np.float32)
    )
    points = lay_out(graph)
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert 0 <= faith(graph, points).trustworthiness <= 1
    assert len(cluster(points)) == count
    assert np.isfinite(lof_scores(graph)).all()


def test_outliers_are_scikit_learns() -> None:
    from sklearn.neighbors import LocalOutlierFactor

    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 4)).astype(np.float32)
    values[0] = 9
    graph = graph_from_embeddings(tuple(f"{i:03d}" for i in range(200)), values)
    model = LocalOutlierFactor(20).fit(values)
    np.testing.assert_allclose(lof_scores(graph), -model.negative_outlier_factor_, rtol=1e-4)
    assert lof_scores(graph).argmax() == 0


def test_a_map_is_kept_until_the_rows_change(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    assert load_map(gallery) is None
    made = build_map(gallery)
    kept = load_map(gallery)
    assert kept is not None
    assert not kept.stale
    assert kept.ids == made.ids
    np.testing.assert_allclose(kept.points, made.points, atol=1e-4)
    np.testing.assert_array_equal(kept.near, made.near)
    assert kept.clusters == made.clusters
    assert build_map(gallery).made == made.made
    gallery.remove([made.ids[0]])
    stale = load_map(gallery)
    assert stale is not None
    assert stale.stale
    assert len(build_map(gallery).ids) == len(made.ids) - 1
    (gallery.path / FILE).write_text('{"format": 1}')
    with pytest.raises(ArtifactError, match="--fresh"):
        load_map(gallery)
    assert len(build_map(gallery).ids) == len(made.ids) - 1


def test_the_page_holds_everything_and_nothing_it_should_not(tmp_path: Path) -> None:
    gallery = collection(tmp_path / "scenes")
    found = build_map(gallery)
    page = html(found, gallery, side=16)
    _, _, rest = page.partition('<script id="data" type="application/json">')
    data = json.loads(rest.partition("</script>")[0])
    assert data["ids"] == list(found.ids)
    assert len(data["sheets"]) == 1
    assert str(tmp_path) not in page
    assert "https://" not in page
    assert "__" not in page.partition('<script id="data"')[0]
    assert (
        json.loads(html(found, gallery, side=0).partition('json">')[2].partition("</s")[0])[
            "sheets"
        ]
        == []
    )
    with pytest.raises(SettingError, match="--thumbnails"):
        html(found, gallery, side=1000)


def test_three_images_have_a_map_and_two_have_none(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for seed in range(3):
        scene(seed).save(folder / f"{seed}.png")
    source = open_source(folder)
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("pixels", sample_images(source))
    )
    gallery.sync(source)
    found = build_map(gallery)
    assert len(found.ids) == 3
    assert "few:0.png" in html(found, gallery)
    assert duplicates(gallery).groups == ()
    gallery.remove(["few:0.png"])
    with pytest.raises(InputError, match="at least three"):
        build_map(gallery)
    gallery.remove(["few:1.png"])
    with pytest.raises(InputError, match="at least two"):
        duplicates(gallery)
