"""Ways of asking side by side, and galleries asked with street views of their own images."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, SettingError, UnknownNameError
from lookalike.evaluation import variants
from lookalike.evaluation.synthetic_queries import make_synthetic_queries
from lookalike.evaluation.variants import CROP_STEPS, parse_variants
from lookalike.gallery.gallery import Gallery
from lookalike.search.search import RERANKINGS
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.integration.test_cli import lookalike


@pytest.fixture
def shop(tmp_path: Path) -> Gallery:
    """Eighteen drawings in three folders, noisy colors of which the labels are the order."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "shop"
    for label in "abc":
        (folder / label).mkdir(parents=True)
        base = rng.integers(0, 256, (3, 3, 3))
        for number in range(6):
            colors = np.clip(base + rng.normal(0, 150, (3, 3, 3)), 0, 255).astype(np.uint8)
            page = Image.new("RGB", (48, 48), "white")
            page.paste(Image.fromarray(colors).resize((36, 36), 0), (6, 6))
            page.save(folder / label / f"{number}.png")
    return indexed(folder)


def indexed(folder: Path) -> Gallery:
    source = open_source(folder)
    encoder = open_encoder("pixels", sample_images(source))
    gallery = Gallery.create(folder.parent / f"{folder.name}.gallery", encoder=encoder)
    gallery.sync(source)
    return gallery


def test_ways_are_read_from_a_text_or_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_variants(None) == ()
    [way] = parse_variants("foreground + expand+ reciprocal")
    assert (way.foreground, way.parts, way.rerank) == (True, False, ("aqe", "k-reciprocal"))
    assert [way.name for way in parse_variants("parts, expand,parts")] == ["parts", "aqe"]
    assert parse_variants(["parts", "aqe"]) == parse_variants("parts,aqe")
    there = importlib.util.find_spec("cv2") is not None
    every = [*CROP_STEPS, *(name for name in RERANKINGS if there or name != "geometric")]
    assert [way.name for way in parse_variants("all")] == every
    both = [way.name for way in parse_variants("multi-crop+diffuse,all")]
    assert both == ["multi-crop+diffusion", *every]
    monkeypatch.setattr(variants, "find_spec", lambda _: None)
    assert "geometric" not in [way.name for way in parse_variants("all")]
    assert parse_variants("geometric")[0].rerank == ("geometric",)
    for bad in ("parst", "multi-crop+al", "", "parts,,expand", "multi-crop+all"):
        with pytest.raises(UnknownNameError, match="way of asking"):
            parse_variants(bad)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_ways_are_judged_as_counted_by_hand(shop: Gallery, metric: str) -> None:
    n, names = 4, ["parts", "foreground", "k-reciprocal", "multi-crop+aqe"]
    found = la.evaluate(shop, k=n, metric=metric, variants=names)
    assert list(found.variants) == names
    options: dict[str, dict[str, object]] = {
        "parts": {"multi_crop": True},
        "foreground": {"foreground": True},
        "k-reciprocal": {"rerank": "k-reciprocal"},
        "multi-crop+aqe": {"multi_crop": True, "rerank": "aqe"},
        "plain": {},
    }
    precision: dict[str, float] = {}
    average: dict[str, np.ndarray] = {}
    for name, options_of in options.items():
        shares, values = [], []
        for item in shop.items():
            hits = shop.search(item, k=n, metric=metric, **options_of)  # type: ignore[arg-type]
            right = [hit.metadata["label"] == item.metadata["label"] for hit in hits]
            shares.append(sum(right) / n)
            so_far = [sum(right[: i + 1]) / (i + 1) for i in range(n) if right[i]]
            values.append(sum(so_far) / min(n, 5))
        precision[name], average[name] = float(np.mean(shares)), np.array(values)
    assert found.scores.map.value == pytest.approx(average["plain"].mean())
    assert len({values.mean() for values in average.values()}) > 2
    for name, tried in found.variants.items():
        assert tried.scores.precision.value == pytest.approx(precision[name])
        assert tried.scores.map.value == pytest.approx(average[name].mean())
        gain = (average[name] - average["plain"]).mean()
        assert tried.gain.value == pytest.approx(gain, abs=1e-12)
        assert tried.gain.interval.low <= gain <= tried.gain.interval.high
        fields = found.as_dict()["ways"][name]
        assert fields["map_gain"] == tried.gain.value
        assert fields["map_gain_interval"] == [tried.gain.interval.low, tried.gain.interval.high]
        assert fields["ms"] == tried.ms > 0
    json.dumps(found.as_dict())


def test_street_queries_are_the_same_again(shop: Gallery) -> None:
    once, relevance = make_synthetic_queries(shop, queries=7)
    again, _ = make_synthetic_queries(shop, queries=7)
    assert len(once) == 7
    for a, b in zip(once, again, strict=True):
        assert (a.id, a.uri, a.metadata) == (b.id, b.uri, b.metadata)
        np.testing.assert_array_equal(a.image(), b.image())
        np.testing.assert_array_equal(a.image(), a.image())
        right = relevance.right(a)
        assert right is not None
        assert len(right.ids) == 1
    other, _ = make_synthetic_queries(shop, queries=7, seed=2)
    assert [item.uri for item in other] != [item.uri for item in once]


def test_copies_are_right_too(shop: Gallery) -> None:
    folder = shop.path.parent / "shop"
    shutil.copy(folder / "a" / "0.png", folder / "c" / "copy.png")
    shop.sync(folder)
    source, relevance = make_synthetic_queries(shop)
    assert len(shop) == 19
    assert len(source) == 18
    answers = {item.uri.rpartition("shop/")[2]: relevance.right(item) for item in source}
    answer = answers["a/0.png"]
    assert answer is not None
    assert answer.ids == {"shop:a/0.png", "shop:c/copy.png"}
    assert answer.relevant == 2
    found = la.evaluate(shop, synthetic_queries=True)
    assert len(found.examples) == 18
    assert (found.criterion.as_dict()["by"], found.criterion.column) == ("match", "content")
    assert found.labels == ()


def test_one_image_alone_is_always_found(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40), (9, 90, 200)).save(tmp_path / "one" / f"{name}.png")
    with pytest.raises(InputError, match=r"at least 2 distinct images.*here are 1"):
        la.evaluate(indexed(tmp_path / "one"), synthetic_queries=True)


@pytest.mark.parametrize("given", [{"queries": "q"}, {"match": "label"}, {"truth": "t.csv"}])
def test_street_excludes_other_right_answers(shop: Gallery, given: dict[str, str]) -> None:
    with pytest.raises(SettingError, match="--synthetic-queries cannot be combined with"):
        la.evaluate(shop, synthetic_queries=True, **given)  # type: ignore[arg-type]


def test_the_shell_prints_ways(shop: Gallery) -> None:
    done = lookalike("evaluate", shop.path, "--synthetic-queries", "--variants", "aqe", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["relevance"]["column"] == "content"
    assert list(document["ways"]) == ["aqe"]
    assert {"map", "map_gain", "map_gain_interval", "ms"} <= set(document["ways"]["aqe"])
    grounds = str(shop.path.parent / "shop")
    done = lookalike(
        "evaluate", shop.path, "--synthetic-queries", "--backgrounds", grounds, "--variants", "aqe"
    )
    assert done.returncode == 0, done.stderr
    assert "way of asking" in done.stdout
    assert "aqe" in done.stdout
    assert "plain" in done.stdout
    done = lookalike("evaluate", shop.path, "--synthetic-queries", "--match", "label")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
